"""A federated copula under differential privacy: the same queries as alone, noise of each site."""

import math

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant

from fedward.client.keyed_source import KeyedSource
from fedward.client.noised_sums import NoisedQueries
from fedward.common.config.synthesis import SynthesisConfig
from fedward.common.tables.schema import FieldSchema, TableSchema
from fedward.common.tables.synthetic_sums import (
    FACTS,
    QUERIES,
    SUMS,
    QueryForm,
    form_of,
)
from fedward.common.tables.table import Table
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.dp_copula import DPGaussianCopula
from fedward.synth.tables.dp_noise import source_of
from fedward.synth.tables.table_frame import frame_of

FIELDS = [
    {"name": "x", "kind": "continuous", "range": [0, 100]},
    {"name": "y", "kind": "continuous", "range": [-50, 50]},
    {"name": "sex", "kind": "categorical", "categories": [0, 1]},
]
SCHEMA = TableSchema.model_validate(
    {"version": 1, "name": "t", "label": {"column": "died"}, "fields": FIELDS}
)
COLUMNS = Columns.of_schema(SCHEMA)
EPSILON, DELTA = 2.0, 1e-5


def form() -> QueryForm:
    config = SynthesisConfig(method="dp-copula", rows_per_site=10, epsilon=EPSILON, delta=DELTA)
    found = form_of(config, SCHEMA, None)
    assert isinstance(found, QueryForm)
    return found


