"""The federated classifier as a filter: against the prior, not against one half."""

import numpy as np
import torch

from fedward.client.data.read import table_from_frame
from fedward.client.model_filter import ModelFilter, probabilities
from fedward.common.config.run import DataConfig, ModelConfig
from fedward.common.tables.encode import local_statistics
from fedward.common.tables.table import Table
from fedward.common.tasks.ehr_classification import EhrClassification
from tests.client.clinic import CLINIC, clinic_frame

TASK = EhrClassification(
    CLINIC, DataConfig(schema="clinic"), ModelConfig(name="logistic-regression")
)


def patients(num_rows: int = 200) -> Table:
    return table_from_frame(clinic_frame(num_rows), CLINIC, place="clinic.csv")


def model_of(age_weight: float, bias: float) -> torch.nn.Module:
    """Return a model that gives the second class more with age, and more or less altogether."""
    model = TASK.build_model()
    state = model.state_dict()
    weight, offset = (name for name in state)
    with torch.no_grad():
        state[weight].zero_()
        state[offset].zero_()
        state[weight][1, 0] = age_weight
        state[offset][1] = bias
    return model


def test_probabilities_stand_in_the_order_of_the_rows() -> None:
    table = patients()
    mixed = table.take(np.random.default_rng(0).permutation(len(table)))
    statistics = local_statistics(table, TASK.fields)
    found = probabilities(TASK, model_of(2.0, 0.0), statistics, mixed)
    order = np.argsort(mixed.columns["age"])
    assert (np.diff(found[order, 1]) >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_candidates_are_kept_where_the_model_agrees_against_its_prior() -> None:
    table = patients()
    statistics = local_statistics(table, TASK.fields)
    for bias in (0.0, -4.0, 4.0):
        kept = ModelFilter.of(TASK, model_of(2.0, bias), statistics, table)
        died, survived = kept(1, table), kept(0, table)
        assert not (died & survived).any()
        assert (died | survived).mean() > 0.99
        old = table.columns["age"] > np.quantile(table.columns["age"], 0.8)
        assert died[old].all()
        # Against one half, a model of a rare or a common class would refuse or keep everything.
        plain = probabilities(TASK, model_of(2.0, bias), statistics, table)[:, 1] > 0.5
        assert 0.15 < died.mean() < 0.85
        if bias == -4.0:
            assert plain.mean() < 0.1
        if bias == 4.0:
            assert plain.mean() > 0.9
