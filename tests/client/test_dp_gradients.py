"""Clipped sums of every model equal those of one patient after the other, to 1e-12 in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedward.client.privacy.method import Method, method_for
from fedward.client.privacy.patients import Patients
from fedward.common.config.image import LossConfig
from fedward.common.images.losses import classification_loss, deep_segmentation_loss
from fedward.common.images.signs import signs_loss
from fedward.common.models import build, models
from fedward.common.models.image_form import ImageForm
from fedward.common.models.image_models import build_image_model, image_models
from fedward.common.randomness import seeded_global_torch
from fedward.common.task import Batch, Loss
from tests.client.plain_training import Layout, cross_entropy, generated_images
from tests.client.private_training import flat, in_float64, plain_gradients
from tests.common.image_batches import FORM_3D, images, without

LAYOUT = Layout(("age", "sex", "chol"), (0, 2, 5), (2, 5, 7))
TABULAR: list[tuple[str, dict[str, Any]]] = [
    ("logistic-regression", {}),
    ("mlp", {}),
    ("mlp", {"hidden": [5, 4], "norm": "layer", "activation": "gelu"}),
    ("mlp", {"hidden": [12], "norm": "group", "activation": "tanh"}),
    ("ft-transformer", {"d_token": 8, "num_heads": 2}),
    ("ft-transformer", {"d_token": 4, "num_heads": 2, "num_layers": 3, "ff_factor": 2.0}),
]
VIT = {"hidden": 24, "layers": 3, "heads": 3, "mlp_dim": 32, "patch": 8, "feature_size": 4}
IMAGES: list[tuple[str, dict[str, Any]]] = [
    ("uscnet", {"preset": "smoke", "hidden": 24, "heads": 3, "head_dropout": [0.0]}),
    ("unetr", {**VIT, "class_head": True}),
    ("basic-unet", {"features": [4, 4, 8, 8, 8, 4], "norm": "group"}),
    ("seg-resnet", {"filters": 4, "class_head": True}),
    ("nnunet", {"filters": 4, "max_filters": 8, "class_head": True}),
    ("resnet3d", {"depth": 10, "width": 4}),
    ("resformer", {"preset": "small", "width": 4}),
    ("dsmt-net", {"preset": "small", "widths": [4, 8]}),
    ("dsmt-net", {"preset": "small", "widths": [4, 8], "stage": "label"}),
    ("small-cnn", {"channels": [8, 4], "hidden": [8, 8]}),
    ("cme-resnet", {"preset": "small", "width": 2}),
    ("cme-densenet", {"preset": "small", "width": 4, "blocks": [2, 2]}),
    ("cme-alexnet", {"preset": "small", "width": 4}),
    ("concat-fusion", {"depth": 10, "width": 4, "hidden": 8, "feature_size": 4}),
    ("tmss", VIT),
]
ALL_METHODS = [Method("dense"), Method("vectorised", 4), Method("one-by-one", 2)]
RECORDS = {"one-record": list(range(9)), "several": [0, 0, 3, 1, 1, 1, 5, 5, 0]}
names_of = [f"{name}-{number}" for number, (name, _) in enumerate(TABULAR)]
TOLERANCE = 1e-12
TOLERANCES = {"cme-resnet": 1e-10}
"""Fifty layers, each normalised over few voxels, hand on their rounding enlarged."""


def table(num_rows: int) -> Batch:
    generator = torch.Generator().manual_seed(3)
    return {
        "features": torch.randn(num_rows, 7, generator=generator),
        "label": torch.randint(0, 3, (num_rows,), generator=generator),
        "patient_id": torch.arange(num_rows),
        "mask.table": torch.ones(num_rows, dtype=torch.bool),
    }


def tabular(name: str, own: dict[str, Any]) -> nn.Module:
    with seeded_global_torch(1):
        return build(name, LAYOUT, 3, own).train()


def image_loss(form: ImageForm) -> Loss:
    def loss(outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        terms, config = [], LossConfig()
        if "mask" in outputs:
            found = deep_segmentation_loss(outputs, batch["mask"], form.num_structures, config)
            terms.append(found * batch["mask.image"])  # as `CtTask` has it
        if "label" in outputs:
            terms.append(classification_loss(outputs["label"], batch["label"], config))
        if "signs" in outputs:
            terms.append(signs_loss(outputs["signs"], batch["signs"]))
        return torch.stack(terms).sum(0)

    return loss


def assert_exact(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    method: Method,
    *,
    max_norm: float,
    tolerance: float = TOLERANCE,
) -> None:
    """Compare sum, norms and losses with the plain way, in double precision."""
    plain = plain_gradients(model, loss, batch)
    found = method.gradients(model, loss).clipped_sum(
        batch, Patients.of(batch["patient_id"]), max_norm
    )
    expected = plain.clipped_sum(max_norm)
    scale = float(expected.abs().max())
    torch.testing.assert_close(flat(found.sums), expected, rtol=0, atol=tolerance * scale)
    torch.testing.assert_close(found.norm_G, plain.flat_GP.norm(dim=1), rtol=1e-9, atol=TOLERANCE)
    torch.testing.assert_close(found.loss_G, plain.loss_G, rtol=TOLERANCE, atol=TOLERANCE)


def clipping_some(model: nn.Module, loss: Loss, batch: Batch) -> float:
    """Return a bound that some gradients are longer than, and some are not."""
    return float(plain_gradients(model, loss, batch).flat_GP.norm(dim=1).median())


@pytest.mark.parametrize("records", RECORDS.values(), ids=RECORDS)
@pytest.mark.parametrize("method", ALL_METHODS, ids=lambda method: method.kind)
@pytest.mark.parametrize(("name", "own"), TABULAR, ids=names_of)
def test_each_way_clips_a_tabular_model_as_one_patient_after_the_other(
    name: str, own: dict[str, Any], method: Method, records: list[int]
) -> None:
    model, batch = in_float64(tabular(name, own), table(9))
    batch["patient_id"] = torch.tensor(records)
    max_norm = clipping_some(model, cross_entropy, batch)
    assert_exact(model, cross_entropy, batch, method, max_norm=max_norm)


@pytest.mark.parametrize(("name", "own"), IMAGES, ids=[name for name, _ in IMAGES])
def test_a_network_of_images_is_clipped_as_one_patient_after_the_other(
    name: str, own: dict[str, Any]
) -> None:
    form, loss = FORM_3D, image_loss(FORM_3D)
    with seeded_global_torch(1):
        model = build_image_model(name, form, own)
    batch = images(form, 4)
    batch["patient_id"] = torch.tensor([0, 2, 2, 1])
    # Somebody without an image, and somebody without clinical fields.
    batch["mask.image"][0] = False
    batch["mask.table"][3] = False
    method = method_for(model, loss, batch)
    assert method.kind == "vectorised"
    model, batch = in_float64(model.train(), batch)
    max_norm = clipping_some(model, loss, batch)
    vectorised, tolerance = Method("vectorised", 3), TOLERANCES.get(name, TOLERANCE)
    assert_exact(model, loss, batch, vectorised, max_norm=max_norm, tolerance=tolerance)


def test_the_cnn_is_clipped_as_one_patient_after_the_other() -> None:
    with seeded_global_torch(1):
        model = build("cnn", LAYOUT, 10, {"channels": 2, "hidden": 4})
    model, batch = in_float64(model.train(), generated_images(5, seed=1).all_rows())
    max_norm = clipping_some(model, cross_entropy, batch)
    assert_exact(model, cross_entropy, batch, Method("vectorised", 2), max_norm=max_norm)


def test_every_registered_model_is_among_these() -> None:
    assert {name for name, _ in TABULAR} | {"cnn"} == set(models)
    assert {name for name, _ in IMAGES} == set(image_models)


def test_a_mask_network_without_classes_is_clipped_too() -> None:
    form = without(FORM_3D, classes=True)
    loss = image_loss(form)
    with seeded_global_torch(1):
        model = build_image_model("basic-unet", form, {"features": [4, 4, 8, 8, 8, 4]})
    batch = images(form, 2)
    batch["patient_id"] = torch.arange(2)
    model, batch = in_float64(model.train(), batch)
    assert_exact(model, loss, batch, Method("vectorised", 2), max_norm=0.1)


@pytest.mark.parametrize("method", ALL_METHODS, ids=lambda method: method.kind)
def test_frozen_weights_take_no_part(method: Method) -> None:
    model, batch = in_float64(tabular("mlp", {"hidden": [5, 4]}), table(6))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in ("head.weight", "body.0.bias")
    max_norm = clipping_some(model, cross_entropy, batch)
    assert_exact(model, cross_entropy, batch, method, max_norm=max_norm)


@pytest.mark.parametrize("rows_at_once", [1, 2, 5, 100])
@pytest.mark.parametrize("records", RECORDS.values(), ids=RECORDS)
def test_the_sum_does_not_depend_on_how_many_rows_are_in_memory(
    rows_at_once: int, records: list[int]
) -> None:
    model, batch = in_float64(tabular("mlp", {}), table(9))
    batch["patient_id"] = torch.tensor(records)
    for kind in ("vectorised", "one-by-one"):
        method = Method("vectorised" if kind == "vectorised" else "one-by-one", rows_at_once)
        assert_exact(model, cross_entropy, batch, method, max_norm=0.5)


@pytest.mark.parametrize("method", ALL_METHODS, ids=lambda method: method.kind)
@pytest.mark.parametrize("records", RECORDS.values(), ids=RECORDS)
def test_a_patient_whose_record_is_not_a_number_is_left_out_and_nobody_else(
    method: Method, records: list[int]
) -> None:
    model, batch = in_float64(tabular("ft-transformer", {"d_token": 8, "num_heads": 2}), table(9))
    batch["patient_id"] = torch.tensor(records)
    others = {k: v[torch.tensor(records) != records[4]] for k, v in batch.items()}
    batch["features"][4, 0] = torch.nan
    found = method.gradients(model, cross_entropy).clipped_sum(
        batch, Patients.of(batch["patient_id"]), 0.5
    )
    expected = plain_gradients(model, cross_entropy, others).clipped_sum(0.5)
    torch.testing.assert_close(flat(found.sums), expected, rtol=0, atol=1e-12)
    assert int((~found.norm_G.isfinite()).sum()) == 1


@pytest.mark.parametrize("method", ALL_METHODS, ids=lambda method: method.kind)
def test_no_patient_however_extreme_moves_the_sum_by_more_than_the_bound(method: Method) -> None:
    model, batch = in_float64(tabular("mlp", {}), table(9))
    for scale in (1e-3, 1.0, 1e3, 1e30, 1e300):
        neighbour = {name: rows[:8] for name, rows in batch.items()}
        extreme = {name: rows.clone() for name, rows in batch.items()}
        extreme["features"][8] *= scale
        gradients = method.gradients(model, cross_entropy)
        with_one, without_one = (
            flat(gradients.clipped_sum(rows, Patients.of(rows["patient_id"]), 0.25).sums)
            for rows in (extreme, neighbour)
        )
        assert float((with_one - without_one).norm()) <= 0.25 * (1 + 1e-12)


@pytest.mark.parametrize("method", ALL_METHODS, ids=lambda method: method.kind)
def test_the_records_of_a_patient_are_one_gradient_wherever_they_stand(method: Method) -> None:
    """Two halves of a patient, clipped as two, would move the sum by twice the bound."""
    model, batch = in_float64(tabular("mlp", {}), table(4))
    batch["features"] *= 100
    batch["patient_id"] = torch.tensor([7, 1, 7, 7])
    found = method.gradients(model, cross_entropy).clipped_sum(
        batch, Patients.of(batch["patient_id"]), 0.25
    )
    assert len(found.norm_G) == 2
    assert float(flat(found.sums).norm()) <= 0.5 * (1 + 1e-12)
    assert_exact(model, cross_entropy, batch, method, max_norm=0.25)


def test_a_layer_that_is_called_twice_is_not_taken_for_one_called_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(7, 7)

        def forward(self, batch: Batch) -> Tensor:
            logits: Tensor = self.linear(self.linear(batch["features"]))
            return logits

    model, batch = in_float64(Twice(), table(5))
    assert method_for(model, cross_entropy, batch).kind == "vectorised"
    with pytest.raises(RuntimeError, match="called twice"):
        Method("dense").gradients(model, cross_entropy).clipped_sum(
            batch, Patients.of(batch["patient_id"]), 1.0
        )
    assert_exact(model, cross_entropy, batch, Method("vectorised", 5), max_norm=0.5)
