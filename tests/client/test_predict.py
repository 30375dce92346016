"""Predictions: the right number for the right patient, from a file alone."""

import dataclasses
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from fedward.client.data.source import FileSource
from fedward.client.model_file import TrainedModel, read_model, write_model
from fedward.client.predict import open_model, predict
from fedward.common.config.loader import load_run_config
from fedward.common.errors import ConfigError, NoPatientsError, SiteDataError, StorageError
from fedward.common.release import Release
from fedward.common.study import Study
from fedward.common.task import Split
from fedward.simulations.builtin import builtin_frame
from fedward.simulations.cli import find_config
from fedward.simulations.simulate import simulate
from tests.client.clinic import CLINIC, clinic_frame
from tests.client.clinic_site import release, study


def model_of(of: Study) -> tuple[TrainedModel, Release]:
    given = release(of)
    model = of.new_model()
    of.shared_of(model).load(model, given.parameters)
    state = model.state_dict()
    return TrainedModel(given.header, state, given.statistics, "global"), given


def written(folder: Path, frame: pd.DataFrame) -> Path:
    frame.to_csv(folder / "patients.csv", index=False)
    return folder / "patients.csv"


def unlabelled() -> pd.DataFrame:
    return clinic_frame(30, seed=5).drop(columns=["died", "ward", "hour_of_death"])


@pytest.mark.parametrize("network", ["mlp", "ft-transformer", "logistic-regression"])
def test_predictions_are_those_of_the_evaluation(tmp_path: Path, network: str) -> None:
    of = study()
    if network != "mlp":
        config = of.config.model_copy(update={"model": type(of.config.model)(name=network)})
        of = Study(config, "federated", Split(3), schema=CLINIC)
    model, given = model_of(of)
    frame = clinic_frame(30, seed=5).sample(frac=1, random_state=1)
    table = written(tmp_path, frame)
    found = predict(model, table, tmp_path / "out")
    # The training's own way from file to probability, over all patients as test patients.
    source = FileSource("west", table, CLINIC)
    parts = of.task.datasets(source, Split(3, test_fraction=0.999999), given.statistics)
    rows = parts.test.all_rows()
    with torch.inference_mode():
        expected = torch.softmax(model.network()(rows).double(), dim=1).numpy()
    by_patient = dict(zip(rows["patient_id"].tolist(), expected, strict=True))
    got = pd.read_csv(found.path)
    ids = sorted(frame["mrn"])
    assert list(got["mrn"]) == list(frame["mrn"])
    for patient, positive in zip(got["mrn"], got["probability_positive"], strict=True):
        assert positive == pytest.approx(by_patient[ids.index(patient)][1], abs=1e-6)
    assert got["probability_positive"].std() > 0.01


def test_no_label_is_needed_and_a_label_in_the_table_changes_nothing(tmp_path: Path) -> None:
    model, _ = model_of(study())
    plain = predict(model, written(tmp_path, unlabelled()), tmp_path / "a").path.read_text()
    labelled = unlabelled().assign(died="unknown", ward="east")
    assert predict(model, written(tmp_path, labelled), tmp_path / "b").path.read_text() == plain


def test_a_single_patient_is_enough(tmp_path: Path) -> None:
    model, _ = model_of(study())
    found = predict(model, written(tmp_path, unlabelled().head(1)), tmp_path)
    assert found.num_rows == 1
    assert len(pd.read_csv(found.path)) == 1


def test_the_columns_are_row_patient_and_classes(tmp_path: Path) -> None:
    model, _ = model_of(study())
    got = pd.read_csv(predict(model, written(tmp_path, unlabelled()), tmp_path).path)
    assert list(got.columns) == ["row", "mrn", "probability_negative", "probability_positive"]
    assert list(got["row"]) == list(range(1, 31))
    np.testing.assert_allclose(got["probability_negative"] + got["probability_positive"], 1)


def test_the_file_is_private(tmp_path: Path) -> None:
    model, _ = model_of(study())
    path = predict(model, written(tmp_path, unlabelled()), tmp_path / "out").path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_only_the_models_features_are_needed(tmp_path: Path) -> None:
    model, _ = model_of(study(data={"features": ["age", "stage"]}))
    frame = unlabelled()[["mrn", "age", "stage"]]
    assert predict(model, written(tmp_path, frame), tmp_path).num_rows == 30