def patients(num_rows: int, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    label = (rng.random(num_rows) < 0.4).astype(np.int64)
    x = (20 + 15 * label + rng.normal(0, 8, num_rows)).clip(0, 100)
    columns = {
        "x": x,
        "y": np.where(
            rng.random(num_rows) < 0.2, np.nan, (x - 20 + rng.normal(0, 5, num_rows)) / 2
        ),
        "sex": (rng.random(num_rows) < 0.5).astype(float),
    }
    return Table(columns, label, np.arange(num_rows))


QUERIES_OF_ALL = NoisedQueries(form(), COLUMNS, EPSILON, DELTA)


def held(tables: list[Table], *, key: bytes = b"k" * 32) -> dict[str, np.ndarray]:
    """Return the answers of all sites, added up query by query."""
    summed: dict[str, np.ndarray] = {}
    for which in form().passes:
        parts = [
            QUERIES_OF_ALL.answer(table, summed, KeyedSource(key).below(f"{which} {place}"))
            for place, table in enumerate(tables)
        ]
        assert form().odd(parts) == []
        summed |= form().added(which, parts)
    return summed


def test_one_site_asks_what_the_synthesiser_asks_with_the_same_noise() -> None:
    table = patients(400)
    model = DPGaussianCopula(COLUMNS, epsilon=EPSILON, delta=DELTA, noise_seed=3)
    model.fit(frame_of(table, COLUMNS))
    below = source_of(3)
    summed: dict[str, np.ndarray] = {}
    for which, alone in zip(form().passes, model.answers_, strict=True):
        arrays = QUERIES_OF_ALL.answer(table, summed, below)
        size, bound, deviation = arrays[FACTS].tolist()
        assert (which, size) == (alone.name, len(alone.sums_D))
        assert math.isclose(bound / deviation, alone.mu, rel_tol=1e-9)
        np.testing.assert_array_equal(arrays[SUMS][: int(size)], alone.sums_D)
        summed |= form().added(which, [arrays])


def test_the_queries_of_a_site_cost_the_stated_epsilon_by_another_accountant() -> None:
    summed = held([patients(300, seed) for seed in range(3)])
    answers = QUERIES_OF_ALL.answers_of_a_site(summed)
    events = [dp_event.GaussianDpEvent(answer.deviation / answer.bound) for answer in answers]
    accountant = pld_privacy_accountant.PLDAccountant()
    accountant.compose(dp_event.ComposedDpEvent(events))
    assert math.isclose(accountant.get_epsilon(DELTA), EPSILON, rel_tol=0.005)
    # With the noise of three sites taken for one site's, less would be claimed than is true.
    cheaper = pld_privacy_accountant.PLDAccountant()
    together = [dp_event.GaussianDpEvent(event.noise_multiplier * math.sqrt(3)) for event in events]
    cheaper.compose(dp_event.ComposedDpEvent(together))
    assert cheaper.get_epsilon(DELTA) < 0.7 * EPSILON


def test_the_noise_is_there_and_of_the_size_that_is_told() -> None:
    table = patients(500)
    first = [
        QUERIES_OF_ALL.answer(table, {}, KeyedSource(bytes([n]) * 32).below("location"))
        for n in range(40)
    ]
    size, _, deviation = first[0][FACTS].tolist()
    sums = np.array([one[SUMS][: int(size)] for one in first])
    spread = sums.std(axis=0, ddof=1).mean()
    # 40 draws of 26 sums: the standard error of their mean deviation is 2.3 %.
    assert abs(spread / deviation - 1) < 0.12
    np.testing.assert_array_equal(first[0][SUMS][int(size) :], 0)


def test_many_sites_together_learn_what_their_patients_have_in_common() -> None:
    summed = held([patients(1500, seed) for seed in range(4)])
    learned = QUERIES_OF_ALL.learned(summed)
    assert [one.name for one in QUERIES_OF_ALL.summed_answers(summed)] == list(QUERIES)
    everyone = [patients(1500, seed) for seed in range(4)]
    sizes = np.bincount(np.concatenate([one.label for one in everyone]))
    np.testing.assert_allclose(learned.size_C, sizes, rtol=0.05)
    share = np.isnan(np.concatenate([one.columns["y"] for one in everyone])).mean()
    assert abs(learned.missing_MC[1].mean() - share) < 0.05


def test_every_query_fits_the_form_that_is_known_before() -> None:
    wide = [{"name": f"x{n}", "kind": "continuous", "range": [0, 1]} for n in range(12)] + [
        {"name": f"c{n}", "kind": "categorical", "categories": list(range(7))} for n in range(5)
    ]
    schema = TableSchema.model_validate(
        {"version": 1, "name": "w", "label": {"column": "died"}, "fields": wide}
    )
    config = SynthesisConfig(method="dp-copula", rows_per_site=10, epsilon=90.0, delta=1e-3)
    big = form_of(config, schema, None)
    assert isinstance(big, QueryForm)
    rng = np.random.default_rng(0)
    n = 4000
    columns = {
        field.name: np.where(
            rng.random(n) < 0.3,
            np.nan,
            rng.random(n) if field.kind == "continuous" else rng.integers(0, 7, n).astype(float),
        )
        for field in schema.fields
    }
    table = Table(columns, rng.integers(0, 2, n), np.arange(n))
    queries = NoisedQueries(big, Columns.of_schema(schema), 90.0, 1e-3)
    summed: dict[str, np.ndarray] = {}
    used = []
    for which in big.passes:
        arrays = queries.answer(table, summed, source_of(1))
        used.append(int(arrays[FACTS][0]))
        assert used[-1] <= big.size
        summed |= big.added(which, [arrays])
    assert max(used) > 0.5 * big.size


def test_a_site_that_answers_another_question_is_told_from_the_others() -> None:
    parts = [QUERIES_OF_ALL.answer(patients(300, seed), {}, source_of(seed)) for seed in range(3)]
    parts[1][FACTS][2] *= 0.5
    assert form().odd(parts) == [1]
    assert form().why_not("location", parts[0], 10) is None
    parts[0][SUMS][-1] = 1.0
    assert form().why_not("location", parts[0], 10) == "it sends more sums than it says"


@pytest.mark.parametrize("fields", [FIELDS[:2], FIELDS[2:]])
def test_a_table_of_one_kind_of_column_has_the_queries_that_it_needs(
    fields: list[dict[str, object]],
) -> None:
    schema = TableSchema.model_validate(
        {"version": 1, "name": "s", "label": {"column": "died"}, "fields": fields}
    )
    config = SynthesisConfig(method="dp-copula", rows_per_site=10, epsilon=EPSILON, delta=DELTA)
    found = form_of(config, schema, None)
    assert isinstance(found, QueryForm)
    assert all(isinstance(one, FieldSchema) for one in schema.fields)
    table = patients(300)
    queries = NoisedQueries(found, Columns.of_schema(schema), EPSILON, DELTA)
    summed: dict[str, np.ndarray] = {}
    for which in found.passes:
        summed |= found.added(which, [queries.answer(table, summed, source_of(1))])
    assert len(queries.learned(summed).counts) == len(schema.fields)
