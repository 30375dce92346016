import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fedward.common.config.loader import load_run_config
from fedward.common.config.run import DataConfig
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.task import PatientDataset, Split
from fedward.common.tasks import build_task
from fedward.simulations.cli import find_config
from fedward.simulations.sites import SimulatedSites, pool, resolve_sites
from tests.client.clinic import clinic_frame

CLINIC_SCHEMA = """\
version: 1
name: clinic
patient_id: mrn
label: {column: died}
fields:
  - {name: age, kind: continuous, unit: years, range: [0, 120]}
  - {name: chol, kind: continuous, range: [50, 900]}
  - {name: smoker, kind: categorical, categories: [never, former, current]}
exclude: [ward, site, hour_of_death, creatinine, stage]
min_cohort: 4
"""


def clinic(folder: Path, frame: pd.DataFrame, **partition: Any) -> DataConfig:
    (folder / "clinic.yaml").write_text(CLINIC_SCHEMA, encoding="utf-8")
    frame.to_csv(folder / "clinic.csv", index=False)
    return DataConfig.model_validate(
        {"root": ".", "schema": "clinic.yaml", "partition": {"table": "clinic.csv", **partition}}
    )


def generated(**options: Any) -> DataConfig:
    cut = {"table": "gaussian-sites", "by": "iid", "num_sites": 10, "options": options}
    return DataConfig.model_validate(
        {"root": "builtin", "schema": "gaussian-sites", "partition": cut}
    )


def sites_of(data: DataConfig, folder: Path = Path(), seed: int = 1) -> SimulatedSites:
    return resolve_sites(data, seed=seed, base_dir=folder)


def ages(sites: SimulatedSites) -> dict[str, list[float]]:
    return {site: sites.source(site).read().columns["age"].tolist() for site in sites.site_ids}


def test_a_column_names_the_site_of_each_row(tmp_path: Path) -> None:
    frame = clinic_frame(12)
    frame["site"] = ["north", "south"] * 6
    sites = sites_of(clinic(tmp_path, frame, by="column", column="site"), tmp_path)
    assert sites.site_ids == ("north", "south")
    assert ages(sites)["south"] == frame["age"][1::2].tolist()
    assert sites.registered_cohort("north") == 6


def test_numbers_can_name_sites(tmp_path: Path) -> None:
    frame = clinic_frame(12)
    frame["site"] = [1, 2] * 6
    sites = sites_of(clinic(tmp_path, frame, by="column", column="site"), tmp_path)
    assert sites.site_ids == ("1", "2")


@pytest.mark.parametrize("name", [np.nan, "St. Mary", "", "../up", "a" * 64])
def test_a_row_that_names_no_usable_site_is_counted_not_shown(tmp_path: Path, name: Any) -> None:
    frame = clinic_frame(12)
    frame["site"] = ["north"] * 10 + [name] * 2
    with pytest.raises(SiteDataError, match="column 'site': 2 rows do not name a site") as caught:
        sites_of(clinic(tmp_path, frame, by="column", column="site"), tmp_path)
    assert "Mary" not in str(caught.value)


def test_a_site_below_the_minimum_cohort_is_refused_by_name_without_its_size(
    tmp_path: Path,
) -> None:
    frame = clinic_frame(12)
    frame["site"] = ["north"] * 9 + ["south"] * 3
    with pytest.raises(SiteDataError, match=r"site south: fewer .* cohort of 4") as caught:
        sites_of(clinic(tmp_path, frame, by="column", column="site"), tmp_path)
    assert "3" not in str(caught.value).split("site south")[1]


@pytest.mark.parametrize(
    ("partition", "says"),
    [
        ({"by": "column", "column": "wardd"}, r"no column 'wardd', did you mean 'ward'\?"),
        ({"by": "feature-shift", "column": "agee", "num_sites": 2}, "did you mean 'age'"),
        ({"by": "feature-shift", "column": "ward", "num_sites": 2}, "no feature 'ward'"),
    ],
)
def test_a_partition_by_a_column_that_is_not_there_is_refused(
    tmp_path: Path, partition: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=r"data\.partition\.column.*" + says):
        sites_of(clinic(tmp_path, clinic_frame(40), **partition), tmp_path)


@pytest.mark.parametrize(
    "partition",
    [
        {"by": "iid"},
        {"by": "label-skew", "alpha": 1.0},
        {"by": "size-skew", "alpha": 1.0},
        {"by": "feature-shift", "column": "age"},
    ],
)
def test_a_patient_with_several_rows_is_at_one_site_with_all_of_them(
    tmp_path: Path, partition: dict[str, Any]
) -> None:
    frame = clinic_frame(120)
    frame["mrn"] = np.arange(120) // 3
    data = clinic(tmp_path, frame, num_sites=3, min_patients=4, **partition)
    sites = sites_of(data, tmp_path)
    found = [set(sites.source(site).read().patient_id) for site in sites.site_ids]
    assert sum(map(len, found)) == len(set.union(*found)) == 40
    for site in sites.site_ids:
        assert (np.unique(sites.source(site).read().patient_id, return_counts=True)[1] == 3).all()
        assert sites.registered_cohort(site) >= 4