def test_missing_values_are_imputed_as_in_training(tmp_path: Path) -> None:
    model, _ = model_of(study())
    frame = unlabelled()
    frame.loc[0, "creatinine"] = np.nan
    got = pd.read_csv(predict(model, written(tmp_path, frame), tmp_path).path)
    assert got["probability_positive"].notna().all()


def test_a_model_of_complete_rows_says_nothing_of_others(tmp_path: Path) -> None:
    model, _ = model_of(study(data={"complete_cases": True}))
    frame = unlabelled()
    frame.loc[3, "creatinine"] = np.nan
    found = predict(model, written(tmp_path, frame), tmp_path)
    got = pd.read_csv(found.path)
    assert found.num_without == 1
    assert list(got.index[got["probability_positive"].isna()]) == [3]


def test_a_wrong_unit_is_refused_without_showing_a_value(tmp_path: Path) -> None:
    model, _ = model_of(study())
    frame = unlabelled()
    frame["creatinine"] = 1.2345  # mg/dl
    with pytest.raises(SiteDataError, match="another unit") as caught:
        predict(model, written(tmp_path, frame), tmp_path)
    assert "1.2345" not in str(caught.value)


def test_a_missing_feature_is_named(tmp_path: Path) -> None:
    model, _ = model_of(study())
    table = written(tmp_path, unlabelled().rename(columns={"creatinine": "creatinin"}))
    with pytest.raises(SiteDataError, match="no column 'creatinine', did you mean 'creatinin'"):
        predict(model, table, tmp_path)


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    model, _ = model_of(study())
    with pytest.raises(NoPatientsError):
        predict(model, written(tmp_path, unlabelled().head(0)), tmp_path)


def test_a_model_without_sums_says_where_to_get_them(tmp_path: Path) -> None:
    model, _ = model_of(study())
    model = dataclasses.replace(model, statistics=None)
    with pytest.raises(ConfigError, match="fedward model pull"):
        predict(model, written(tmp_path, unlabelled()), tmp_path)


def test_a_file_predicts_what_the_model_predicts(tmp_path: Path) -> None:
    model, _ = model_of(study())
    table = written(tmp_path, unlabelled())
    before = predict(model, table, tmp_path / "a").path.read_text()
    path = write_model(model, tmp_path / "m.safetensors")
    assert predict(read_model(path), table, tmp_path / "b").path.read_text() == before


def test_weights_alone_are_no_model(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(ConfigError, match="not what they mean"):
        open_model(tmp_path / "m.safetensors")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"\x01\x02")
    with pytest.raises(StorageError, match=r"m\.safetensors"):
        open_model(tmp_path / "m.safetensors")


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a bundle"):
        open_model(tmp_path)


def test_a_network_of_somebodys_own_is_imported_only_when_asked_for(tmp_path: Path) -> None:
    model, given = model_of(study())
    config = {**given.config, "model": {"name": "tests.client.no_such_module:Net"}}
    header = dataclasses.replace(given, config=config).header
    table = written(tmp_path, unlabelled())
    with pytest.raises(ConfigError, match="is not a model of fedward"):
        predict(dataclasses.replace(model, header=header), table, tmp_path)


def test_a_finished_simulation_predicts(tmp_path: Path) -> None:
    file = find_config("quickstart")
    fast = ["engine.name=inprocess", "baselines=[]", "repeat=null", "rounds=5"]
    run = simulate(load_run_config(file, fast).config, base_dir=file.parent, out=tmp_path)
    frame = builtin_frame("breast-cancer")
    table = written(tmp_path, frame.drop(columns="malignant"))
    got = pd.read_csv(predict(open_model(run.folder), table, tmp_path / "out").path)
    auroc = roc_auc_score(frame["malignant"], got["probability_malignant"])
    assert auroc > 0.8, "0.5 is chance"
    reported = run.summary["global"]["metrics"]["auroc"]
    assert reported["low"] < auroc < reported["high"]


def test_a_run_whose_parts_are_at_the_sites_does_not_predict(tmp_path: Path) -> None:
    file = find_config("quickstart")
    fast = [
        "engine.name=inprocess", "baselines=[]", "repeat=null", "rounds=1", "shared=[head.*]"
    ]  # fmt: skip
    run = simulate(load_run_config(file, fast).config, base_dir=file.parent, out=tmp_path)
    with pytest.raises(ConfigError, match="stayed there"):
        open_model(run.folder)
