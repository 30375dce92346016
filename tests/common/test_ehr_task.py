import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from fedward.common.config.run import DataConfig, ModelConfig, RunConfig
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.private_statistics import Unprotected, Values
from fedward.common.tables.schema import TableSchema
from fedward.common.tables.table import Table
from fedward.common.task import Split
from fedward.common.tasks import build_task
from fedward.common.tasks.ehr_classification import EhrClassification

SCHEMA = TableSchema.model_validate(
    {
        "version": 1,
        "name": "ward",
        "label": {"column": "died"},
        "fields": [
            {"name": "age", "kind": "continuous", "range": [0, 120]},
            {"name": "crp", "kind": "continuous", "range": [0, 600]},
            {"name": "sex", "kind": "categorical", "categories": ["f", "m"]},
        ],
        "exclude": ["last_hour"],
        "subgroups": [{"name": "women", "column": "sex", "equals": "f"}],
        "min_cohort": 5,
    }
)
SPLIT = Split(1, 0.3)


@dataclass(frozen=True, repr=False)
class Rows:
    site_id: str
    table: Table

    def read(self) -> Table:
        return self.table


def rows(
    num_patients: int = 60, *, rows_each: int = 1, seed: int = 0, missing: float = 0.1
) -> Rows:
    rng = np.random.default_rng(seed)
    num_rows = num_patients * rows_each
    columns = {
        "age": rng.normal(60, 10, num_rows),
        "crp": rng.normal(50 + 10 * seed, 20, num_rows).clip(0),
        "sex": rng.integers(0, 2, num_rows).astype(np.float64),
    }
    for values in columns.values():
        values[rng.random(num_rows) < missing] = np.nan
    patient = np.repeat(np.arange(num_patients), rows_each)
    label = (patient % 3 == 0).astype(np.int64)
    table = Table(columns, label, patient, {"women": columns["sex"] == 0})
    return Rows(f"site-{seed}", table.take(rng.permutation(num_rows)))


def task(**data: object) -> EhrClassification:
    config = DataConfig.model_validate(
        {"root": "x", "schema": "ward", "sites": {"a": {"file": "a.csv"}}, **data}
    )
    return EhrClassification(SCHEMA, config, ModelConfig(name="logistic-regression"))


def test_batches_carry_what_every_task_promises() -> None:
    data = task().datasets(rows(), SPLIT)
    batch = data.train.batch(torch.tensor([0, 3, 5]))
    assert batch["features"].shape == (3, 7)
    assert batch["features"].dtype == torch.float32
    assert batch["label"].dtype == batch["patient_id"].dtype == torch.int64
    assert batch["mask.table"].tolist() == [True] * 3
    assert torch.isfinite(data.train.rows["features"]).all()
    assert (len(data.train), len(data.test)) == (42, 18)


def test_a_patient_with_several_rows_comes_with_all_of_them() -> None:
    data = task().datasets(rows(20, rows_each=4), SPLIT)
    for part in (data.train, data.test):
        assert part.starts is not None
        batch = part.batch(torch.tensor([2]))
        assert len(batch["label"]) == 4
        assert len(set(batch["patient_id"].tolist())) == 1
    trained = set(data.train.rows["patient_id"].tolist())
    assert not trained & set(data.test.rows["patient_id"].tolist())
    assert len(trained) == len(data.train)


def test_the_statistics_of_sites_add_up_to_those_of_the_pooled_training_rows() -> None:
    learn, sites = task(), [rows(seed=seed) for seed in range(4)]
    summed = np.sum([learn.local_statistics(site, SPLIT) for site in sites], axis=0)
    assert summed.shape == (learn.statistics_size,)
    crp = []
    for site in sites:
        tested = learn.datasets(site, SPLIT).test.rows["patient_id"].numpy()
        values = site.table.columns["crp"][~np.isin(site.table.patient_id, tested)]
        crp.append(values[~np.isnan(values)])
    pooled = np.concatenate(crp)
    scaled = np.concatenate(
        [learn.datasets(site, SPLIT, summed).train.rows["features"][:, 2].numpy() for site in sites]
    )
    flagged = np.concatenate(
        [learn.datasets(site, SPLIT, summed).train.rows["features"][:, 3].numpy() for site in sites]
    )
    expected = np.sort((pooled - pooled.mean()) / pooled.std())
    np.testing.assert_allclose(np.sort(scaled[flagged == 0]), expected, atol=1e-5)


