"""Whole private runs: what they spend, what they tell, and where they stop."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedward.common.config.loader import load_run_config
from fedward.common.errors import ConfigError, QuorumLostError
from fedward.common.privacy.accounting import Segment, epsilon_of
from fedward.server.history import read_history
from fedward.simulations.cli import find_config
from fedward.simulations.simulate import Run, simulate

QUICKSTART = find_config("quickstart")
FAST = ["engine.name=inprocess", "baselines=[]", "repeat=null", "rounds=4"]
PRIVATE = [
    "privacy.mode=dp-sgd",
    "privacy.epsilon=6",
    "privacy.delta=0.001",
    "privacy.max_grad_norm=1.0",
    "data.statistics=schema",
]


def run(out: Path, *overrides: str, **keys: Any) -> Run:
    config = load_run_config(QUICKSTART, [*FAST, *overrides]).config
    return simulate(config, base_dir=QUICKSTART.parent, out=out, **{"report": False, **keys})


def lines(finished: Run) -> list[dict[str, Any]]:
    return read_history(finished.folder / "history.jsonl")


def weights(finished: Run) -> dict[str, Any]:
    return load_file(finished.folder / "model.safetensors")


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("private"), *PRIVATE)


def test_every_site_tells_what_it_has_spent_in_every_round(private: Run) -> None:
    for site, found in private.summary["sites"].items():
        told = [
            one["epsilon"] for one in lines(private) if one["site"] == site and "epsilon" in one
        ]
        assert len(told) == 4
        assert told == sorted(told)
        assert len(set(told)) == 4
        assert found["epsilon"] == told[-1]
        assert found["delta"] == 0.001
        # All of the budget is planned for, and none is passed: noise has four digits.
        assert 6 * 0.99 < told[-1] <= 6


def test_what_is_spent_is_that_of_all_steps_since_the_first(private: Run) -> None:
    """A fresh account per round, the usual fault, would tell the first round's epsilon again."""
    config = load_run_config(QUICKSTART, [*FAST, *PRIVATE]).config
    for site, found in private.summary["sites"].items():
        num_patients, batch = found["num_examples"]["train"], config.local.batch_size
        steps = -(-num_patients // batch) * (config.local.epochs or 1)
        told = [
            one["epsilon"] for one in lines(private) if one["site"] == site and "epsilon" in one
        ]
        noise = _noise_that_gives(told[0], batch / num_patients, steps)
        for number, epsilon in enumerate(told, start=1):
            history = [Segment(noise, batch / num_patients, number * steps)]
            assert epsilon == pytest.approx(epsilon_of(history, 0.001), rel=1e-3)


def _noise_that_gives(epsilon: float, rate: float, steps: int) -> float:
    low, high = 0.3, 50.0
    for _ in range(40):
        middle = (low + high) / 2
        too_much = epsilon_of([Segment(middle, rate, steps)], 0.001) > epsilon
        low, high = (middle, high) if too_much else (low, middle)
    return high


def test_the_loss_of_training_patients_is_told_nowhere(private: Run, tmp_path: Path) -> None:
    assert not any("train_loss" in one.get("metrics", {}) for one in lines(private))
    plain = run(tmp_path, "data.statistics=schema")
    assert any("train_loss" in one.get("metrics", {}) for one in lines(plain))
    assert all(found["epsilon"] is None for found in plain.summary["sites"].values())
    assert "privacy" not in plain.summary


def test_the_claim_says_what_it_is_about_and_that_the_noise_has_a_seed(private: Run) -> None:
    claim = private.summary["privacy"]
    spent = [found["epsilon"] for found in private.summary["sites"].values()]
    assert claim["epsilon"] == max(spent)
    assert claim["unit"].startswith("patient")
    assert claim["is_reproducible"] is True
    assert any("test patients" in text for text in claim["not_covered"])


def test_hospitals_still_learn_more_than_chance(private: Run) -> None:
    assert private.summary["global"]["metrics"]["auroc"]["low"] > 0.6, "0.5 is chance"


def test_stacked_and_one_by_one_agree(private: Run, tmp_path: Path) -> None:
    alone = run(tmp_path, *PRIVATE, "engine.vectorised=off")
    for name, tensor in weights(private).items():
        np.testing.assert_allclose(tensor, weights(alone)[name], atol=1e-4)
    told = [one.get("epsilon") for one in lines(private)]
    assert told == [one.get("epsilon") for one in lines(alone)]


def test_a_resumed_run_equals_an_uninterrupted_one_and_has_spent_as_much(
    private: Run, tmp_path: Path
) -> None:
    # The noise is planned for 4 rounds, so the run is not shortened: it lost its last round.
    cut = run(tmp_path, *PRIVATE)
    newest = max((cut.folder / "checkpoints").iterdir())
    assert newest.name == "round-00004.safetensors"
    newest.unlink()
    (cut.folder / "model.safetensors").unlink()
    resumed = run(tmp_path, *PRIVATE, resume=cut.folder)
    for name, tensor in weights(private).items():
        assert tensor.tobytes() == weights(resumed)[name].tobytes()
    told = {site: found["epsilon"] for site, found in private.summary["sites"].items()}
    assert told == {site: found["epsilon"] for site, found in resumed.summary["sites"].items()}


def test_a_run_that_is_resumed_for_more_rounds_is_refused_by_every_site(tmp_path: Path) -> None:
    finished = run(tmp_path, *PRIVATE, "rounds=2", "sampling.max_skipped_rounds=0")
    with pytest.raises(QuorumLostError, match=r"above privacy\.epsilon 6"):
        run(tmp_path, *PRIVATE, "sampling.max_skipped_rounds=0", "rounds=3", resume=finished.folder)


def test_with_the_noise_given_epsilon_follows_and_nothing_is_refused(tmp_path: Path) -> None:
    given = [one for one in PRIVATE if "epsilon" not in one]
    finished = run(tmp_path, *given, "privacy.noise_multiplier=2.0", "rounds=2")
    for site, found in finished.summary["sites"].items():
        rate = 16 / found["num_examples"]["train"]
        steps = -(-found["num_examples"]["train"] // 16)
        expected = epsilon_of([Segment(2.0, rate, 2 * steps)], 0.001)
        assert found["epsilon"] == pytest.approx(expected), site


def test_a_delta_that_would_publish_a_patient_is_refused(tmp_path: Path) -> None:
    loose = [one for one in PRIVATE if "delta" not in one]
    with pytest.raises((ConfigError, QuorumLostError), match="one over the"):
        run(tmp_path, *loose, "privacy.delta=0.05", "sampling.max_skipped_rounds=0")


def test_noised_figures_are_paid_for_out_of_the_same_budget(tmp_path: Path) -> None:
    noised = run(tmp_path, *PRIVATE, "privacy.figures=noised", "privacy.figures_noise=6")
    assert not any("eval_loss" in one.get("metrics", {}) for one in lines(noised))
    assert noised.summary["global"]["metrics"]["auroc"]["value"] is not None
    exact = run(tmp_path / "exact", *PRIVATE, "evaluate_every=4")
    for site, found in noised.summary["sites"].items():
        assert 6 * 0.99 < found["epsilon"] <= 6
        assert "calibration" not in found, "an exact figure"
        told = {
            name: [one for one in lines(which) if one["site"] == site and one["phase"] == "train"]
            for name, which in (("noised", noised), ("exact", exact))
        }
        noise = {name: rounds[0]["privacy"]["noise_multiplier"] for name, rounds in told.items()}
        assert noise["noised"] > noise["exact"], "figures cost, so that training has less"
    seldom = run(
        tmp_path / "seldom",
        *PRIVATE,
        *("privacy.figures=noised", "privacy.figures_noise=6", "evaluate_every=4"),
    )
    first, often = (
        next(one for one in lines(which) if one["phase"] == "train" and one["site"])
        for which in (seldom, noised)
    )
    assert first["privacy"]["noise_multiplier"] < often["privacy"]["noise_multiplier"]


def test_figures_that_cost_more_than_the_budget_are_refused(tmp_path: Path) -> None:
    with pytest.raises((ConfigError, QuorumLostError), match="the figures alone cost more"):
        run(
            tmp_path,
            *PRIVATE,
            *("privacy.figures=noised", "privacy.figures_noise=0.4"),
            "sampling.max_skipped_rounds=0",
        )


def test_a_run_may_tell_nothing_of_test_patients(tmp_path: Path) -> None:
    silent = run(tmp_path, *PRIVATE, "privacy.figures=none", "rounds=1")
    assert not any("test patients" in text for text in silent.summary["privacy"]["not_covered"])
    assert silent.summary["global"]["metrics"] == {}
    evaluated = [one for one in lines(silent) if one["phase"] == "evaluate"]
    assert evaluated
    assert not any(one.get("metrics") for one in evaluated)
