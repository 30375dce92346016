"""Images come back from plain updates, and not from clipped and noised ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedward.common.config.loader import run_config_from_dict
from fedward.common.errors import ConfigError, StorageError
from fedward.common.task import Split
from fedward.simulations.federation import Federation
from fedward.simulations.privacy_audit.gradient_search import label_in
from fedward.simulations.privacy_audit.inversion import (
    LINEAR,
    NETWORK,
    NUM_ATTACKED,
    Inversion,
    Reconstruction,
    _attack,
    _compared,
    _known,
    _noise_of_run,
    _one_step,
    _places,
    invert,
    psnr_db,
)
from fedward.simulations.privacy_audit.inversion_figure import DESCRIPTION, write_figure
from tests.simulations.privacy_faults import private_run

NUM_IMAGES, SIDE = 60, 12
SCHEMA = """\
version: 1
name: spots
patient_id: person
label:
  column: spot
  classes: [left, right]
image:
  unit: grey
"""


def spots() -> dict[str, Any]:
    return {
        "version": 1,
        "name": "spots",
        "seed": 1,
        "task": "image-classification",
        "data": {
            "root": ".",
            "schema": "spots.yaml",
            "statistics": "schema",
            "partition": {"table": "spots.npz", "by": "iid", "num_sites": 2},
            "image": {"size": [SIDE, SIDE], "rows": "slice", "window": [0, 255]},
        },
        "model": {"name": "small-cnn", "channels": [16], "stem_stride": 1, "hidden": [64]},
        "loss": {"classification": ["bce"], "weights": "fixed"},
        "strategy": {"name": "fedavg"},
        "rounds": 10,
        "local": {"epochs": 1, "batch_size": 8, "learning_rate": 0.1},
        "privacy": {"mode": "dp-sgd", "epsilon": 8.0, "delta": 1e-3, "max_grad_norm": 1.0},
        "engine": {"name": "inprocess"},
    }


def federation(folder: Path, **changed: Any) -> Federation:
    """Return a run on round spots on slopes of grey, the place and slope of each its own."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    label = np.arange(NUM_IMAGES) % 2
    image_NHW = np.zeros((NUM_IMAGES, SIDE, SIDE))
    for number, side in enumerate(label):
        centre = rng.uniform(3, 8), rng.uniform(1, 4) + 5 * side
        distance = np.hypot(y - centre[0], x - centre[1])
        slope = rng.normal(size=2)
        image_NHW[number] = 60 + 6 * (slope[0] * y + slope[1] * x) + 120 * (distance < 2.5)
    np.savez_compressed(
        folder / "spots.npz",
        images=image_NHW.clip(0, 255).astype(np.uint8),
        spot=label.astype(np.uint8),
        person=np.arange(NUM_IMAGES),
        classes=np.array(["left", "right"]),
    )
    (folder / "spots.yaml").write_text(SCHEMA, encoding="utf-8")
    config = run_config_from_dict({**spots(), **changed})
    return Federation(config, "federated", Split(1, 0.3), folder)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Inversion:
    return invert(federation(tmp_path_factory.mktemp("spots")))


def of(found: Inversion, network: str, *, is_private: bool) -> Reconstruction:
    (one,) = [one for one in found.found if (one.network, one.is_private) == (network, is_private)]
    return one


@pytest.mark.parametrize("is_private", [False, True])
def test_an_update_of_a_linear_layer_is_the_image_unless_it_is_private(
    is_private: bool, tmp_path: Path
) -> None:
    run = federation(tmp_path)
    data = run.task.datasets(run.sites.source("site-1"), run.split, None)
    places = _places(data.train, "site-1")
    one_step = _one_step(run, _noise_of_run(run, "site-1", data) if is_private else None)
    image_KHW = np.stack([_attack(one_step, LINEAR, data, place) for place in places])
    known = _known(data.train, places)
    mse, num_named = _compared(image_KHW, data.train, places)
    if is_private:
        assert (np.array(mse) > known.other_mse).all()
        assert num_named < 2
    else:
        np.testing.assert_allclose(image_KHW, known.truth_KHW, atol=1e-4)
        assert num_named == NUM_ATTACKED


@pytest.mark.slow
def test_that_of_a_convolutional_network_is_found_by_search(found: Inversion) -> None:
    one = of(found, NETWORK, is_private=False)
    gain = np.subtract(psnr_db(one.mse), psnr_db(found.attacked.other_mse))
    assert (gain > 5).all(), "dB nearer than another patient"
    assert one.num_named == NUM_ATTACKED


@pytest.mark.slow
@pytest.mark.parametrize("network", [LINEAR, NETWORK])
def test_with_clipping_and_noise_nothing_is_learnt_of_a_patient(
    found: Inversion, network: str
) -> None:
    one = of(found, network, is_private=True)
    assert (np.array(one.mse) > found.attacked.other_mse).all()
    # By chance two of four are named with a probability of 6 / 20^2, 1.5 %.
    assert one.num_named < 2


def test_the_noise_is_that_of_the_run(tmp_path: Path) -> None:
    own = {**spots()["privacy"], "epsilon": None, "noise_multiplier": 0.25}
    run = federation(tmp_path, privacy=own)
    data = run.task.datasets(run.sites.source("site-1"), run.split, None)
    assert _noise_of_run(run, "site-1", data) == 0.25


@pytest.mark.slow
def test_the_picture_has_a_row_for_each_attack_and_says_what_it_shows(
    found: Inversion, tmp_path: Path
) -> None:
    path = tmp_path / "plots" / "inversion.png"
    write_figure(found, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.height > picture.width * 0.8
        assert "linear layer without privacy 4 of 4 patients named" in picture.info[DESCRIPTION]
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_figure(found, tmp_path / "file" / "inversion.png")


@pytest.mark.slow
def test_the_figures_fit_in_json(found: Inversion) -> None:
    told = json.loads(json.dumps(found.to_dict()))
    assert [one["is_private"] for one in told["reconstructions"]] == [False, True, False, True]
    assert len(told["another_patient"]["psnr_db"]) == NUM_ATTACKED


def test_the_label_is_the_class_whose_bias_rises() -> None:
    logits = torch.tensor([[0.3, -0.2, 0.1]], requires_grad=True)
    for label in range(3):
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([label]))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert label_in({"head.weight": torch.ones(3), "head.bias": gradient[0]}) == label


def test_decibels_by_hand() -> None:
    assert psnr_db([0.01, 1.0, 0.0]) == pytest.approx((20.0, 0.0, 100.0))


def test_other_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="images in two dimensions"):
        invert(private_run())
    with pytest.raises(ConfigError, match=r"privacy\.mode: this run promises nothing"):
        invert(federation(tmp_path, privacy=None))
    with pytest.raises(ConfigError, match="shared: the demonstration"):
        invert(federation(tmp_path, shared=["trunk.*"]))
    few = {**spots()["data"], "partition": {**spots()["data"]["partition"], "num_sites": 6}}
    with pytest.raises(ConfigError, match="7 training patients"):
        invert(federation(tmp_path, data=few))