def test_an_edited_table_is_read_again(tmp_path: Path) -> None:
    data = clinic(tmp_path, clinic_frame(40), by="iid", num_sites=2)
    before = ages(sites_of(data, tmp_path))
    assert ages(sites_of(data, tmp_path)) == before
    time.sleep(0.01)
    clinic(tmp_path, clinic_frame(40, seed=1), by="iid", num_sites=2)
    assert ages(sites_of(data, tmp_path)) != before


def test_files_of_sites_are_not_opened_before_they_are_needed(tmp_path: Path) -> None:
    clinic(tmp_path, clinic_frame(), by="iid", num_sites=2)
    files = {"here": {"file": "clinic.csv"}, "gone": {"file": "gone.csv"}}
    data = DataConfig.model_validate({"root": ".", "schema": "clinic.yaml", "sites": files})
    sites = sites_of(data, tmp_path)
    assert sites.site_ids == ("gone", "here")
    assert sites.registered_cohort("here") == 20
    with pytest.raises(SiteDataError, match=r"gone\.csv: there is no such file"):
        sites.source("gone").read()


def test_a_known_data_set_that_is_not_here_names_the_command_that_fetches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDWARD_DATA_DIR", str(tmp_path))
    data = load_run_config(find_config("heart_disease")).config.data
    with pytest.raises(ConfigError, match="fedward data fetch heart-disease"):
        sites_of(data, tmp_path)


def test_a_root_that_is_nothing_is_answered_with_the_nearest_data_set(tmp_path: Path) -> None:
    data = DataConfig.model_validate(
        {"root": "sepsiss", "schema": "sepsis", "sites": {"a": {"file": "a.csv"}}}
    )
    with pytest.raises(ConfigError, match=r"no folder .*sepsiss, did you mean 'sepsis'\?"):
        sites_of(data, tmp_path)


def test_an_unknown_builtin_table_is_answered_with_the_known_ones() -> None:
    data = DataConfig.model_validate(
        {
            "root": "builtin",
            "schema": "breast-cancer",
            "partition": {"table": "brest-cancer", "by": "iid", "num_sites": 2},
        }
    )
    with pytest.raises(ConfigError, match="did you mean 'breast-cancer'"):
        sites_of(data)


def test_the_builtin_clinical_table_is_the_published_one() -> None:
    config = find_config("quickstart")
    sites = sites_of(load_run_config(config).config.data, config.parent)
    tables = [sites.source(site).read() for site in sites.site_ids]
    # UCI: 569 patients, 212 malignant, 30 measurements.
    assert sum(map(len, tables)) == 569
    assert sum(int(table.label.sum()) for table in tables) == 212
    assert len(tables[0].columns) == 30
    assert min(map(len, tables)) >= 40


def test_shuffled_labels_spare_the_named_sites_and_every_true_label(tmp_path: Path) -> None:
    data = clinic(tmp_path, clinic_frame(60), by="iid", num_sites=3)
    plain = sites_of(data, tmp_path)
    control = sites_of(data.model_copy(update={"shuffle_labels_except": ("site-1",)}), tmp_path)
    assert control.source("site-1").read().train_label is None
    for site in ("site-2", "site-3"):
        table, true = control.source(site).read(), plain.source(site).read().label
        assert table.train_label is not None
        np.testing.assert_array_equal(table.label, true)
        assert (table.train_label != true).any()
        assert table.train_label.sum() == true.sum()
    with pytest.raises(ConfigError, match="no site site-9"):
        sites_of(data.model_copy(update={"shuffle_labels_except": ("site-9",)}), tmp_path)


def test_generated_sites_are_the_same_in_every_process_and_differ_from_each_other() -> None:
    first, again = sites_of(generated()), sites_of(generated())
    assert len(first.site_ids) == 10
    one, same = first.source("site-01").read(), again.source("site-01").read()
    np.testing.assert_array_equal(one.columns["f3"], same.columns["f3"])
    assert (one.columns["f3"] != first.source("site-02").read().columns["f3"]).all()
    assert (
        one.columns["f3"] != sites_of(generated(), seed=2).source("site-01").read().columns["f3"]
    ).all()


