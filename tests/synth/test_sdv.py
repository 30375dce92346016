"""SDV's synthesisers behind our surface: with SDV where it is installed, and without it."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fedward.common.errors import ConfigError, ShortfallError, StorageError
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.methods import new_synthesiser
from fedward.synth.tables.sdv_models import SDVCTGAN, SDVTVAE, SDVGaussianCopula
from tests.synth.clinic import CLINIC, patients

TRAIN = patients()
NAMES = ["sdv-gaussian-copula", "sdv-ctgan", "sdv-tvae"]


@pytest.fixture(scope="module")
def sdv() -> None:
    """Skip where SDV is not installed: its licence keeps it out of the lock files."""
    pytest.importorskip(
        "sdv", reason="needs SDV (BUSL-1.1): read its licence, then pip install 'fedward[synth]'"
    )


@pytest.fixture(scope="module")
def copula(sdv: None) -> SDVGaussianCopula:
    return SDVGaussianCopula(CLINIC).fit(TRAIN)


@pytest.mark.parametrize("name", NAMES)
def test_without_sdv_the_error_names_the_licence_and_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(module: str) -> Any:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("fedward.synth.tables.sdv_models.import_module", absent)
    with pytest.raises(ConfigError, match=r"BUSL-1\.1") as caught:
        new_synthesiser(name, columns=CLINIC).fit(TRAIN)
    assert "pip install 'fedward[synth]'" in str(caught.value)


def test_rows_that_came_out_with_another_class_are_never_used_to_fill_up() -> None:
    with pytest.raises(ConfigError, match="fill"):
        SDVGaussianCopula(CLINIC, on_shortfall="fill").fit(TRAIN)


@pytest.mark.parametrize(
    ("parameter", "value"), [("epochs", 0), ("batch_size", 5), ("batch_size", 64)]
)
def test_settings_that_sdv_would_stumble_over_are_refused(parameter: str, value: int) -> None:
    with pytest.raises(ConfigError, match=parameter):
        SDVCTGAN(CLINIC, **{parameter: value}).fit(TRAIN)  # type: ignore[arg-type]


def test_numbers_of_rows_are_exact_and_every_cell_is_allowed(copula: SDVGaussianCopula) -> None:
    rows = copula.sample(class_counts={0: 301, 1: 77}, seed=1)
    assert np.bincount(rows["septic"]).tolist() == [301, 77]
    for column in CLINIC.continuous:
        assert column.low is not None
        assert column.high is not None
        known = rows[column.name].dropna()
        assert known.between(column.low, column.high).all()
        assert known.tolist() == np.round(known, column.decimals or 0).tolist()
    assert set(rows["stage"]) == {"low", "middle", "high"}
    assert set(rows["female"]) == {0.0, 1.0}
    assert all(rule.holds(rows).all() for rule in CLINIC.constraints)


def test_classes_and_gaps_are_learned(copula: SDVGaussianCopula) -> None:
    rows = copula.sample(2000, class_counts="balanced", seed=1)
    older = rows.loc[rows["septic"] == 1, "age"].mean()
    assert older > rows.loc[rows["septic"] == 0, "age"].mean() + 3
    # SDV does not learn that gaps differ between the classes, but how many there are.
    share = copula.sample(2000, seed=1)["lactate"].isna().mean()
    assert share == pytest.approx(TRAIN["lactate"].isna().mean(), abs=0.06)


def test_the_same_seed_gives_the_same_rows_and_another_one_others(
    copula: SDVGaussianCopula,
) -> None:
    first, second, third = (copula.sample(50, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, second)
    assert not first.equals(third)


def test_one_block_is_not_the_next_one_again(copula: SDVGaussianCopula) -> None:
    rows = copula.sample(class_counts={0: 2 * copula.block_rows}, seed=1)
    assert rows.duplicated().mean() < 0.05


def test_the_global_generators_are_left_as_they_were(copula: SDVGaussianCopula) -> None:
    def states() -> tuple[str, list[int]]:
        numpy_state = pickle.dumps(np.random.get_state()).hex()  # noqa: NPY002
        return numpy_state, torch.get_rng_state().tolist()

    before = states()
    copula.sample(20, seed=5)
    assert states() == before


def test_sdv_is_asked_again_where_it_returns_fewer_rows(
    copula: SDVGaussianCopula, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = copula.model_.sample
    monkeypatch.setattr(copula.model_, "sample", lambda size: honest(size // 3))
    assert len(copula.sample(500, seed=1)) == 500
    monkeypatch.setattr(copula.model_, "sample", lambda _size: honest(5))
    with pytest.raises(ShortfallError, match="10 times"):
        copula.sample(500, seed=1)


def test_conditions_hold(copula: SDVGaussianCopula) -> None:
    rows = copula.sample(40, conditions={"age": (60, 80), "stage": "high"}, seed=1)
    assert len(rows) == 40
    assert rows["age"].between(60, 80).all()
    assert (rows["stage"] == "high").all()


def test_tables_without_a_label_are_learned(sdv: None) -> None:
    rows = SDVGaussianCopula(Columns(CLINIC.columns)).fit(TRAIN).sample(30, seed=1)
    assert list(rows.columns) == list(CLINIC.names)
    assert len(rows) == 30


def test_what_sdv_has_learned_cannot_be_saved(copula: SDVGaussianCopula, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be stored"):
        copula.save(tmp_path / "copula.synth")


@pytest.mark.slow
@pytest.mark.parametrize(("method", "epochs"), [(SDVCTGAN, 10), (SDVTVAE, 100)])
def test_the_networks_of_sdv_give_rows_too(
    sdv: None, method: type[SDVCTGAN | SDVTVAE], epochs: int
) -> None:
    model = method(CLINIC, epochs=epochs, batch_size=100, seed=3).fit(TRAIN)
    rows = model.sample(200, class_counts="balanced", seed=1)
    assert np.bincount(rows["septic"]).tolist() == [100, 100]
    pd.testing.assert_frame_equal(rows, model.sample(200, class_counts="balanced", seed=1))
