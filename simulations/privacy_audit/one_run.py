"""The one-run audit of a private run: what its updates give away of canaries, against its claim.

Coins decide which canaries are among each site's patients. The sites train as in the simulation:
the same trainer, stacked where it stacks, the same noise, for all rounds of the run. The attacker
is the server, sees every update, and sends the same model at the start of every round, which
the claim allows it: what canaries did then adds up from round to round.

What it cannot show: that a claim is true. A bound far below the claim is what a sound
implementation gives and also what a weak attack gives, which is why the same audit is held without
noise: what it finds there is the most that it could have found.

Source: Steinke, Nasr and Jagielski 2023, arXiv:2305.08846, Algorithm 1 and section 6.

Legend: M canaries.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fedward.client.report_form import PRIVACY
from fedward.client.stacked_trainer import make_trainer
from fedward.client.trainer import LocalTrainer, TrainerSettings
from fedward.common.config.run import RunConfig
from fedward.common.errors import ConfigError
from fedward.common.models import build
from fedward.common.privacy.audit import EpsilonBound, bound_from_scores
from fedward.common.privacy.checks import MIN_NOISE_MULTIPLIER
from fedward.common.randomness import numpy_generator, seed_for, seeded_global_torch
from fedward.common.records import PARAMETERS
from fedward.common.registry import did_you_mean
from fedward.common.task import SiteData, Split
from fedward.common.tasks.ehr_classification import EhrClassification
from fedward.simulations.federation import Federation
from fedward.simulations.privacy_audit.canaries import Attacked, Bools, Canaries, Floats, widened
from fedward.simulations.privacy_audit.messages import instruction_of, site_with

MAX_CANARIES, MIN_CANARIES = 1000, 20
CANARIES_TIMES_DELTA = 0.05
"""Above it, delta alone would explain most right guesses (Steinke et al. 2023, Theorem 5.2)."""
GUESSED_SHARES = (0.08, 0.2, 0.4, 0.8)
"""Of the canaries: few guesses suit much noise, many suit little."""
CONFIDENCE = 0.95
"""Of all bounds of one audit together."""


@dataclass(frozen=True)
class SiteAudit:
    """What one site's updates gave away, and what was claimed."""

    site: str
    seed: int
    bound: EpsilonBound
    claim: float
    """Epsilon of all rounds, as the site reported it."""
    num_patients: int
    """Without the canaries."""
    loudness: float
    """Length of the canaries' gradients over the bound: how far missing clipping would show."""

    @property
    def is_refuted(self) -> bool:
        """Whether more was given away than was claimed."""
        return self.bound.epsilon_low > self.claim

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {**asdict(self), "is_refuted": self.is_refuted}


