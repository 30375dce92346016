"""Runs that start from another run's model: the second goes on from what the first has spent."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from fedward.client.privacy.account import SeededAccount
from fedward.client.site import Site
from fedward.client.store import SiteStore
from fedward.common.config.loader import load_run_config
from fedward.common.errors import ConfigError
from fedward.common.origin import Origin, TrainedIn
from fedward.common.privacy.accounting import Segment, epsilon_of
from fedward.common.records import Binding, Instruction
from fedward.server.history import read_history
from fedward.simulations.cli import find_config
from fedward.simulations.simulate import Run, simulate

QUICKSTART = find_config("quickstart")
FAST = (
    "engine.name=inprocess",
    "baselines=[]",
    "repeat=null",
    "rounds=2",
    "data.statistics=schema",
)
PRIVATE = ("privacy.mode=dp-sgd", "privacy.delta=0.001", "privacy.max_grad_norm=1.0")
SITES = 5


def run(out: Path, *changes: str, after: Run | None = None, **keys: Any) -> Run:
    start = () if after is None else (f"model.init={after.folder / 'model.safetensors'}",)
    config = load_run_config(QUICKSTART, [*FAST, *start, *changes]).config
    return simulate(config, base_dir=QUICKSTART.parent, out=out, **{"report": False, **keys})


def spent(finished: Run) -> dict[str, float]:
    return {site: found["epsilon"] for site, found in finished.summary["sites"].items()}


def segments(finished: Run, site: str) -> list[Segment]:
    """Return what a site's rounds cost, from the noise that it told and its own size."""
    config = load_run_config(finished.folder / "config.yaml").config
    size = finished.summary["sites"][site]["num_examples"]["train"]
    steps = -(-size // config.local.batch_size) * (config.local.epochs or 1)
    told = [
        line["privacy"]
        for line in read_history(finished.folder / "history.jsonl")
        if line["site"] == site and line["phase"] == "train"
    ]
    return [Segment(one["noise_multiplier"], one["sample_rate"], steps) for one in told]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("first"), *PRIVATE, "privacy.epsilon=3", "name=first")


def test_the_second_stage_goes_on_from_what_the_first_has_spent(first: Run, tmp_path: Path) -> None:
    second = run(tmp_path, *PRIVATE, "privacy.epsilon=6", "name=second", after=first)
    alone = run(tmp_path / "alone", *PRIVATE, "privacy.epsilon=6", "name=alone")
    assert len(spent(second)) == SITES
    for site, epsilon in spent(second).items():
        own = segments(second, site)
        assert epsilon == pytest.approx(epsilon_of([*segments(first, site), *own], 1e-3))
        assert 5.9 < epsilon <= 6, "the budget is that of both"
        more = segments(alone, site)[0].noise_multiplier
        assert own[0].noise_multiplier > more, "less is left for the second"
    claim = second.summary["privacy"]
    assert claim["epsilon"] == max(spent(second).values())
    assert "first-federated-seed23" in claim["composition"]
    third = run(tmp_path, *PRIVATE, "privacy.epsilon=8", "name=third", after=second, report=True)
    for site, epsilon in spent(third).items():
        all_three = [s for one in (first, second, third) for s in segments(one, site)]
        assert epsilon == pytest.approx(epsilon_of(all_three, 1e-3))
    assert third.summary["goes_on_from"] == ["first-federated-seed23", "second-federated-seed23"]
    assert "Goes on from: first-federated-seed23" in (third.folder / "model_card.md").read_text()
    origin = Origin.of_file(third.folder / "model.safetensors")
    keys = [f"{name}-federated-seed23" for name in ("first", "second", "third")]
    assert origin == Origin(tuple(TrainedIn(key, "dp-sgd") for key in keys))


@pytest.mark.slow
def test_a_second_stage_with_its_noise_given_tells_what_both_have_spent(
    first: Run, tmp_path: Path
) -> None:
    second = run(tmp_path, *PRIVATE, "privacy.noise_multiplier=3", after=first)
    for site, epsilon in spent(second).items():
        own = segments(second, site)
        assert own[0].noise_multiplier == 3
        assert epsilon == pytest.approx(epsilon_of([*segments(first, site), *own], 1e-3))


@pytest.mark.slow
def test_a_second_stage_that_is_resumed_counts_the_first_once(first: Run, tmp_path: Path) -> None:
    keys = (*PRIVATE, "privacy.epsilon=6", "rounds=3")
    whole = run(tmp_path / "whole", *keys, after=first)
    cut = run(tmp_path / "cut", *keys, after=first)
    max((cut.folder / "checkpoints").iterdir()).unlink()
    resumed = run(tmp_path / "cut", *keys, after=first, resume=cut.folder)
    assert spent(resumed) == spent(whole)


@pytest.mark.slow
def test_baselines_go_on_too(first: Run, tmp_path: Path) -> None:
    changes = ("privacy.epsilon=6", "baselines=[local, pooled]")
    second = run(tmp_path, *PRIVATE, *changes, after=first)
    assert set(second.summary["baselines"]) == {"local", "pooled"}


