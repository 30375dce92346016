"""Classification of patients from one clinical table per site."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedward.common.config.run import DataConfig, ModelConfig
from fedward.common.metrics import binary_metrics, calibration_curve, multiclass_metrics
from fedward.common.models import build
from fedward.common.private_statistics import PrivateStatistic, Unprotected
from fedward.common.tables.encode import encode, layout_of, local_statistics, statistics_size
from fedward.common.tables.schema import TableSchema
from fedward.common.tables.split import held_out_rows, steering_rows
from fedward.common.tables.table import Table, TableSource
from fedward.common.task import (
    Batch,
    Kept,
    Loss,
    Metric,
    Outcomes,
    PatientDataset,
    SiteData,
    Split,
    Statistics,
    patient_dataset,
)

SUBGROUP = "subgroup."


class EhrClassification:
    """The task `ehr-classification`: cross-entropy over the classes of the schema's label.

    Args:
        schema: what the columns mean.
        data: which features, and how missing values are treated.
        model: which network.
        private: the gate for statistics of patients.
        own_models: whether the network may be an importable class of the user's.
    """

    name = "ehr-classification"
    primary_metric = "auroc"
    secondary_metric: str | None = None
    rows_per_pass = 4096

    def __init__(
        self,
        schema: TableSchema,
        data: DataConfig,
        model: ModelConfig,
        *,
        private: PrivateStatistic | None = None,
        own_models: bool = True,
    ) -> None:
        self.schema = schema
        self.fields = schema.select(data.features)
        self.layout = layout_of(self.fields)
        self.statistics_size = statistics_size(self.fields)
        self._complete_cases = data.complete_cases
        self._validation_fraction = data.validation_fraction
        self._model = model
        self._private = private or Unprotected()
        self._own_models = own_models

    @property
    def modalities(self) -> frozenset[str]:
        """Nothing: a row is a row of the table."""
        return frozenset()

    def lacking(self, source: TableSource) -> frozenset[str]:
        """Return nothing."""
        return frozenset()

    def build_model(self) -> nn.Module:
        """Return a freshly initialised model; the caller seeds torch."""
        return build(
            self._model.name,
            self.layout,
            self.schema.num_classes,
            self._model.own,
            own_models=self._own_models,
        )

    def local_statistics(self, source: TableSource, split: Split) -> Statistics:
        """Return additive sums over the training rows (see `tables.encode`)."""
        table = self._usable(source)
        return self.statistics_of(table.take(~held_out_rows(table, split, site=source.site_id)))

    def statistics_of(self, training: Table) -> Statistics:
        """Return additive sums over rows that are trained on, as far as they may be used."""
        return self._private.release("normalisation", local_statistics(training, self.fields))

    def datasets(
        self, source: TableSource, split: Split, statistics: Statistics | None = None
    ) -> SiteData:
        """Return the site's patients, split, imputed, scaled and encoded.

        Raises:
            SiteDataError: too few patients are left, or the file does not hold what the schema
                promises.
        """
        table = self._usable(source)
        held_out = held_out_rows(table, split, site=source.site_id)
        training, testing = table.take(~held_out), table.take(held_out)
        if statistics is None:
            statistics = self.statistics_of(training)
        validation = None
        steers = steering_rows(training, self._validation_fraction, split, site=source.site_id)
        if steers is not None:
            steering = training.take(steers)
            validation = self.dataset(steering, statistics, steering.label)
            training = training.take(~steers)
        train_label = training.label if training.train_label is None else training.train_label
        return SiteData(
            self.dataset(training, statistics, train_label),
            self.dataset(testing, statistics, testing.label),
            validation,
        )

    def training_rows(self, source: TableSource, split: Split) -> Table:
        """Return the rows that are trained on: neither test rows nor those that steer."""
        table = self._usable(source)
        training = table.take(~held_out_rows(table, split, site=source.site_id))
        steers = steering_rows(training, self._validation_fraction, split, site=source.site_id)
        return training if steers is None else training.take(~steers)

    def dataset(self, table: Table, statistics: Statistics, label: Any) -> PatientDataset:
        """Return rows as tensors, those of a patient next to each other.

        Args:
            table: (N) rows.
            statistics: sums over training rows, of the site or of all sites.
            label: (N,) what is learned of them.
        """
        order = np.argsort(table.patient_id, kind="stable")
        table, label = table.take(order), label[order]
        rows = {
            "features": torch.from_numpy(encode(table, self.fields, statistics)),
            "label": torch.from_numpy(label),
            "patient_id": torch.from_numpy(table.patient_id),
            "mask.table": torch.ones(len(table), dtype=torch.bool),
        }
        for name, member in table.subgroups.items():
            rows[SUBGROUP + name] = torch.from_numpy(member)
        return patient_dataset(rows)

    def loss_per_sample(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the (B,) cross-entropies of logits (B, C)."""
        return functional.cross_entropy(outputs, batch["label"], reduction="none")

    def training_loss(self, model: nn.Module, validation: PatientDataset | None) -> Loss:
        """Return `loss_per_sample`: nothing steers it."""
        del model, validation
        return self.loss_per_sample

    @property
    def augment(self) -> None:
        """Nothing is done to rows of a table."""

    def condense(self, outputs: Tensor, batch: Batch) -> Kept:
        """Return logits (B, C), labels and subgroups."""
        groups = {key: rows for key, rows in batch.items() if key.startswith(SUBGROUP)}
        return {"logits": outputs, "label": batch["label"], **groups}

    def metrics(self, kept: Kept) -> dict[str, Metric]:
        """Return the figures of logits (N, C), each with its interval and n."""
        return self._metrics(kept["logits"], kept["label"].numpy())

    def details(self, kept: Kept) -> dict[str, Any]:
        """Return the calibration curve (two classes) and the figures of each subgroup."""
        found: dict[str, Any] = {}
        outputs, label = kept["logits"], kept["label"].numpy()
        if self.schema.num_classes == 2:
            curve = calibration_curve(label, _probability(outputs)[:, 1])
            found["calibration"] = {k: np.asarray(v).tolist() for k, v in asdict(curve).items()}
        groups = {key: rows.numpy() for key, rows in kept.items() if key.startswith(SUBGROUP)}
        if groups:
            found["subgroups"] = {
                key.removeprefix(SUBGROUP): {
                    "metrics": {
                        name: asdict(metric)
                        for name, metric in self._metrics(
                            outputs[torch.from_numpy(rows)], label[rows]
                        ).items()
                    }
                }
                for key, rows in groups.items()
            }
        return found

    def outcomes(self, kept: Kept) -> Outcomes | None:
        """Return labels and probabilities of class 1; None with more than two classes."""
        if self.schema.num_classes != 2:
            return None
        return kept["label"].numpy() == 1, _probability(kept["logits"])[:, 1]

    def _metrics(self, outputs: Tensor, label: Any) -> dict[str, Metric]:
        probability_NC = _probability(outputs)
        if self.schema.num_classes == 2:
            return binary_metrics(label, probability_NC[:, 1])
        return multiclass_metrics(label, probability_NC)

    def _usable(self, source: TableSource) -> Table:
        table = source.read()
        if self._complete_cases:
            missing = [np.isnan(table.columns[field.name]) for field in self.fields]
            table = table.take(~np.logical_or.reduce(missing))
            # Reading checked the cohort before rows were dropped.
            place = f"site {source.site_id}, rows without a missing value (data.complete_cases)"
            self.schema.check_cohort(len(np.unique(table.patient_id)), place=place)
        return table


def _probability(outputs: Tensor) -> Any:
    return torch.softmax(outputs.double(), dim=1).numpy()
