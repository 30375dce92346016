"""A small tabular diffusion model, after TabDDPM's paper; ours, and not its code.

Numbers are normal scores; categories, and whether a cell is missing, are multinomial. One network
serves all classes. Kotelnikov et al. 2023, arXiv:2209.15421, tune steps, width and rate for each
data set with hundreds of runs on a GPU; the defaults here are what a CPU does in a minute, so a
comparison says nothing about the paper's own results.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fedward.common.errors import ConfigError
from fedward.common.randomness import seeded_global_torch
from fedward.common.tables.schema import TableSchema
from fedward.synth.tables.base import Synthesiser
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.diffusion_net import Denoiser
from fedward.synth.tables.diffusion_steps import (
    Schedule,
    cosine_schedule,
    denoised_numbers,
    divergence,
    draw_codes,
    noised_codes,
    noised_numbers,
    one_hot,
    places,
    posterior,
)
from fedward.synth.tables.encoder import Form, Missing
from fedward.synth.tables.rows import Candidates, Ints, Rows
from fedward.synth.tables.sampling import Shortfall


class TabularDiffusion(Synthesiser):
    """Learns to take noise off rows, and makes rows from noise.

    Privacy: none is promised. A network that is trained for long remembers rows; its file is
    treated as one that contains patients.

    Args:
        columns: see `Synthesiser`, as for all that is not named here.
        num_steps: of the diffusion, 2 or more.
        num_updates: of the network.
        batch_size: rows per update.
        learning_rate: of AdamW at the start; it falls to 0 along a line.
        hidden: widths of the network's layers.
        missing: `keep` generates missing cells; `median` fills them before learning.
    """

    holds_patients: ClassVar[bool] = True
    block_rows: ClassVar[int] = 2048

    def __init__(  # noqa: PLR0913 - parameters, as scikit-learn wants them
        self,
        columns: Columns | TableSchema | None = None,
        *,
        num_steps: int = 100,
        num_updates: int = 3000,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        hidden: tuple[int, ...] = (256, 256),
        missing: Missing = "keep",
        min_class_size: int = 20,
        max_candidates: int | None = None,
        on_shortfall: Shortfall = "raise",
        seed: int = 0,
    ) -> None:
        self.columns = columns
        self.num_steps = num_steps
        self.num_updates = num_updates
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.hidden = hidden
        self.missing = missing
        self.min_class_size = min_class_size
        self.max_candidates = max_candidates
        self.on_shortfall = on_shortfall
        self.seed = seed

    @property
    def form(self) -> Form:
        """How tables are encoded."""
        return Form(transform="quantile", missing=self.missing)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        fewest = {"num_steps": 2, "num_updates": 1, "batch_size": 1}
        for name, least in fewest.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: given {getattr(self, name)}, expected {least} or more")
        if not 0 < self.learning_rate < 1 or not self.hidden or min(self.hidden) < 1:
            raise ConfigError("learning_rate: expected 0 to 1; hidden: expected widths")

    def _fit_rows(self, rows: Rows, code_N: Ints, rng: np.random.Generator) -> None:
        self.gaps_: Ints = np.flatnonzero(rows.absent_NM.any(axis=0))
        """Columns that are missing somewhere: each has a group of its own."""
        network = self._new_network(int(rng.integers(2**63 - 1)))
        values_NF, group_NG = self._as_tensors(rows)
        generator = torch.Generator().manual_seed(int(rng.integers(2**63 - 1)))
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate)
        falling = torch.optim.lr_scheduler.LinearLR(
            optimizer, 1.0, 0.0, total_iters=self.num_updates
        )
        class_N = torch.from_numpy(code_N)
        for _ in range(self.num_updates):
            chosen = torch.randint(len(class_N), (self.batch_size,), generator=generator)
            loss = self._loss(
                network, values_NF[chosen], group_NG[chosen], class_N[chosen], generator
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
        self.network_ = network.eval()

    def _draw(self, code: int, size: int, rng: np.random.Generator) -> Candidates:
        generator = torch.Generator().manual_seed(int(rng.integers(2**63 - 1)))
        with torch.no_grad():
            values_NF, group_NG = self._reversed(code, size, generator)
        num_categories = len(self.columns_.categorical)
        absent_NM = np.zeros((size, len(self.columns_)), dtype=bool)
        absent_NM[:, self.gaps_] = group_NG[:, num_categories:].numpy() == 1
        num_values = values_NF.shape[1]
        values = np.where(absent_NM[:, :num_values], 0.0, values_NF.double().numpy())
        codes = np.where(absent_NM[:, num_values:], 0, group_NG[:, :num_categories].numpy())
        return Candidates(Rows(values, codes, absent_NM))

    def _loss(
        self,
        network: Denoiser,
        values_BF: Tensor,
        group_BG: Tensor,
        class_B: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the mean of the Gaussian and the multinomial loss (TabDDPM, section 4)."""
        schedule, valid_GK = self._schedule, self._valid_GK
        step_B = torch.randint(schedule.num_steps, (len(class_B),), generator=generator)
        kept_B = schedule.kept_T[step_B]
        noise_BF = torch.randn(values_BF.shape, generator=generator)
        noisy_BF = noised_numbers(values_BF, noise_BF, kept_B)
        clean_BGK = one_hot(group_BG, valid_GK.shape[1])
        hot_BGK = one_hot(noised_codes(clean_BGK, valid_GK, kept_B, generator), valid_GK.shape[1])
        predicted_BF, chance_BGK = self._predicted(network, noisy_BF, hot_BGK, step_B, class_B)
        loss = torch.zeros(())
        if values_BF.shape[1]:
            loss = loss + (predicted_BF - noise_BF).square().mean()
        if len(valid_GK):
            true = posterior(clean_BGK, hot_BGK, step_B, valid_GK, schedule)
            found = posterior(chance_BGK, hot_BGK, step_B, valid_GK, schedule)
            loss = loss + divergence(true, found).mean()
        return loss

    def _reversed(self, code: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return (N, F) numbers and (N, G) codes, from noise to rows."""
        schedule, valid_GK = self._schedule, self._valid_GK
        class_N = torch.full((size,), code)
        values_NF = torch.randn(size, len(self.columns_.continuous), generator=generator)
        start_NGK = valid_GK.expand(size, *valid_GK.shape)
        group_NG = draw_codes(start_NGK, generator)
        for step in reversed(range(schedule.num_steps)):
            step_N = torch.full((size,), step)
            hot_NGK = one_hot(group_NG, valid_GK.shape[1])
            noise_NF, chance_NGK = self._predicted(
                self.network_, values_NF, hot_NGK, step_N, class_N
            )
            fresh_NF = torch.randn(values_NF.shape, generator=generator)
            values_NF = denoised_numbers(values_NF, noise_NF, fresh_NF, step, schedule)
            chance_NGK = posterior(chance_NGK, hot_NGK, step_N, valid_GK, schedule)
            group_NG = draw_codes(chance_NGK, generator)
        return values_NF, group_NG

    def _predicted(
        self, network: Denoiser, values_NF: Tensor, hot_NGK: Tensor, step_N: Tensor, class_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the noise in the numbers, and the probabilities of the clean categories."""
        is_place_GK = self._valid_GK.bool()
        flat_ND = torch.cat([values_NF, hot_NGK[:, is_place_GK]], dim=1)
        out_ND = network(flat_ND, step_N, class_N)
        num_values = values_NF.shape[1]
        logits_NGK = torch.full(hot_NGK.shape, -torch.inf)
        logits_NGK[:, is_place_GK] = out_ND[:, num_values:]
        return out_ND[:, :num_values], logits_NGK.softmax(-1)

    @property
    def _schedule(self) -> Schedule:
        return cosine_schedule(self.num_steps)

    @property
    def _valid_GK(self) -> Tensor:
        """(G, K): a group per column of categories, then one per column with gaps."""
        sizes = [len(column.categories) for column in self.columns_.categorical]
        return places((*sizes, *[2] * len(self.gaps_)))

    def _new_network(self, seed: int) -> Denoiser:
        num_inputs = len(self.columns_.continuous) + int(self._valid_GK.sum())
        with seeded_global_torch(seed):
            return Denoiser(num_inputs, len(self.class_sizes_), tuple(self.hidden))

    def _as_tensors(self, rows: Rows) -> tuple[Tensor, Tensor]:
        flags_NG = rows.absent_NM[:, self.gaps_].astype(np.int64)
        group_NG = np.concatenate([rows.codes_NC, flags_NG], axis=1)
        return torch.from_numpy(rows.values_NF).float(), torch.from_numpy(group_NG)

    def _state(self) -> dict[str, Any]:
        state = super()._state()
        weights = state.pop("network_").state_dict()
        return {**state, "weights_": {name: one.numpy() for name, one in weights.items()}}

    def _restore(self, state: Any) -> None:
        kept = dict(state)
        weights = kept.pop("weights_")
        super()._restore(kept)
        self.network_ = self._new_network(0).eval()
        self.network_.load_state_dict(
            {name: torch.from_numpy(np.array(one)) for name, one in weights.items()}
        )