def test_a_budget_that_the_first_stage_has_spent_is_told_with_how_much(
    first: Run, tmp_path: Path
) -> None:
    with pytest.raises(Exception, match=r"have spent (2\.9\d|3)"):
        run(tmp_path, *PRIVATE, "privacy.epsilon=2", "sampling.max_skipped_rounds=0", after=first)


def test_without_the_books_of_the_first_stage_nothing_is_trained(
    first: Run, tmp_path: Path
) -> None:
    moved = tmp_path / "moved.safetensors"
    shutil.copy(first.folder / "model.safetensors", moved)
    with pytest.raises(ConfigError, match="what its patients have spent is not known"):
        run(tmp_path, *PRIVATE, "privacy.epsilon=6", f"model.init={moved}")
    run(tmp_path, f"model.init={moved}", "rounds=1")  # nobody is promised anything


@pytest.mark.parametrize("mode", ["central", "local"])
def test_stages_whose_prices_do_not_add_up_are_refused(
    first: Run, tmp_path: Path, mode: str
) -> None:
    hides_sites = (
        f"privacy.mode={mode}", "privacy.unit=site", "privacy.delta=0.001",
        "privacy.max_update_norm=1.0", "privacy.epsilon=6", "monitor.influence=false",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"under privacy\.mode: dp-sgd, whose"):
        run(tmp_path, *hides_sites, after=first)
    before = run(tmp_path, *hides_sites, "rounds=1")
    if mode == "central":
        with pytest.raises(ConfigError, match=r"under privacy\.mode: central, whose"):
            run(tmp_path, *PRIVATE, "privacy.epsilon=9", after=before)
        return
    second = run(tmp_path, *PRIVATE, "privacy.epsilon=9", after=before)
    assert all(6 < epsilon <= 9 for epsilon in spent(second).values())


@pytest.mark.slow
def test_a_first_stage_without_a_promise_is_named(tmp_path: Path) -> None:
    plain = run(tmp_path, "name=plain", "rounds=1")
    second = run(tmp_path, *PRIVATE, "privacy.epsilon=3", after=plain)
    not_covered = second.summary["privacy"]["not_covered"]
    assert any("plain-federated-seed23 trained it without" in text for text in not_covered)
    assert all(epsilon <= 3 for epsilon in spent(second).values())


def test_what_is_written_of_a_file_must_be_what_it_says_itself(first: Run, tmp_path: Path) -> None:
    changes = ("privacy.epsilon=6", "model.trained_in=[[somebody, dp-sgd]]")
    with pytest.raises(ConfigError, match=r"by its header .* was trained in first-federated"):
        run(tmp_path, *PRIVATE, *changes, after=first)


@pytest.mark.slow
def test_a_file_without_a_header_is_named_or_its_runs_are_written_by_hand(
    first: Run, tmp_path: Path
) -> None:
    model = first.folder / "model.safetensors"
    whole = model.read_bytes()
    try:
        save_file(load_file(model), model)
        unknown = run(tmp_path, *PRIVATE, "privacy.epsilon=6", after=first)
        not_covered = unknown.summary["privacy"]["not_covered"]
        assert any("does not say who trained it" in text for text in not_covered)
        by_hand = "model.trained_in=[[first-federated-seed23, dp-sgd]]"
        second = run(tmp_path, *PRIVATE, "privacy.epsilon=6", by_hand, after=first)
        for site, epsilon in spent(second).items():
            both = [*segments(first, site), *segments(second, site)]
            assert epsilon == pytest.approx(epsilon_of(both, 1e-3))
    finally:
        model.write_bytes(whole)


def test_a_site_that_sat_out_the_second_run_still_owes_the_first(
    first: Run, tmp_path: Path
) -> None:
    some = ("sampling.num_sites=2", "sampling.min_replies=2", "rounds=1", "name=second")
    noise = "privacy.noise_multiplier=3"
    second = run(tmp_path, *PRIVATE, noise, *some, after=first)
    third = run(tmp_path, *PRIVATE, noise, "name=third", after=second)
    sat_out = [site for site in spent(third) if not segments(second, site)]
    assert len(sat_out) == 3
    for site, epsilon in spent(third).items():
        all_three = [s for one in (first, second, third) for s in segments(one, site)]
        assert epsilon == pytest.approx(epsilon_of(all_three, 1e-3)), site


@pytest.mark.slow
def test_where_another_seed_deals_patients_anew_each_site_owes_the_most(
    first: Run, tmp_path: Path
) -> None:
    noise = ("privacy.noise_multiplier=3", "seed=24", "name=second")
    second = run(tmp_path, *PRIVATE, *noise, after=first)
    most = max(spent(first), key=lambda site: spent(first)[site])
    for site, epsilon in spent(second).items():
        own = [*segments(first, most), *segments(second, site)]
        assert epsilon == pytest.approx(epsilon_of(own, 1e-3)), site


def test_stages_of_one_seed_draw_noise_of_their_own() -> None:
    def read(*given: Any) -> Any:
        raise AssertionError("no patient is needed")

    site = Site("a", read, read, SiteStore(None))
    asked = Instruction(Binding("run", 1, "nonce", "", ""), vectors={})
    drawn = [
        SeededAccount(7, stage=stage).noise(site, asked).normals(8).tolist() for stage in (0, 1, 2)
    ]
    assert len({tuple(values) for values in drawn}) == 3
