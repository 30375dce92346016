"""Rows of images as batches, losses of what is there, and figures by patient."""

from typing import Any

import numpy as np
import pytest
import torch

from fedward.client.optimizers import OptimizerSettings
from fedward.client.sampling import ShuffleSampler
from fedward.client.training import PlainStep, train_locally
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.images.figures import mask_figures, primary_mask_figure
from fedward.common.randomness import seeded_global_torch, torch_generator
from fedward.common.task import PatientDataset, Split
from fedward.common.tasks.ct import CtTask
from tests.common.ct_rows import SCHEMA, Balls, config, data_section

SPLIT = Split(seed=3, test_fraction=0.3)


def task_of(**changes: Any) -> CtTask:
    run = config(**changes)
    return CtTask(run.task, SCHEMA, run.data, model=run.model, loss=run.loss)


def evaluated(task: CtTask, model: torch.nn.Module, data: PatientDataset) -> dict[str, Any]:
    model.eval()
    with torch.no_grad():
        rows = data.all_rows()
        kept = task.condense(model(rows), rows)
    return {"metrics": task.metrics(kept), **task.details(kept)}


def test_no_patient_is_in_two_parts_and_all_are_in_one() -> None:
    data = task_of().datasets(Balls("a", 20), SPLIT)
    assert data.validation is not None
    parts = [set(p.rows["patient_id"].tolist()) for p in (data.train, data.validation, data.test)]
    assert set.union(*parts) == set(range(20))
    assert sum(map(len, parts)) == 20
    assert len(data.test) == 6


def test_images_are_windowed_and_nothing_is_left_of_a_modality_that_is_not_used() -> None:
    both = task_of().datasets(Balls("a", 20), SPLIT).train.rows
    assert both["image"].shape[1:] == (1, 16, 16, 16)
    assert both["image"].min() >= 0
    assert both["image"].max() <= 1
    assert both["mask.image"].all()
    no_ct = task_of(data=data_section(modalities=["table"]))
    rows = no_ct.datasets(Balls("a", 20), SPLIT).train.rows
    assert not rows["image"].any()
    assert not rows["mask.image"].any()
    assert rows["features"].any()
    no_ehr = task_of(data=data_section(modalities=["image"]))
    rows = no_ehr.datasets(Balls("a", 20), SPLIT).train.rows
    assert not rows["features"].any()
    assert not rows["mask.table"].any()


@pytest.mark.parametrize("lacking", ["image", "mask", "label", "table"])
def test_a_row_that_lacks_something_trains_what_it_has(lacking: str) -> None:
    task = task_of()
    rows = task.datasets(Balls("a", 12, lacks={lacking: [0, 1, 2]}), SPLIT).train.all_rows()
    flags = rows[f"mask.{lacking}"]
    assert not flags.all()
    with seeded_global_torch(1):
        outputs = task.build_model()(rows)
    losses = task.loss_per_sample(outputs, rows)
    assert torch.isfinite(losses).all()
    if lacking == "label":
        other = {**rows, "label": torch.where(flags, rows["label"], 1 - rows["label"])}
        assert torch.equal(losses, task.loss_per_sample(outputs, other))
    if lacking == "mask":
        other = {**rows, "mask": torch.where(flags[:, None, None, None], rows["mask"], 1)}
        assert torch.equal(losses, task.loss_per_sample(outputs, other))


def test_a_task_knows_what_its_network_looks_at_and_what_a_site_lacks() -> None:
    every = list(range(60))
    task = task_of()
    assert task.modalities == {"image", "table"}
    assert task.lacking(Balls("a", 20)) == frozenset()
    assert task.lacking(Balls("a", 20, lacks={"table": [0, 1, 2]})) == frozenset()
    no_table, no_image = (Balls("a", 40, lacks={name: every}) for name in ("table", "image"))
    assert task.lacking(no_table) == {"table"}
    assert task.lacking(no_image) == {"image"}
    task.datasets(no_image, SPLIT)
    masked = task_of(data=data_section(modalities=["table"]))
    assert masked.modalities == {"table"}
    assert masked.lacking(no_image) == frozenset()
    with pytest.raises(SiteDataError, match="no row has table"):
        masked.datasets(no_table, SPLIT)


