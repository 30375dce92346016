"""What `summary.json` says under `privacy`: the claim in full, per site what it is made of.

Nothing of it is new: it is put together from the history, which holds what each site told.
"""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from fedward.common.config.run import RunConfig
from fedward.common.privacy.claim import PrivacyClaim, dp_sgd_claim, update_claim
from fedward.common.privacy.targets import drowning
from fedward.common.privacy.updates import UpdateNoise
from fedward.common.study import Study
from fedward.server.history import Entry

MAX_WARNED = 10
SEEDED = (
    "The noise follows from the run's seed: whoever knows the seed can take it off again. This is "
    "a simulation; at hospitals noise comes from a cryptographic generator."
)


def privacy_summary(
    study: Study, history: Sequence[Entry], baselines: Sequence[str]
) -> dict[str, Any]:
    """Return what a private run promises at most, to whom, and what it does not cover.

    Args:
        study: the run.
        history: of the run, whole.
        baselines: that were trained as well.
    """
    config = study.config
    spent = epsilons(history)
    if config.privacy is None or config.privacy.delta is None or not spent:
        return {}
    told = [e for e in history if e.phase == "train" and e.site is not None and e.privacy]
    claim = _claim(config, max(spent.values())).to_dict()
    rounds = "all rounds of this run"
    if config.is_private and study.origin.private_runs:
        rounds += (
            f" and of those that trained its first model: {_listed(study.origin.private_runs)}"
        )
    claim["composition"] = f"adaptive, over {rounds} (Renyi differential privacy)"
    claim["not_covered"] += [*_of_first_model(study), *_not_covered(config, baselines)]
    claim["mode"] = config.privacy.mode
    claim["sites"] = {
        site: _of_site([e for e in told if e.site == site], spent)
        for site in sorted({e.site for e in told if e.site is not None})
    }
    claim["warnings"] = [*_warnings(study, told)]
    return {"privacy": claim}


def epsilons(history: Sequence[Entry]) -> dict[str | None, float]:
    """Return what each site has spent; under None what the server's noise has cost each of them."""
    return {e.site: e.epsilon for e in history if e.epsilon is not None}


def _claim(config: RunConfig, epsilon: float) -> PrivacyClaim:
    privacy, is_simulated = config.privacy, config.data.is_simulated
    assert privacy is not None
    assert privacy.delta is not None
    if privacy.protects_sites:
        is_local = privacy.mode == "local"
        return update_claim(epsilon, privacy.delta, is_local=is_local, is_reproducible=is_simulated)
    exact = privacy.figures == "exact"
    return dp_sgd_claim(epsilon, privacy.delta, is_reproducible=is_simulated, tells_exactly=exact)


def _of_first_model(study: Study) -> Iterator[str]:
    if study.config.model.init is not None and not study.origin.runs:
        yield "what the first model had learnt before: its file does not say who trained it"
    if study.origin.private_runs:
        yield (
            "patients of sites that trained in the earlier runs and not in this one: they have "
            "spent what those runs say"
        )
    if study.origin.plain_runs:
        yield (
            "what the first model had learnt before: "
            f"{_listed(study.origin.plain_runs)} trained it without differential privacy"
        )


def _listed(run_keys: Sequence[str]) -> str:
    return ", ".join(run_keys)


def _not_covered(config: RunConfig, baselines: Sequence[str]) -> Iterator[str]:
    assert config.privacy is not None
    if config.privacy.protects_sites:
        if baselines:
            yield f"the baselines {', '.join(baselines)}: they are trained without noise"
        return
    if config.data.is_simulated:
        yield (
            "other runs and repetitions on the same patients: a simulation accounts for itself "
            "alone"
        )
    else:
        yield "other runs on the same patients: each hospital counts those in a ledger of its own"
    if baselines:
        yield (
            f"the baselines {', '.join(baselines)}, which are trained on the same patients with a "
            "budget of their own"
        )


def _of_site(lines: Sequence[Entry], spent: dict[str | None, float]) -> dict[str, Any]:
    """Return what a site told last, and means over its rounds of what differs in each."""
    last = lines[-1]
    found: dict[str, Any] = {
        "rounds": len(lines),
        "epsilon": spent.get(last.site, spent.get(None)),
        **{
            name: last.privacy[name]
            for name in ("delta", "noise_multiplier", "sample_rate")
            if name in last.privacy
        },
    }
    for name in ("signal_to_noise", "clipped"):
        values = [e.privacy[name] for e in lines if name in e.privacy]
        if values:
            found[name] = fmean(values)
    return found


def _warnings(study: Study, told: Sequence[Entry]) -> Iterator[str]:
    config = study.config
    assert config.privacy is not None
    num_parameters = study.initial[0].num_trained
    if config.privacy.protects_sites:
        by_round = [e.round_number for e in told]
        num_sites = min((by_round.count(number) for number in set(by_round)), default=1)
        noise = UpdateNoise.of(config.privacy, config.rounds)
        said = noise.drowning(num_sites=num_sites, num_parameters=num_parameters)
        yield from [said] if said else []
    else:
        newest = {e.site: e for e in told}
        drowned = [
            f"{site}: {said}"
            for site, entry in newest.items()
            if (said := _drowning(config, entry, num_parameters)) is not None
        ]
        yield from drowned[:MAX_WARNED]
        if len(drowned) > MAX_WARNED:
            yield f"The same holds for {len(drowned) - MAX_WARNED} more sites."
    if config.data.is_simulated:
        yield SEEDED


def _drowning(config: RunConfig, entry: Entry, num_parameters: int) -> str | None:
    """Return the warning of a site that trains by DP-SGD; None: there is a signal to be seen."""
    local, count = config.local, entry.num_examples or 1
    steps = local.steps or (local.epochs or 0) * math.ceil(count / local.batch_size)
    return drowning(
        entry.privacy["noise_multiplier"],
        num_patients=count,
        patients_per_step=entry.privacy["sample_rate"] * count,
        num_steps=steps * config.rounds,
        num_parameters=num_parameters,
    )
