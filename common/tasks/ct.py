"""Masks and classes from regions or slices of CT, beside the fields of a clinical table.

Which of the two a run learns follows from the schema (structures, label) and from what the network
answers with. A site trains with what it has: rows without an image, a mask, a clinical row or a
label are flagged in every batch (`fedward.common.images.rows`), and their losses are left out.
"""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedward.common.config.image import ImageConfig, LossConfig
from fedward.common.config.run import DataConfig, ModelConfig
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.images.figures import (
    class_figures,
    class_rows,
    mask_figures,
    primary_mask_figure,
)
from fedward.common.images.losses import (
    Weights,
    classification_loss,
    deep_segmentation_loss,
    dynamic_weights,
)
from fedward.common.images.mask_metrics import row_figures
from fedward.common.images.prepare import prepared_images
from fedward.common.images.rows import (
    HAS,
    IMAGE,
    IN_BATCH,
    MASK,
    MODALITIES,
    SIGNS,
    SPACING_MM,
)
from fedward.common.images.signs import PROBABILITY, condensed_signs, sign_figures, signs_loss
from fedward.common.metrics import calibration_curve
from fedward.common.models.image_form import ImageForm
from fedward.common.models.image_models import build_image_model
from fedward.common.private_statistics import Accounted, PrivateStatistic, Unprotected
from fedward.common.randomness import seeded_global_torch
from fedward.common.tables.encode import encode, layout_of, local_statistics, statistics_size
from fedward.common.tables.schema import ImageSchema, TableSchema
from fedward.common.tables.split import held_out_rows, steering_rows
from fedward.common.tables.table import Table, TableSource
from fedward.common.task import (
    Augment,
    Batch,
    Kept,
    Loss,
    Metric,
    PatientDataset,
    SiteData,
    Split,
    Statistics,
    patient_dataset,
)

SUBGROUP = "subgroup."
KIDNEY_TASK, KIDNEY = "ct-kidney", "kidney"
PASS_VOXELS = 64 * 48**3