def test_generated_sites_have_as_many_rows_as_asked() -> None:
    sites = sites_of(generated(num_sites=40, rows_min=5, rows_max=9))
    sizes = {len(sites.source(site).read()) for site in sites.site_ids}
    assert sizes == {5, 6, 7, 8, 9}
    assert sites.registered_cohort("site-01") == 9


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rows_per_sit": 5}, r"options\.rows_per_sit: unknown, did you mean 'rows_per_site'"),
        ({"rows_per_site": 0}, r"options\.rows_per_site: expected a whole number, at least 1"),
        ({"num_sites": 2.5}, r"options\.num_sites: expected a whole number"),
        ({"rows_min": 90, "rows_max": 10}, "rows_min: larger than rows_max"),
    ],
)
def test_an_option_of_the_generator_that_makes_no_sense_is_refused(
    options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        sites_of(generated(**options))


def test_generated_sites_refuse_a_partitioner_and_a_schema_of_another_table() -> None:
    data = generated()
    assert data.partition is not None
    skewed = data.partition.model_copy(update={"by": "label-skew", "alpha": 1.0})
    with pytest.raises(ConfigError, match="label-skew does not apply"):
        sites_of(data.model_copy(update={"partition": skewed}))
    with pytest.raises(ConfigError, match=r"data\.schema: .* no column 'age'"):
        sites_of(data.model_copy(update={"schema_name": "heart-disease"}))


def test_a_thousand_generated_sites_are_named_at_once_and_made_one_by_one() -> None:
    config = load_run_config(find_config("many_sites")).config
    task, seconds = build_task(config, Path()), []
    for _ in range(5):
        start = time.process_time()
        sites = sites_of(config.data)
        assert len(sites.site_ids) == 1000
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.05
    one_site = []
    for site in sites.site_ids[:10]:
        start = time.process_time()
        task.datasets(sites.source(site), Split(1, 0.2))
        one_site.append(time.process_time() - start)
    assert min(one_site) < 0.003


def test_pooled_patients_are_those_of_all_sites_each_with_their_rows() -> None:
    def part(starts: list[int] | None, first: float, num_rows: int) -> PatientDataset:
        rows = {
            "x": first + torch.arange(num_rows),
            "patient_id": torch.arange(num_rows),
        }
        return PatientDataset(rows, None if starts is None else torch.tensor(starts))

    parts = [part([0, 2, 3], 0, 3), part(None, 10, 2), part([0, 1, 4], 20, 4)]
    pooled = pool(parts)
    assert len(pooled) == sum(map(len, parts)) == 6
    patients = [pooled.batch(torch.tensor([p]))["x"].tolist() for p in range(6)]
    assert patients == [[0, 1], [2], [10], [11], [20], [21, 22, 23]]
    # Figures by patient go by the number: nobody has that of another site's patient.
    assert len(set(pooled.rows["patient_id"].tolist())) == 9
    single = pool([part(None, 0, 2), part(None, 10, 3)])
    assert single.starts is None
    assert len(single) == 5


def test_the_four_hospitals_of_heart_disease_have_the_published_sizes(data_dir: Path) -> None:
    path = find_config("heart_disease")
    sites = sites_of(load_run_config(path).config.data, path.parent)
    sizes = {site: sites.registered_cohort(site) for site in sites.site_ids}
    assert sizes == {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}


def test_flambys_protocol_leaves_the_published_740_patients(data_dir: Path) -> None:
    path = find_config("heart_disease_flamby")
    config = load_run_config(path).config
    task, sites = build_task(config, path.parent), sites_of(config.data, path.parent)
    sizes = {}
    for site in sites.site_ids:
        data = task.datasets(sites.source(site), Split(1, 0.34))
        sizes[site] = len(data.train) + len(data.test)
    # Ogier du Terrail et al. 2022, arXiv:2210.04620, table of Fed-Heart-Disease.
    assert sizes == {"cleveland": 303, "hungarian": 261, "switzerland": 46, "va": 130}


def test_both_sepsis_hospitals_are_read_whole(data_dir: Path) -> None:
    path = find_config("sepsis")
    sites = sites_of(load_run_config(path).config.data, path.parent)
    assert sites.registered_cohort("hospital-a") == 19840
    assert sites.registered_cohort("hospital-b") == 19635


def test_federated_features_of_real_hospitals_are_those_of_the_pooled_table(data_dir: Path) -> None:
    path = find_config("heart_disease")
    config, split = load_run_config(path).config, Split(1, 0.34)
    task, sites = build_task(config, path.parent), sites_of(config.data, path.parent)
    sources = [sites.source(site) for site in sites.site_ids]
    summed = np.sum([task.local_statistics(source, split) for source in sources], axis=0)
    features = torch.cat([task.datasets(s, split, summed).train.rows["features"] for s in sources])
    age = features[:, 0].double()
    assert float(age.mean()) == pytest.approx(0, abs=1e-6)
    assert float(age.std(correction=0)) == pytest.approx(1, abs=1e-6)
    alone = torch.cat([task.datasets(source, split).train.rows["features"] for source in sources])
    assert not torch.allclose(features, alone, atol=0.1)