def test_a_network_that_is_shown_nothing_of_what_it_looks_at_is_refused() -> None:
    unetr = task_of(data=data_section(modalities=["table"]), model={"name": "unetr"})
    with pytest.raises(ConfigError, match="unetr looks at image only, and the run shows it table"):
        _ = unetr.modalities


def test_training_finds_the_balls_and_tells_them_apart() -> None:
    task = task_of(loss={"weights": "fixed", "classification": ["bce"]})
    data = task.datasets(Balls("a", 60), SPLIT)
    with seeded_global_torch(2):
        model = task.build_model()
    rng = torch_generator(1, purpose="test")
    before = evaluated(task, model, data.test)["metrics"]
    train_locally(
        model,
        data.train,
        step=PlainStep(task.training_loss(model, None), OptimizerSettings("adam", 0.01)),
        sampler=ShuffleSampler(8, epochs=8),
        rng=rng,
    )
    after = evaluated(task, model, data.test)
    assert after["metrics"]["dice"].value > 0.7 > before["dice"].value
    assert after["metrics"]["auroc"].value > 0.85
    assert set(after["subgroups"]) == {"old"}


def test_figures_of_classes_count_patients_and_masks_count_patients() -> None:
    task = task_of()
    data = task.datasets(Balls("a", 20), SPLIT)
    with seeded_global_torch(2):
        metrics = evaluated(task, task.build_model(), data.test)["metrics"]
    assert metrics["auroc"].n == len(data.test) == 6
    assert len(data.test.rows["label"]) > 6
    assert metrics["dice"].n == 6


def test_without_any_mask_the_headline_figure_says_why_under_its_own_name() -> None:
    nothing = {"masked": np.zeros(3, dtype=bool), "patient_id": np.arange(3)}
    for structures in (("stone",), ("kidney", "stone")):
        (name,) = found = mask_figures(nothing, structures)
        assert name == primary_mask_figure(structures)
        assert found[name].reason == "no patient has a mask"


def test_dynamic_weights_need_patients_to_measure_on() -> None:
    with pytest.raises(ConfigError, match=r"data\.validation_fraction"):
        task_of(data=data_section(validation_fraction=0.0)).build_model()
    one_sided = {"name": "resnet3d", "depth": 10}
    task_of(data=data_section(validation_fraction=0.0), model=one_sided).build_model()


def test_the_weight_of_classes_follows_the_dice_of_the_validation_patients() -> None:
    task = task_of()
    data = task.datasets(Balls("a", 30), SPLIT)
    with seeded_global_torch(2):
        model = task.build_model()

    class Oracle(torch.nn.Module):
        """Answers with the truth, or its opposite."""

        def __init__(self, sign: float) -> None:
            super().__init__()
            self.sign = sign

        def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            truth = (batch["mask"] > 0).float().unsqueeze(1)
            return {"mask": self.sign * (truth * 20 - 10), "label": torch.zeros(len(truth), 2)}

    rows = data.test.all_rows()
    outputs = model(rows)
    only_class = task.training_loss(Oracle(1.0), data.validation)(outputs, rows)
    only_mask = task.training_loss(Oracle(-1.0), data.validation)(outputs, rows)
    fixed = {
        share: task_of(loss={"weights": "fixed", "class_weight": share}) for share in (0.8, 0.0)
    }
    assert torch.allclose(only_class, fixed[0.8].training_loss(model, None)(outputs, rows))
    assert torch.allclose(only_mask, fixed[0.0].training_loss(model, None)(outputs, rows))


def test_a_task_with_images_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"data\.image"):
        task_of(data={"schema": "balls"})
    run = config()
    with pytest.raises(ConfigError, match="section `image`"):
        CtTask(
            run.task,
            SCHEMA.model_copy(update={"image": None}),
            run.data,
            model=run.model,
            loss=run.loss,
        )