def test_a_test_patients_value_changes_nothing_that_is_trained_on() -> None:
    learn, site = task(), rows()
    data = learn.datasets(site, SPLIT)
    before, statistics = data.train.rows["features"], learn.local_statistics(site, SPLIT)
    patient = int(data.test.rows["patient_id"][0])
    site.table.columns["age"][site.table.patient_id == patient] = 119.0
    after = learn.datasets(site, SPLIT)
    assert torch.equal(before, after.train.rows["features"])
    assert np.array_equal(statistics, learn.local_statistics(site, SPLIT))
    assert not torch.equal(data.test.rows["features"], after.test.rows["features"])
    # The other way round, a training patient's value does move them.
    trained = int(data.train.rows["patient_id"][0])
    site.table.columns["age"][site.table.patient_id == trained] = 119.0
    assert not np.array_equal(statistics, learn.local_statistics(site, SPLIT))


def test_a_site_with_one_class_trains_and_says_why_its_figures_are_undefined() -> None:
    site = rows()
    site.table.label[:] = 0
    learn = task()
    data, model = learn.datasets(site, SPLIT), learn.build_model()
    batch = data.train.all_rows()
    learn.loss_per_sample(model(batch), batch).mean().backward()
    tested = data.test.all_rows()
    figures = learn.metrics(learn.condense(model(tested).detach(), tested))
    assert figures["auroc"].value is None
    assert figures["auroc"].reason
    assert figures["brier"].value is not None


def test_a_site_without_test_patients_has_no_figures_but_reasons() -> None:
    learn = task()
    data = learn.datasets(rows(1), SPLIT)
    assert (len(data.train), len(data.test)) == (1, 0)
    tested = data.test.all_rows()
    outputs = learn.build_model()(tested).detach()
    for metric in learn.metrics(learn.condense(outputs, tested)).values():
        assert metric.value is None
        assert metric.reason
    learn.details(learn.condense(outputs, tested))


def test_details_hold_the_figures_of_each_subgroup() -> None:
    learn = task()
    tested = learn.datasets(rows(200), SPLIT).test.all_rows()
    details = learn.details(learn.condense(learn.build_model()(tested).detach(), tested))
    women = details["subgroups"]["women"]["metrics"]["accuracy"]
    assert women["n"] == int(tested["subgroup.women"].sum())
    assert 0 < women["n"] < len(tested["label"])
    assert sum(details["calibration"]["n"]) == len(tested["label"])


def test_complete_cases_leave_out_every_row_with_a_missing_feature() -> None:
    site = rows(200, missing=0.2)
    complete = ~np.isnan(np.stack(list(site.table.columns.values()))).any(axis=0)
    data = task(complete_cases=True).datasets(site, SPLIT)
    assert len(data.train) + len(data.test) == complete.sum() < 200
    only_sex = task(complete_cases=True, features=["sex"]).datasets(site, SPLIT)
    assert len(only_sex.train) + len(only_sex.test) == (~np.isnan(site.table.columns["sex"])).sum()


def test_a_site_with_too_few_complete_cases_is_refused_without_a_count() -> None:
    site = rows(30)
    site.table.columns["crp"][3:] = np.nan
    with pytest.raises(SiteDataError, match=r"site-0.*complete_cases.*minimum cohort of 5"):
        task(complete_cases=True).datasets(site, SPLIT)
    site.table.columns["crp"][:] = np.nan
    with pytest.raises(SiteDataError, match="no patient is left"):
        task(complete_cases=True).local_statistics(site, SPLIT)


