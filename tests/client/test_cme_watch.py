"""What a site sees of its layers during a round, against snapshots that the test takes itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedward.client.cme import RoundWatch, Watch, figures_of, snapshot_steps
from fedward.client.optimizers import OptimizerSettings
from fedward.client.sampling import ShuffleSampler
from fedward.client.trainer import TrainerSettings
from fedward.client.training import Event, Parameters, PlainStep, train_locally
from fedward.common.config.monitor import CmeConfig
from fedward.common.errors import ConfigError
from fedward.common.models import build
from fedward.common.monitoring.map_files import list_maps, read_maps
from fedward.common.monitoring.stream import LOG_FLOOR, CmeStream, LayerRound
from fedward.common.randomness import seeded_global_torch
from fedward.common.records import DITTO_LAMBDA, PARAMETERS, Instruction
from tests.client.cme_trainers import LAYER, Clinic, clinic, config, spoilt
from tests.client.plain_training import cross_entropy, dense_layout, generated_table

CME = "monitor.cme=true"
ALL = "monitor.cme.layers=all"
TEN = "local.epochs=10"


@pytest.mark.parametrize(
    ("num_steps", "per_epoch", "own", "expected"),
    [
        (30, 3, {}, range(3, 31, 3)),  # ten epochs: the end of each
        (12, 3, {}, [3, 6, 9, 12]),
        (9, 3, {}, [3, 5, 7, 9]),  # three epochs are too few: evenly, rounded up
        (100, 100, {}, [25, 50, 75, 100]),
        (3, 3, {}, [1, 2, 3]),  # fewer steps than snapshots
        (1, 1, {}, [1]),
        (0, 0, {}, []),  # nobody to train on
        (14, 3, {}, [3, 6, 9, 12]),  # the last epoch is not finished
        (100, 10, {"snapshots": 16}, None),
        (100, 10, {"every_steps": 30}, [30, 60, 90]),
        (40, 10, {"every_steps": 30}, [20, 40]),  # two at least
        (1, 1, {"every_steps": 30}, [1]),
    ],
)
def test_snapshots_are_taken_at_the_ends_of_epochs_or_evenly(
    num_steps: int, per_epoch: int, own: dict[str, int], expected: list[int] | None
) -> None:
    steps = snapshot_steps(num_steps, per_epoch, CmeConfig.model_validate(own))
    if expected is None:
        assert len(steps) == own["snapshots"]
        assert (steps[-1], len(set(steps))) == (num_steps, len(steps))
        assert set(np.diff(steps)) == {6, 7}
    else:
        assert list(steps) == list(expected)


class Snapshots:
    """An observer that copies a layer at the start and at every end of an epoch."""

    def __init__(self) -> None:
        self.taken: list[NDArray[np.float64]] = []

    def __call__(self, event: Event, epoch: int, step: int, parameters: Parameters) -> None:
        if event != "step":
            self.taken.append(parameters["body.0.weight"].double().numpy().copy())


def test_a_watch_computes_the_figures_of_the_snapshots_that_the_round_went_through() -> None:
    with seeded_global_torch(1):
        model = build("mlp", dense_layout(5), 2, {"hidden": [8]})
    sampler, seen = ShuffleSampler(4, epochs=5), Snapshots()
    watch = Watch.of(model, CmeConfig(layers=("body.0.*",)), sampler).begin(11)
    train_locally(
        model,
        generated_table(11, 5, seed=3),
        step=PlainStep(cross_entropy, OptimizerSettings("sgd", 0.1)),
        sampler=sampler,
        observers=(watch, seen),
        rng=torch.Generator().manual_seed(0),
    )
    by_hand = CmeStream(seen.taken[0], "rms", name="body.0.weight")
    for snapshot in seen.taken[1:]:
        by_hand.add(snapshot)
    expected, found = by_hand.finish(None), watch.finish({})["body.0.weight"]
    assert len(seen.taken) == 6
    assert (found.figures, found.num_snapshots) == (expected.figures, 5)
    assert found.figures.rho is not None
    np.testing.assert_array_equal(found.map_PP, expected.map_PP)


def kept(made: Clinic, site: str, *, after: int) -> dict[str, NDArray[np.float32]]:
    store = made.sites[site].store
    found = store.get(made.federation.run_key, site, "cme", before_round=after + 1)
    assert found is not None
    return found


def same(one: object, other: object) -> None:
    """Compare reports but for the time that they took."""
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_the_report_tells_four_figures_of_the_penultimate_layer_and_the_map_stays() -> None:
    made = clinic(CME, TEN)
    site = next(iter(made.sites))
    first, second = made.train(site), made.train(site, 2)
    assert list(first.report["cme"]) == [LAYER]
    assert set(first.report["cme"][LAYER]) == {"log_mag", "rho", "top1"}, "no round before it"
    assert set(second.report["cme"][LAYER]) == {"log_mag", "rho", "top1", "map_cos"}
    assert kept(made, site, after=2)[LAYER].shape == (6, 6)


def test_without_monitoring_nothing_is_watched_kept_or_told() -> None:
    plain, watched = clinic(TEN), clinic(CME, TEN)
    site = next(iter(plain.sites))
    one, other = plain.train(site), watched.train(site)
    assert plain.trainer.watch is None
    assert set(one.report) == {"seconds", "num_steps"}
    np.testing.assert_array_equal(one.vectors[PARAMETERS], other.vectors[PARAMETERS])
    store = plain.sites[site].store
    assert store.get(plain.federation.run_key, site, "cme", before_round=9) is None


def test_a_round_begins_at_the_received_model_and_not_where_the_site_had_been() -> None:
    made, fresh = clinic(CME, TEN), clinic(CME, TEN)
    site = next(iter(made.sites))
    trained = made.train(site)
    made.received = fresh.received = 0.5 * (made.received + trained.vectors[PARAMETERS])
    again, alone = made.train(site, 2).report["cme"][LAYER], fresh.train(site, 2).report["cme"]
    assert again.pop("map_cos")
    assert again == alone[LAYER]


def test_a_round_that_is_asked_for_again_gives_the_same_figures(tmp_path: Path) -> None:
    whole = clinic(TEN, ALL, store=tmp_path / "a.sqlite")
    site = next(iter(whole.sites))
    expected = [whole.train(site, number).report for number in (1, 2, 3)]
    broken = clinic(TEN, ALL, store=tmp_path / "b.sqlite")
    for number in (1, 2):
        broken.train(site, number)
    resumed = clinic(TEN, ALL, store=tmp_path / "b.sqlite")
    for number in (2, 3):
        same(resumed.train(site, number).report, expected[number - 1])
    np.testing.assert_array_equal(
        kept(resumed, site, after=3)[LAYER], kept(whole, site, after=3)[LAYER]
    )


@pytest.mark.parametrize(
    "own", [[TEN], ["local.epochs=1"], ["local.epochs=null", "local.steps=13"]], ids=str
)
def test_stacked_sites_see_what_each_sees_alone(own: list[str], tmp_path: Path) -> None:
    plain = clinic(ALL, *own, maps=tmp_path / "plain")
    stacked = clinic(ALL, *own, maps=tmp_path / "stacked", is_stacked=True)
    for number in (1, 2):
        stacked.trainer.prefill([(site, stacked.asked(number)) for site in stacked.sites.values()])
        for site in plain.sites:
            one, other = plain.train(site, number), stacked.train(site, number)
            assert list(one.report["cme"]) == list(other.report["cme"])
            for layer, figures in one.report["cme"].items():
                assert other.report["cme"][layer] == pytest.approx(figures, abs=1e-4)
        plain.received = stacked.received = np.mean(
            [plain.train(site, number).vectors[PARAMETERS] for site in plain.sites], axis=0
        )
    files, others = list_maps(tmp_path / "plain"), list_maps(tmp_path / "stacked")
    assert set(files) == set(plain.sites)
    for site, rounds in files.items():
        assert list(rounds) == [1, 2]
        for number, path in rounds.items():
            theirs = read_maps(others[site][number])
            for layer, ours in read_maps(path).items():
                assert ours.num_snapshots == theirs[layer].num_snapshots
                largest = float(np.abs(ours.map_PP).max())
                assert largest > 0
                np.testing.assert_allclose(
                    theirs[layer].map_PP, ours.map_PP, rtol=0, atol=1e-4 * largest
                )


def test_map_files_are_for_their_own_user_only(tmp_path: Path) -> None:
    made = clinic(CME, maps=tmp_path / "cme")
    site = next(iter(made.sites))
    made.train(site)
    (path,) = list_maps(tmp_path / "cme")[site].values()
    modes = {place: place.stat().st_mode & 0o777 for place in (path, path.parent, tmp_path / "cme")}
    assert modes == {path: 0o600, path.parent: 0o700, tmp_path / "cme": 0o700}


def test_the_training_of_a_personal_model_is_not_watched() -> None:
    made, plain = clinic(CME, TEN), clinic(CME, TEN)
    site = next(iter(made.sites))
    asked = made.asked()
    personal = Instruction(asked.binding, asked.vectors, {DITTO_LAMBDA: 0.1})
    same(made.trainer.train(made.sites[site], personal).report, plain.train(site).report)


@pytest.mark.parametrize("kind", ["local", "pooled"])
def test_baselines_are_not_watched(kind: str, tmp_path: Path) -> None:
    federation = clinic(CME).federation
    baseline = replace(federation, kind=cast("Any", kind))
    assert TrainerSettings.of(federation, maps=tmp_path).maps == tmp_path
    settings = TrainerSettings.of(baseline, maps=tmp_path)
    assert (settings.cme, settings.maps) == (None, None)


def test_a_frozen_layer_lies_at_the_floor() -> None:
    made = clinic("monitor.cme.layers=[body.*.weight]", TEN)
    made.trainer.model.get_submodule("body.0").requires_grad_(requires_grad=False)
    site = next(iter(made.sites))
    for number in (1, 2):
        told = made.train(site, number).report["cme"]
        assert told["body.0.weight"] == {"log_mag": LOG_FLOOR}
        assert told[LAYER]["log_mag"] > -4


def test_weights_that_become_nan_have_no_figures() -> None:
    made = clinic(ALL, TEN)
    site = next(iter(made.sites))
    spoilt(made, site)
    update = made.train(site)
    assert not np.isfinite(update.vectors[PARAMETERS]).all()
    assert "cme" not in update.report
    assert not kept(made, site, after=1)[LAYER].any()


def test_a_layer_that_a_site_does_not_have_is_left_out() -> None:
    model = clinic().trainer.model
    layers = Watch.of(model, CmeConfig(layers="all"), ShuffleSampler(4, epochs=2)).layers
    view = {n: p.detach() for n, p in model.named_parameters() if not n.startswith("head")}
    watch = RoundWatch(layers, "rms", (1,))
    watch.look(0, view)
    watch.look(1, {name: tensor + 0.1 for name, tensor in view.items()})
    assert set(figures_of(watch.finish({}))) == {"body.0.weight", LAYER}


def test_a_round_without_a_step_tells_nothing() -> None:
    model = clinic().trainer.model
    watch = Watch.of(model, CmeConfig(), ShuffleSampler(4, epochs=2)).begin(0)
    watch("start", 0, 0, {n: p.detach() for n, p in model.named_parameters()})
    rounds: dict[str, LayerRound] = watch.finish({})
    assert rounds == {}


def test_a_name_that_no_layer_has_is_refused_when_the_run_is_prepared() -> None:
    with pytest.raises(ConfigError, match=r"monitor\.cme\.layers.*body\.2\.weight"):
        clinic("monitor.cme.layers=[body.2.wieght]")


def test_more_layers_than_a_report_holds_are_refused() -> None:
    stack = torch.nn.Sequential(*[torch.nn.Linear(1, 1) for _ in range(257)])
    with pytest.raises(ConfigError, match="257 layers would be watched, at most 256"):
        Watch.of(stack, CmeConfig(layers="all"), ShuffleSampler(4, epochs=2))


def test_the_loss_on_validation_patients_is_told_and_is_that_of_the_received_model() -> None:
    made, without = clinic("data.validation_fraction=0.25"), clinic()
    site = next(iter(made.sites))
    update = made.trainer.evaluate(made.sites[site], made.asked(is_evaluation=True))
    data = made.sites[site].data(None)
    assert data.validation is not None
    rows = data.validation.all_rows()
    made.shared.load(made.trainer.model, made.received)
    expected = cross_entropy(made.trainer.model.eval()(rows), rows).mean().detach()
    told = update.report["validation"]
    assert told == {"loss": pytest.approx(float(expected)), "num_examples": len(data.validation)}
    assert told["loss"] != update.loss
    plain = without.trainer.evaluate(without.sites[site], without.asked(is_evaluation=True))
    assert "validation" not in plain.report


def test_a_fraction_too_small_for_one_patient_tells_no_loss() -> None:
    made = clinic("data.validation_fraction=0.001")
    site = next(iter(made.sites))
    update = made.trainer.evaluate(made.sites[site], made.asked(is_evaluation=True))
    assert "validation" not in update.report
    assert config("data.validation_fraction=0.001").data.validation_fraction == 0.001
