"""Signs beside the label: read, learnt where they are known, and told with care."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch

from fedward.client.data.ct_source import CtSource
from fedward.client.data.read import table_from_frame
from fedward.client.suppression import suppress
from fedward.common.config.image import ImageConfig
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.images.signs import condensed_signs, sign_figures, signs_loss
from fedward.common.metrics import binary_metrics
from fedward.common.models.dsmt_net import DSMTNet
from fedward.common.randomness import seeded_global_torch
from fedward.common.tables.schema import TableSchema
from fedward.common.tables.table import Table
from fedward.common.task import Split
from fedward.common.tasks.ct import CtTask
from tests.client.ct_folder import STONES, write_patient, write_table
from tests.common.ct_rows import SCHEMA, Balls, config

SIGNS = ("hole", "strand")
WITH_SIGNS = SCHEMA.model_copy(update={"signs": SIGNS})
DSMT = {"name": "dsmt-net", "preset": "small", "widths": [4, 8], "middle": 1}


class SignedBalls(Balls):
    """Patients of whom `hole` is known where they are even, and `strand` of nobody."""

    def read(self) -> Table:
        table = super().read()
        signs_NS = np.full((len(table), 2), -1, dtype=np.int8)
        is_even = table.patient_id % 2 == 0
        signs_NS[is_even, 0] = (table.patient_id[is_even] // 2) % 2
        return Table(
            table.columns,
            table.label,
            table.patient_id,
            table.subgroups,
            arrays={**table.arrays, "signs": signs_NS},
        )


def task_of(**changes: Any) -> CtTask:
    changes = {"model": DSMT, "loss": {"weights": "fixed"}, **changes}
    run = config(**changes)
    return CtTask(run.task, WITH_SIGNS, run.data, model=run.model, loss=run.loss)


def frame(**columns: Any) -> pd.DataFrame:
    rows = {"patient": [1, 2, 3], "age": [40, 50, 60], "sex": ["F"] * 3, "infection": [0, 1, 0]}
    return pd.DataFrame({**rows, **columns})


def test_the_loss_is_that_of_the_signs_that_are_known() -> None:
    logits_BS = torch.tensor([[0.5, -2.0], [1.0, 3.0], [0.0, 0.0]])
    signs_BS = torch.tensor([[1, 0], [-1, 1], [-1, -1]], dtype=torch.int8)
    # By hand: -log sigmoid(0.5) - log sigmoid(2); -log sigmoid(3); nothing.
    expected = [math.log1p(math.exp(-0.5)) + math.log1p(math.exp(-2.0)), math.log1p(math.exp(-3.0))]
    found = signs_loss(logits_BS, signs_BS)
    torch.testing.assert_close(found, torch.tensor([*expected, 0.0]))
    assert signs_loss(torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.int8)).shape == (0,)


def test_a_figure_counts_the_patients_of_whom_the_sign_is_known() -> None:
    logits_NS = torch.tensor([[2.0], [-1.0], [0.5], [-3.0], [4.0]])
    truth_NS = torch.tensor([[1], [0], [-1], [0], [1]], dtype=torch.int8)
    kept = condensed_signs(logits_NS, truth_NS) | {"patient_id": torch.arange(5)}
    known = {key: value.numpy() for key, value in kept.items()}
    found = sign_figures(known, ["hole"], "patient")
    assert set(found) == {"auroc.hole", "sensitivity.hole", "specificity.hole"}
    use = truth_NS[:, 0].numpy() >= 0
    expected = binary_metrics(
        truth_NS[use, 0].numpy(), torch.sigmoid(logits_NS[use, 0].double()).numpy()
    )
    assert found["auroc.hole"] == expected["auroc"]
    assert found["auroc.hole"].n == 4
    assert found["sensitivity.hole"].n == 2


def test_a_task_learns_signs_and_what_is_missing_changes_nothing() -> None:
    task = task_of()
    assert task.answers == {"mask", "label", "signs"}
    assert (task.primary_metric, task.secondary_metric) == ("auroc", "dice")
    data = task.datasets(SignedBalls("a", 20), Split(seed=3, test_fraction=0.3))
    rows = data.train.all_rows()
    with seeded_global_torch(1):
        model = task.build_model().eval()
    with torch.no_grad():
        outputs = model(rows)
    losses = task.loss_per_sample(outputs, rows)
    nobody = {**rows, "signs": torch.full_like(rows["signs"], -1)}
    is_known = (rows["signs"] >= 0).any(1)
    assert is_known.any()
    assert not is_known.all()
    changed = losses != task.loss_per_sample(outputs, nobody)
    assert torch.equal(changed, is_known)
    # Half the weight is the label's, and a sign counts 0.3 of it.
    difference = losses - task.loss_per_sample(outputs, nobody)
    expected = 0.5 * 0.3 * signs_loss(outputs["signs"], rows["signs"])
    torch.testing.assert_close(difference, expected, rtol=1e-4, atol=1e-6)
    kept = task.condense(outputs, rows)
    found = task.metrics(kept)
    assert found["auroc.hole"].n == len(set(rows["patient_id"][is_known].tolist()))
    assert (found["auroc.strand"].value, found["auroc.strand"].n) == (None, 0)
    groups = task.details(kept)["subgroups"]
    assert not [name for group in groups.values() for name in group["metrics"] if "hole" in name]


def test_a_network_of_signs_alone_is_compared_by_the_first() -> None:
    task = task_of(model={**DSMT, "tasks": ["signs"]})
    assert (task.primary_metric, task.secondary_metric) == ("auroc.hole", None)


def test_the_second_stage_trains_on_the_label_and_is_measured_on_everything() -> None:
    task = task_of(model={**DSMT, "stage": "label"})
    model = task.build_model()
    assert isinstance(model, DSMTNet)
    rows = task.datasets(SignedBalls("a", 10), Split(seed=3)).train.all_rows()
    assert set(model.train()(rows)) == {"label"}
    assert set(model.eval()(rows)) == {"mask", "label", "signs"}


def test_a_site_is_read_with_some_signs_or_none() -> None:
    schema = STONES.model_copy(update={"signs": SIGNS})
    for columns, expected in (
        ({}, [[-1, -1]] * 3),
        ({"hole": [1, np.nan, 0]}, [[1, -1], [-1, -1], [0, -1]]),
        ({"hole": [1, 0, 0], "strand": ["", "1", "0"]}, [[1, -1], [0, 1], [0, 0]]),
    ):
        rows = frame(**columns).replace("", np.nan)
        table = table_from_frame(rows, schema, place="west")
        assert table.arrays["signs"].tolist() == expected
        assert "hole" not in table.columns
    with pytest.raises(SiteDataError, match="sign 'hole': 2 cells are neither 0, 1 nor empty"):
        table_from_frame(frame(hole=[2, 0.5, 0]), schema, place="west")
    with pytest.raises(SiteDataError, match="does not know: hole"):
        table_from_frame(frame(hole=[1, 0, 0]), STONES, place="west")


def test_of_a_patient_who_is_only_scanned_nobody_knows_the_signs(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    for number, patient in enumerate(("ann", "bob", "dan")):
        write_patient(folder, patient, offset=number)
    rows = write_table(folder, ["bob", "ann"])
    rows.assign(hole=[1, 0]).to_csv(folder / "patients.csv", index=False)
    schema = STONES.model_copy(update={"signs": SIGNS})
    image = ImageConfig(size=(16, 16, 16), window=(-400, 2000), min_lesion_voxels=2)
    table = CtSource("west", folder, schema, image, cache=tmp_path / "cache").read()
    # Two stones each of ann (0), bob (1) and dan (2), who is not in the table.
    assert table.patient_id.tolist() == [0, 0, 1, 1, 2, 2]
    assert table.arrays["signs"].tolist() == [[0, -1]] * 2 + [[1, -1]] * 2 + [[-1, -1]] * 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"signs": ["hole", "hole"]}, "given twice"),
        ({"signs": ["infection"]}, "is label, patient_id or excluded"),
        ({"signs": ["age"]}, "cannot be a feature as well as label, sign"),
        ({"signs": ["a.b"]}, "pattern"),
        ({"signs": ["hole"], "image": None}, "they are seen in images"),
    ],
)
def test_a_sign_is_no_feature_and_needs_images(changes: dict[str, Any], says: str) -> None:
    values = {**STONES.model_dump(), **changes}
    with pytest.raises(ValueError, match=says):
        TableSchema.model_validate(values)


def test_a_balance_needs_a_figure_per_class() -> None:
    task_of(loss={"weights": "fixed", "class_balance": [1, 3]}).build_model()
    with pytest.raises(ConfigError, match=r"loss\.class_balance: 3 figures for 2 classes"):
        task_of(loss={"weights": "fixed", "class_balance": [1, 2, 3]}).build_model()


@pytest.mark.parametrize(("num_positive", "leaves"), [(12, True), (3, False), (38, False)])
def test_figures_of_a_sign_that_few_patients_have_or_lack_do_not_leave(
    num_positive: int, leaves: bool
) -> None:
    rng = np.random.default_rng(0)
    label = np.arange(40) % 2
    figures = {name: asdict(m) for name, m in binary_metrics(label, rng.random(40)).items()}
    truth_N = (np.arange(40) < num_positive).astype(np.int8)
    known: dict[str, npt.NDArray[Any]] = {
        "sign.probability": rng.random((40, 1)),
        "sign.truth": truth_N[:, None],
        "patient_id": np.arange(40),
    }
    of_sign = {n: asdict(m) for n, m in sign_figures(known, ["hole"], "patient").items()}
    report = {"metrics": {**figures, **of_sign}}
    cleared, _ = suppress(report, num_patients=40, k=10)
    assert cleared["metrics"]["auroc"]["n"] == 40
    assert {cleared["metrics"][name]["n"] is not None for name in of_sign} == {leaves}
    # Without a minimum the same figures leave, counts of three patients and all.
    everything, _ = suppress(report, num_patients=40, k=1)
    assert everything["metrics"]["sensitivity.hole"]["n"] == num_positive