def test_shuffled_labels_are_trained_on_but_never_tested_on() -> None:
    site = rows()
    shuffled = Rows(
        "site-0",
        Table(
            site.table.columns,
            site.table.label,
            site.table.patient_id,
            train_label=1 - site.table.label,
        ),
    )
    plain, control = task().datasets(site, SPLIT), task().datasets(shuffled, SPLIT)
    assert torch.equal(control.train.rows["label"], 1 - plain.train.rows["label"])
    assert torch.equal(control.test.rows["label"], plain.test.rows["label"])


def test_every_statistic_of_patients_passes_the_gate() -> None:
    class Doubled(Unprotected):
        def release(self, name: str, values: Values) -> Values:
            return 2 * super().release(name, values)

    gate = Doubled()
    config = DataConfig.model_validate(
        {"root": "x", "schema": "ward", "sites": {"a": {"file": "a.csv"}}}
    )
    guarded = EhrClassification(SCHEMA, config, ModelConfig(name="mlp"), private=gate)
    plain = task()
    np.testing.assert_array_equal(
        guarded.local_statistics(rows(), SPLIT), 2 * plain.local_statistics(rows(), SPLIT)
    )
    assert gate.released == {"normalisation"}
    gate.released.clear()
    guarded.datasets(rows(), SPLIT)
    assert gate.released == {"normalisation"}


def test_an_unknown_feature_is_refused_before_any_data_is_read() -> None:
    with pytest.raises(ConfigError, match=r"data\.features: ward has no feature 'agee'"):
        task(features=["agee"])


def test_an_unknown_task_is_answered_with_the_known_ones(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    config = RunConfig.model_construct(task="ehr-clasification")
    with pytest.raises(ConfigError, match=r"task: .*did you mean 'ehr-classification'"):
        build_task(config, tmp_path_factory.getbasetemp())


def test_neither_the_task_nor_its_data_print_patients() -> None:
    site = rows()
    data = task().datasets(site, SPLIT)
    shown = repr(data) + repr(data.train) + repr(task()) + repr(site)
    assert "tensor" not in shown
    assert "array" not in shown


def test_a_small_site_is_prepared_in_less_than_three_milliseconds() -> None:
    learn, site, seconds = task(), rows(50), []
    for _ in range(20):
        start = time.perf_counter()
        learn.datasets(site, SPLIT)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.003


def test_validation_patients_come_out_of_the_training_part_and_are_whole_patients() -> None:
    site = rows(60, rows_each=3)
    plain, apart = task(), task(validation_fraction=0.25)
    before, after = plain.datasets(site, SPLIT), apart.datasets(site, SPLIT)
    assert before.validation is None
    assert after.validation is not None
    parts = [set(p.rows["patient_id"].tolist()) for p in (after.train, after.validation)]
    trained = set(before.train.rows["patient_id"].tolist())
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == trained
    assert len(parts[1]) == len(after.validation) == round(0.25 * 14) + round(0.25 * 28)
    assert len(after.validation.rows["label"]) == 3 * len(parts[1])
    assert torch.equal(before.test.rows["features"], after.test.rows["features"])
    again = apart.datasets(site, SPLIT).validation
    assert again is not None
    assert torch.equal(again.rows["features"], after.validation.rows["features"])
    other = apart.datasets(site, Split(2, 0.3)).validation
    assert other is not None
    assert set(other.rows["patient_id"].tolist()) != parts[1]


def test_a_validation_patients_label_is_not_the_one_that_a_control_shuffled() -> None:
    site, apart = rows(), task(validation_fraction=0.25)
    expected = apart.datasets(site, SPLIT).validation
    shuffled = Rows(site.site_id, replace(site.table, train_label=1 - site.table.label))
    found = apart.datasets(shuffled, SPLIT)
    assert expected is not None
    assert found.validation is not None
    assert torch.equal(found.validation.rows["label"], expected.rows["label"])
    assert not torch.equal(
        found.train.rows["label"], apart.datasets(site, SPLIT).train.rows["label"]
    )