class CtTask:
    """The tasks `ct-lesions`, `ct-kidney` and `image-classification`, which finds no masks.

    Args:
        name: of the task.
        schema: what the columns, images and masks mean.
        data: which features, and how images are prepared.
        model: which network.
        loss: what training minimises.
        private: the gate for statistics of patients.
        own_models: whether the network may be an importable class of the user's.

    Raises:
        ConfigError: the run or the schema says nothing of images.
    """

    def __init__(  # noqa: PLR0913 - the sections of a run that it is made of
        self,
        name: str,
        schema: TableSchema,
        data: DataConfig,
        *,
        model: ModelConfig,
        loss: LossConfig,
        private: PrivateStatistic | None = None,
        own_models: bool = True,
    ) -> None:
        self.name = name
        self.schema = schema
        self.image, self.images = _sections(schema, data)
        self.fields = schema.select(data.features)
        self.layout = layout_of(self.fields) if self.fields else None
        self.form = ImageForm(
            self.image.size,
            len(self.images.structures),
            schema.num_classes,
            self.layout,
            schema.signs,
        )
        self.statistics_size = statistics_size(self.fields)
        if name == KIDNEY_TASK and KIDNEY not in self.images.structures:
            raise ConfigError(
                f"task: {KIDNEY_TASK} finds stones inside kidneys; schema {schema.name} has no "
                f"structure {KIDNEY!r} (image.structures)"
            )
        self.rows_per_pass = max(1, PASS_VOXELS // int(np.prod(self.image.size)))
        self._modalities = data.modalities
        self._validation_fraction = data.validation_fraction
        self._model = model
        self._loss = loss
        self._private = private or Unprotected()
        self._own_models = own_models

    def build_model(self) -> nn.Module:
        """Return a freshly initialised model; the caller seeds torch.

        Raises:
            ConfigError: the network cannot be built, or its two sides cannot be weighed.
        """
        needs_dice = self._loss.weights == "dynamic" and not self._validation_fraction
        if needs_dice and self.answers >= {"mask", "label"}:
            raise ConfigError(
                "loss.weights: dynamic needs patients to measure the Dice on; set "
                "data.validation_fraction, or loss.weights: fixed"
            )
        is_accounted = isinstance(self._private, Accounted)
        if is_accounted and self._loss.weights == "dynamic" and self.answers >= {"mask", "label"}:
            raise ConfigError(
                "loss.weights: dynamic follows the Dice of patients, which is not accounted "
                "under privacy.mode: dp-sgd; use loss.weights: fixed"
            )
        balance = self._loss.class_balance
        if balance is not None and len(balance) != self.schema.num_classes:
            raise ConfigError(
                f"loss.class_balance: {len(balance)} figures for {self.schema.num_classes} classes "
                f"of schema {self.schema.name}; expected one for each"
            )
        return self._new_model()

    @property
    def answers(self) -> frozenset[str]:
        """Which of `mask`, `label` and `signs` the network answers with."""
        return self._seen_at_work[0]

    @property
    def modalities(self) -> frozenset[str]:
        """Which of `image` and `table` the network looks at, as far as the run lets it.

        Raises:
            ConfigError: none of them.
        """
        # A network that takes the whole batch apart cannot be watched; it may look at everything.
        looks_at = self._seen_at_work[1] or frozenset(self._modalities)
        found = looks_at & frozenset(self._modalities)
        if not found:
            raise ConfigError(
                f"data.modalities: {self._model.name} looks at {' and '.join(sorted(looks_at))} "
                f"only, and the run shows it {' and '.join(self._modalities)} only"
            )
        return found

    def lacking(self, source: TableSource) -> frozenset[str]:
        """Return which of `modalities` no row of a site has."""
        arrays = source.read().arrays
        return frozenset(name for name in self.modalities if not arrays[HAS + name].any())

    @cached_property
    def _seen_at_work(self) -> tuple[frozenset[str], frozenset[str]]:
        """Return what the network answers with, and what it looks at, on rows of nobody."""
        nobody = {
            IMAGE: torch.zeros(0, 1, *self.form.size),
            "patient_id": torch.zeros(0, dtype=torch.int64),
            **{IN_BATCH + name: torch.zeros(0, dtype=torch.bool) for name in MODALITIES},
        }
        if self.layout is not None:
            nobody["features"] = torch.zeros(0, self.layout.stops[-1])
        batch = _Watched(nobody)
        with seeded_global_torch(0), torch.no_grad():
            answers = frozenset(self._new_model().eval()(batch))
        looked_at = {IMAGE: "image", "features": "table"}
        return answers, frozenset(looked_at[key] for key in batch.read if key in looked_at)

    @property
    def primary_metric(self) -> str:
        """AUROC where the network classifies, else Dice or AUROC of the first structure or sign."""
        if self.answers == {"signs"}:
            return f"auroc.{self.schema.signs[0]}"
        classifies = "label" in self.answers or not self.images.structures
        return "auroc" if classifies else primary_mask_figure(self.images.structures)

    @property
    def secondary_metric(self) -> str | None:
        """The Dice of the first structure where the network does both."""
        both = self.answers >= {"mask", "label"}
        return primary_mask_figure(self.images.structures) if both else None

    def local_statistics(self, source: TableSource, split: Split) -> Statistics:
        """Return additive sums over the training patients (see `tables.encode`)."""
        table = source.read()
        training = table.take(~held_out_rows(table, split, site=source.site_id))
        return self._private.release("normalisation", local_statistics(training, self.fields))

    def datasets(
        self, source: TableSource, split: Split, statistics: Statistics | None = None
    ) -> SiteData:
        """Return the site's patients, split, windowed and encoded.

        Raises:
            SiteDataError: too few patients are left, or the files do not hold what the schema
                promises.
        """
        table = source.read()
        if self.lacking(source) == self.modalities:
            raise SiteDataError(
                f"no row has {' or '.join(sorted(self.modalities))}, and the network of this run "
                "looks at nothing else (data.modalities)"
            )
        held_out = held_out_rows(table, split, site=source.site_id)
        training, testing = table.take(~held_out), table.take(held_out)
        if statistics is None:
            statistics = self._private.release(
                "normalisation", local_statistics(training, self.fields)
            )
        validation = None
        steers = steering_rows(training, self._validation_fraction, split, site=source.site_id)
        if steers is not None:
            validation = self._dataset(training.take(steers), statistics)
            training = training.take(~steers)
        label = training.label if training.train_label is None else training.train_label
        return SiteData(
            self._dataset(training, statistics, label),
            self._dataset(testing, statistics),
            validation,
        )

    def loss_per_sample(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return the (B,) losses with segmentation and classification in equal parts."""
        return self._weighted(outputs, batch, weights=Weights(0.5, 0.5))

    def training_loss(self, model: nn.Module, validation: PatientDataset | None) -> Loss:
        """Return the loss of one round, weighed by the Dice of the received model."""
        share = self._loss.class_weight
        weights = Weights(1.0 - share, share)
        if self._loss.weights == "dynamic" and validation is not None:
            weights = dynamic_weights(self._validation_dice(model, validation))
        return partial(self._weighted, weights=weights)

    @property
    def augment(self) -> Augment | None:
        """What is done to each training batch, sample by sample; None: nothing."""
        kind = self.image.augment
        if kind == "none":
            return None
        from fedward.common.images.augment import augment

        return lambda batch, rng: augment(batch, kind, rng)

    def condense(self, outputs: dict[str, Tensor], batch: Batch) -> Kept:
        """Return probabilities (B, C), figures of each mask (B,), labels, patients, subgroups."""
        kept = {key: batch[key] for key in ("label", "patient_id")}
        kept |= {key: value for key, value in batch.items() if key.startswith(SUBGROUP)}
        if "label" in outputs:
            kept["probability"] = torch.softmax(outputs["label"].double(), dim=1)
            kept["labelled"] = batch[IN_BATCH + "label"]
        if "signs" in outputs:
            kept |= condensed_signs(outputs["signs"], batch[SIGNS])
        if "mask" in outputs:
            usable = batch[IN_BATCH + MASK] & batch[IN_BATCH + IMAGE]
            kept["masked"] = usable
            truth = batch[MASK].cpu().numpy()
            found = (outputs["mask"] > 0).cpu().numpy()
            spacing = batch[SPACING_MM].cpu().numpy()
            for number, structure in enumerate(self.images.structures):
                figures = row_figures(truth == number + 1, found[:, number], spacing)
                for name, values in figures.items():
                    kept[f"mask.{structure}.{name}"] = torch.from_numpy(np.asarray(values))
        return kept

    def metrics(self, kept: Kept) -> dict[str, Metric]:
        """Return the figures of classes and masks, each with its interval and n."""
        known = {key: value.numpy() for key, value in kept.items()}
        found = self._figures(known)
        if PROBABILITY in known:
            # Not of subgroups, whose counts by class a hospital weighs for the label alone.
            found |= sign_figures(known, self.schema.signs, self.images.label_of)
        return found

    def details(self, kept: Kept) -> dict[str, Any]:
        """Return the calibration curve (two classes) and the figures of each subgroup."""
        known = {key: value.numpy() for key, value in kept.items()}
        found: dict[str, Any] = {}
        if "probability" in known and self.schema.num_classes == 2:
            label, probability_NC, _ = class_rows(known, self.images.label_of)
            curve = calibration_curve(label == 1, probability_NC[:, 1])
            found["calibration"] = {k: np.asarray(v).tolist() for k, v in asdict(curve).items()}
        groups = {key: rows for key, rows in known.items() if key.startswith(SUBGROUP)}
        if groups:
            found["subgroups"] = {
                key.removeprefix(SUBGROUP): {
                    "metrics": {
                        name: asdict(metric)
                        for name, metric in self._figures(
                            {name: values[rows] for name, values in known.items()}
                        ).items()
                    }
                }
                for key, rows in groups.items()
            }
        return found

    def outcomes(self, kept: Kept) -> None:
        """Return nothing: a row may have a mask, a class, or both."""

    def _figures(self, known: Mapping[str, npt.NDArray[Any]]) -> dict[str, Metric]:
        found: dict[str, Metric] = {}
        if "probability" in known:
            found |= class_figures(known, self.images.label_of)
        if "masked" in known:
            found |= mask_figures(known, self.images.structures)
        return found

    def _weighted(self, outputs: dict[str, Tensor], batch: Batch, *, weights: Weights) -> Tensor:
        """Return (B,); a head that is missing leaves all the weight to the other.

        Signs count `sign_weight` times as much as the label does, each.
        """
        losses = []
        both = "mask" in outputs and "label" in outputs
        if "mask" in outputs:
            usable = batch[IN_BATCH + MASK] & batch[IN_BATCH + IMAGE]
            own = deep_segmentation_loss(outputs, batch[MASK], self.form.num_structures, self._loss)
            losses.append(own * usable * (weights.segmentation if both else 1.0))
        if "label" in outputs:
            own = classification_loss(outputs["label"], batch["label"], self._loss)
            labelled = batch[IN_BATCH + "label"]
            losses.append(own * labelled * (weights.classification if both else 1.0))
        if "signs" in outputs:
            share = weights.classification if "mask" in outputs else 1.0
            own = signs_loss(outputs["signs"], batch[SIGNS])
            losses.append(own * self._loss.sign_weight * share)
        return torch.stack(losses).sum(0)

    def _new_model(self) -> nn.Module:
        return build_image_model(
            self._model.name, self.form, self._model.own, own_models=self._own_models
        )

    def _validation_dice(self, model: nn.Module, validation: PatientDataset) -> float | None:
        """Return the mean Dice of the lesions of the validation patients; None without masks."""
        rows = validation.all_rows()
        found = []
        model.eval()
        with torch.no_grad():
            for place in range(0, len(rows["patient_id"]), self.rows_per_pass):
                batch = {k: v[place : place + self.rows_per_pass] for k, v in rows.items()}
                outputs = model(batch)
                if "mask" not in outputs:
                    return None
                found.append(_dice(outputs["mask"], batch))
        values = torch.cat(found) if found else torch.zeros(0)
        if not len(values):
            return None
        released = self._private.release("validation-dice", np.array([float(values.mean())]))
        return float(released[0])

    def _dataset(
        self, table: Table, statistics: Statistics, label: Any | None = None
    ) -> PatientDataset:
        """Return the rows as tensors, those of a patient next to each other."""
        order = np.argsort(table.patient_id, kind="stable")
        label = (table.label if label is None else label)[order]
        table = table.take(order)
        arrays = table.arrays
        has = {name: arrays[HAS + name].copy() for name in MODALITIES}
        for name in ("image", "table"):
            if name not in self._modalities:
                has[name][:] = False
        rows = {
            IMAGE: torch.from_numpy(prepared_images(arrays[IMAGE], has["image"], self.image)),
            MASK: torch.from_numpy(arrays[MASK]),
            SPACING_MM: torch.from_numpy(arrays[SPACING_MM]),
            "label": torch.from_numpy(label),
            "patient_id": torch.from_numpy(table.patient_id),
        }
        rows |= {IN_BATCH + name: torch.from_numpy(flag) for name, flag in has.items()}
        if self.schema.signs:
            rows[SIGNS] = torch.from_numpy(arrays[SIGNS])
        if self.layout is not None:
            encoded = encode(table, self.fields, statistics)
            rows["features"] = torch.from_numpy(encoded * has["table"][:, None])
        for name, member in table.subgroups.items():
            rows[SUBGROUP + name] = torch.from_numpy(member)
        return patient_dataset(rows)


class _Watched(dict[str, Tensor]):
    """A batch that keeps the names of what is read of it."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


def _sections(schema: TableSchema, data: DataConfig) -> tuple[ImageConfig, ImageSchema]:
    if data.image is None:
        raise ConfigError("data.image: missing; a task with images needs to know their size")
    if schema.image is None:
        raise ConfigError(f"data.schema: {schema.name} says nothing of images (section `image`)")
    return data.image, schema.image


def _dice(logits: Tensor, batch: Batch) -> Tensor:
    """Return the Dice of any structure, of the rows that have some."""
    usable = (batch[IN_BATCH + MASK] & batch[IN_BATCH + IMAGE]).cpu()
    truth = (batch[MASK] > 0).flatten(1)
    found = (logits > 0).any(1).flatten(1)
    common = 2 * (truth & found).sum(1)
    sizes = truth.sum(1) + found.sum(1)
    has_truth = truth.any(1).cpu() & usable
    return (common / sizes.clamp(min=1)).cpu()[has_truth]
