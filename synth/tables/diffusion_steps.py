"""The two diffusions of a mixed table: Gaussian for numbers, multinomial for categories.

Shapes: N rows, F numbers, G groups of categories padded to K places, T steps. Steps count from 0
(least noise) to T - 1.

Source: Ho, Jain and Abbeel 2020, arXiv:2006.11239 (Gaussian); Hoogeboom et al. 2021,
arXiv:2102.05379 (multinomial); the schedule is the cosine of Nichol and Dhariwal 2021,
arXiv:2102.09672, eq. 17; together as in Kotelnikov et al. 2023, arXiv:2209.15421 (TabDDPM).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

MAX_BETA = 0.999
CLIPPED = 4.0
"""Largest denoised number, in normal scores: 1,000 rows reach 3.3."""
TINY = 1e-30


@dataclass(frozen=True)
class Schedule:
    """How much of a row is left after each step."""

    alpha_T: Tensor
    """(T,) share of the signal that step t keeps of step t - 1."""
    kept_T: Tensor
    """(T,) share of the signal that is left after step t."""

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.alpha_T)

    def before(self, step_N: Tensor) -> Tensor:
        """Return (N,) the share that is left before step t; 1 before the first."""
        return torch.where(step_N > 0, self.kept_T[(step_N - 1).clamp(min=0)], 1.0)


@lru_cache(maxsize=8)
def cosine_schedule(num_steps: int) -> Schedule:
    """Return the schedule of `num_steps` steps."""
    at = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    left = torch.cos((at + 0.008) / 1.008 * math.pi / 2) ** 2
    alpha_T = (left[1:] / left[:-1]).clamp(min=1 - MAX_BETA)
    return Schedule(alpha_T.float(), torch.cumprod(alpha_T, 0).float())


@lru_cache(maxsize=8)
def places(sizes: tuple[int, ...]) -> Tensor:
    """Return (G, K) 1 where a group of that many categories has one, 0 where it is padded."""
    at = torch.arange(max(sizes, default=1))
    return (at[None, :] < torch.tensor(sizes, dtype=torch.int64)[:, None]).float()


def noised_numbers(values_NF: Tensor, noise_NF: Tensor, kept_N: Tensor) -> Tensor:
    """Return (N, F) numbers of which the share `kept_N` is left (Ho et al., eq. 4)."""
    return kept_N.sqrt()[:, None] * values_NF + (1 - kept_N).sqrt()[:, None] * noise_NF


def denoised_numbers(
    values_NF: Tensor, predicted_NF: Tensor, fresh_NF: Tensor, step: int, schedule: Schedule
) -> Tensor:
    """Return (N, F) numbers one step earlier (Ho et al., eq. 6 and 7; x0 is clipped).

    Args:
        values_NF: at `step`.
        predicted_NF: the noise in them, as the network sees it.
        fresh_NF: standard normal.
        step: from T - 1 down to 0.
        schedule: of the steps.
    """
    alpha, kept = schedule.alpha_T[step], schedule.kept_T[step]
    before = schedule.before(torch.tensor(step))
    clean_NF = (values_NF - (1 - kept).sqrt() * predicted_NF) / kept.sqrt()
    clean_NF = clean_NF.clamp(-CLIPPED, CLIPPED)
    mean_NF = (before.sqrt() * (1 - alpha) * clean_NF + alpha.sqrt() * (1 - before) * values_NF) / (
        1 - kept
    )
    variance = (1 - before) / (1 - kept) * (1 - alpha)
    return mean_NF + variance.sqrt() * fresh_NF


def noised_codes(
    hot_NGK: Tensor, valid_GK: Tensor, kept_N: Tensor, generator: torch.Generator
) -> Tensor:
    """Return (N, G) codes of which the share `kept_N` is left (Hoogeboom et al., eq. 12).

    Args:
        hot_NGK: one-hot categories.
        valid_GK: 1 where a group has a category at that place.
        kept_N: (N,).
        generator: of the draws.
    """
    return draw_codes(_mixed(hot_NGK, valid_GK, kept_N), generator)


def posterior(
    clean_NGK: Tensor, hot_NGK: Tensor, step_N: Tensor, valid_GK: Tensor, schedule: Schedule
) -> Tensor:
    """Return (N, G, K) probabilities of the categories one step earlier (eq. 13).

    Args:
        clean_NGK: probabilities of the categories without noise.
        hot_NGK: one-hot categories at step t.
        step_N: (N,) t.
        valid_GK: see `noised_codes`.
        schedule: of the steps.
    """
    towards = _mixed(hot_NGK, valid_GK, schedule.alpha_T[step_N])
    away = _mixed(clean_NGK, valid_GK, schedule.before(step_N))
    joint = towards * away * valid_GK
    return joint / joint.sum(-1, keepdim=True).clamp(min=TINY)


def divergence(true_NGK: Tensor, predicted_NGK: Tensor) -> Tensor:
    """Return (N,) Kullback-Leibler divergence of each row, the mean over its groups."""
    parts = true_NGK * (true_NGK.clamp(min=TINY).log() - predicted_NGK.clamp(min=TINY).log())
    return parts.sum(-1).mean(-1)


def draw_codes(chance_NGK: Tensor, generator: torch.Generator) -> Tensor:
    """Return (N, G) codes drawn with the given probabilities."""
    n, groups, places = chance_NGK.shape
    if groups == 0:
        return torch.zeros(n, 0, dtype=torch.int64)
    flat = chance_NGK.reshape(n * groups, places)
    return torch.multinomial(flat, 1, generator=generator).reshape(n, groups)


def one_hot(code_NG: Tensor, num_places: int) -> Tensor:
    """Return (N, G, K) float."""
    return functional.one_hot(code_NG, num_places).float()


def _mixed(chance_NGK: Tensor, valid_GK: Tensor, kept_N: Tensor) -> Tensor:
    """Return the probabilities of which `kept_N` is left, and the rest is any category."""
    uniform_GK = valid_GK / valid_GK.sum(-1, keepdim=True).clamp(min=1)
    kept = kept_N[:, None, None]
    return kept * chance_NGK + (1 - kept) * uniform_GK