def audit_run(
    federation: Federation,
    *,
    seeds: Sequence[int],
    sites: Sequence[str] | None = None,
    num_canaries: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[SiteAudit]:
    """Return the audits of the sites for each seed, of trainings of their own.

    All bounds hold together with `CONFIDENCE`.

    Args:
        federation: private.
        seeds: of training, and of the coins.
        sites: their names; None: all.
        num_canaries: M of each site; None: as delta allows.
        say: told what is done.

    Raises:
        ConfigError: the run promises nothing, is not one of tables, or cannot be audited so.
    """
    _check(federation)
    chosen = _known(federation, sites)
    count = _num_canaries(federation.config, num_canaries)
    num_audits = len(chosen) * len(seeds)
    found = []
    for seed in seeds:
        say(f"audited run of seed {seed}")
        own = replace(federation, split=Split(seed, federation.config.data.test_fraction))
        found += _audit(own, chosen, count, confidence=1 - (1 - CONFIDENCE) / num_audits)
    return found


def without_noise(federation: Federation) -> Federation:
    """Return the same run with next to no noise: what the audit finds there is its reach.

    Raises:
        ConfigError: the run promises nothing that could be audited.
    """
    config = federation.config
    _check(federation)
    assert config.privacy is not None
    privacy = config.privacy.model_copy(
        update={"epsilon": None, "noise_multiplier": MIN_NOISE_MULTIPLIER}
    )
    return replace(federation, config=config.model_copy(update={"privacy": privacy}))


def _audit(
    federation: Federation, sites: Sequence[str], num_canaries: int, *, confidence: float
) -> list[SiteAudit]:
    """Return the audits of one training."""
    privacy = federation.config.privacy
    assert privacy is not None
    assert privacy.delta is not None
    assert privacy.max_grad_norm is not None
    attacked = _attacked(federation, num_canaries)
    data = {name: _data(federation, name) for name in sites}
    canaries = Canaries.of(
        attacked,
        data[sites[0]].train.all_rows(),
        num_canaries=num_canaries,
        max_norm=privacy.max_grad_norm,
    )
    coins = {name: _coins(federation.seed, name, num_canaries) for name in sites}
    members = {
        name: SiteData(canaries.added_to(own.train, coins[name]), own.test)
        for name, own in data.items()
    }
    score, claim = _train(federation, attacked, canaries, members)
    return [
        SiteAudit(
            name,
            federation.seed,
            best_bound(score[name], coins[name], delta=privacy.delta, confidence=confidence),
            claim[name],
            len(data[name].train),
            canaries.loudness,
        )
        for name in sites
    ]


def _train(
    federation: Federation, attacked: Attacked, canaries: Canaries, data: Mapping[str, SiteData]
) -> tuple[dict[str, Floats], dict[str, float]]:
    """Return the canaries' scores over all rounds, and what each site says it spent."""
    shared, config = attacked.shared, federation.config
    sites = [site_with(name, own) for name, own in data.items()]
    make = make_trainer if config.engine.vectorised == "auto" else LocalTrainer
    start = shared.flatten(attacked.model.state_dict())
    trainer = make(federation.task, attacked.model, shared, TrainerSettings.of(federation))
    moved, claim = {name: np.zeros(shared.size) for name in data}, dict.fromkeys(data, 0.0)
    for number in range(1, config.rounds + 1):
        jobs = [(site, instruction_of(federation, shared, start, number=number)) for site in sites]
        trainer.prefill(jobs)
        for site, instruction in jobs:
            update = trainer.train(site, instruction)
            moved[site.site_id] += start.astype(np.float64) - update.vectors[PARAMETERS]
            claim[site.site_id] = float(update.report[PRIVACY]["epsilon"])
    return {name: canaries.scores(moved_P) for name, moved_P in moved.items()}, claim


def best_bound(score_M: Floats, is_in_M: Bools, *, delta: float, confidence: float) -> EpsilonBound:
    """Return the largest bound over `GUESSED_SHARES`, each held at a confidence that allows it."""
    each = 1 - (1 - confidence) / len(GUESSED_SHARES)
    bounds = [
        bound_from_scores(
            score_M,
            is_in_M,
            num_guesses=max(2, 2 * round(share * len(score_M) / 2)),
            delta=delta,
            confidence=each,
        )
        for share in GUESSED_SHARES
    ]
    best = max(bounds, key=lambda bound: bound.epsilon_low)
    return replace(best, confidence=confidence)


def _attacked(federation: Federation, num_canaries: int) -> Attacked:
    """Return the run's kind of network with a column per canary, initialised as the run's is."""
    task, own = federation.task, federation.config.model
    assert isinstance(task, EhrClassification), "the caller has checked it"
    with seeded_global_torch(seed_for(federation.seed, purpose="model")):
        layout = widened(task.layout, num_canaries)
        model = build(own.name, layout, task.schema.num_classes, own.own, own_models=True)
    return Attacked(model, task.training_loss(model, None), federation.shared_of(model))


def _data(federation: Federation, name: str) -> SiteData:
    return federation.task.datasets(federation.sites.source(name), federation.split, None)


def _coins(seed: int, site: str, num_canaries: int) -> Bools:
    rng = numpy_generator(seed, purpose="canary-coins", site=site)
    return rng.random(num_canaries) < 0.5


def _known(federation: Federation, sites: Sequence[str] | None) -> list[str]:
    known = federation.sites.site_ids
    for name in sites or ():
        if name not in known:
            raise ConfigError(f"--site: no site {name!r}{did_you_mean(name, known)}")
    return sorted(sites or known)


def _check(federation: Federation) -> None:
    config = federation.config
    if not config.is_private:
        raise ConfigError(
            "privacy.mode: this run promises nothing that could be audited; set dp-sgd, or try "
            "private_heart"
        )
    if not isinstance(federation.task, EhrClassification):
        raise ConfigError(
            f"task: {config.task}: canaries are columns of a table; audit a run of tables"
        )


def _num_canaries(config: RunConfig, asked: int | None) -> int:
    assert config.privacy is not None
    assert config.privacy.delta is not None
    most = int(CANARIES_TIMES_DELTA / config.privacy.delta)
    if most < MIN_CANARIES:
        raise ConfigError(
            f"privacy.delta: {config.privacy.delta:g} is too large for an audit, as it would "
            f"explain what {MIN_CANARIES} canaries show; at most "
            f"{CANARIES_TIMES_DELTA / MIN_CANARIES:g}"
        )
    if asked is None:
        return min(MAX_CANARIES, most)
    if not MIN_CANARIES <= asked <= most:
        raise ConfigError(f"--canaries: given {asked}, expected {MIN_CANARIES} to {most}")
    return asked
