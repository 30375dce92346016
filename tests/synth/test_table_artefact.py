"""Fitted synthesisers as files: whole, private, and never executed."""

import io
import json
import pickle
import stat
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fedward.synth
from fedward.common.errors import ConfigError, StorageError
from fedward.common.tables.schema import FieldSchema, TableSchema, load_schema
from fedward.synth import ClassGaussian, Columns, GaussianCopula, load, read_header
from fedward.synth.tables import artefact, methods
from fedward.synth.tables.base import Synthesiser
from fedward.synth.tables.codec import pack, storable, unpack
from fedward.synth.tables.methods import Method, method_names, new_synthesiser, synthesisers
from fedward.synth.tables.rows import Rows
from tests.synth.clinic import CLINIC, Copier, Uniform, patients

TRAIN = patients()
Model = GaussianCopula | ClassGaussian


@pytest.fixture
def model() -> GaussianCopula:
    return GaussianCopula(CLINIC, max_knots=20, seed=5).fit(TRAIN)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """List the copier, which holds patients, as a method."""

    class Listed(Method):
        def load(self) -> type[Synthesiser]:
            return Copier

    entry = Listed("copier", "Copier", "")
    monkeypatch.setitem(synthesisers._entries, "copier", entry)
    monkeypatch.setattr(artefact, "name_of", lambda model: "copier")


@pytest.mark.parametrize("method", [GaussianCopula, ClassGaussian])
@pytest.mark.parametrize("columns", [CLINIC, None])
def test_a_model_that_is_read_back_gives_the_same_rows(
    method: type[Model], columns: Columns | None, tmp_path: Path
) -> None:
    fitted = method(columns).fit(TRAIN.drop(columns="septic"), TRAIN["septic"])
    fitted.save(tmp_path / "c.synth", facts={"holdout": {"rows": 12}})
    for again in (load(tmp_path / "c.synth"), method.load(str(tmp_path / "c.synth"))):
        assert type(again) is method
        pd.testing.assert_frame_equal(again.sample(200, seed=3), fitted.sample(200, seed=3))
        assert again.columns_ == fitted.columns_
        assert again.class_sizes_ == fitted.class_sizes_
        # What is read back can learn again.
        again.fit(TRAIN.drop(columns="septic"), TRAIN["septic"])
    assert read_header(tmp_path / "c.synth")["facts"] == {"holdout": {"rows": 12}}


def test_parameters_come_back(model: GaussianCopula, tmp_path: Path) -> None:
    model.save(tmp_path / "c.synth")
    assert load(tmp_path / "c.synth").get_params() == model.get_params()


def test_the_header_can_be_read_without_fedward(model: GaussianCopula, tmp_path: Path) -> None:
    model.save(tmp_path / "c.synth")
    with zipfile.ZipFile(tmp_path / "c.synth") as archive:
        header = json.loads(archive.read("header.json"))
    assert header == read_header(tmp_path / "c.synth")
    assert header["method"] == "gaussian-copula"
    assert header["columns"] == list(CLINIC.names)
    assert header["class_sizes"] == [300, 100]
    assert header["contains_patients"] is False
    assert "notice" not in header


@pytest.mark.usefixtures("listed")
def test_a_file_with_patients_says_so(tmp_path: Path) -> None:
    Copier(CLINIC).fit(TRAIN).save(tmp_path / "c.synth")
    header = read_header(tmp_path / "c.synth")
    assert header["contains_patients"] is True
    assert "contains patients" in header["notice"]
    assert "must not leave the hospital" in header["notice"]
    again = load(tmp_path / "c.synth")
    pd.testing.assert_frame_equal(
        again.sample(50, seed=1), Copier(CLINIC).fit(TRAIN).sample(50, seed=1)
    )


def test_files_are_their_owners_alone(model: GaussianCopula, tmp_path: Path) -> None:
    path = tmp_path / "models" / "c.synth"
    model.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["c.synth"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(
    model: GaussianCopula, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.synth"
    model.save(path)
    before = path.read_bytes()

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(StorageError, match="No space left"):
        GaussianCopula(CLINIC).fit(TRAIN).save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def values_in(path: Path) -> set[float]:
    """Return every number in a file: in its arrays and in its texts."""
    found: set[float] = set()

    def collect(value: Any) -> None:
        if isinstance(value, dict | list):
            for one in value.values() if isinstance(value, dict) else value:
                collect(one)
        elif isinstance(value, int | float):
            found.add(float(value))

    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".json"):
                collect(json.loads(archive.read(name)))
            else:
                found |= set(np.load(io.BytesIO(archive.read(name))).ravel().astype(float))
    return found


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize("holds", [False, True])
def test_no_extreme_value_is_in_a_file_without_patients(holds: bool, tmp_path: Path) -> None:
    train = TRAIN.copy()
    train.loc[4, "crp"] = 587.3
    features, label = train.drop(columns="septic"), train["septic"]
    model = (Copier if holds else GaussianCopula)().fit(features, label)
    model.save(tmp_path / "c.synth")
    scale = model.encoder_.scales[3]
    stored = np.array(sorted(values_in(tmp_path / "c.synth")))
    extreme = [587.3, *scale.forward(np.array([587.3]))]
    assert any(np.isclose(stored, one, rtol=1e-9, atol=0).any() for one in extreme) is holds


def test_damaged_and_foreign_files_are_refused(model: GaussianCopula, tmp_path: Path) -> None:
    path = tmp_path / "c.synth"
    model.save(path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for size in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(StorageError, match=r"c\.synth"):
            load(path)
    refused = 0
    for place in rng.integers(0, len(content), 60):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            load(path)
        except StorageError:
            refused += 1
    # Dates, permissions and the like are the only bytes that nothing depends on.
    assert refused > 45
    path.write_text("age,sex\n")
    with pytest.raises(StorageError, match="no synthesiser"):
        load(path)
    with pytest.raises(StorageError, match="no such file"):
        load(tmp_path / "gone.synth")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", json.dumps({"format": "another"}))
    with pytest.raises(StorageError, match="is no synthesiser"):
        read_header(path)


def rewritten(path: Path, **changes: Any) -> None:
    """Replace members of a zip."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | changes).items():
            archive.writestr(name, content)


def test_files_of_other_versions_and_methods_are_refused(
    model: GaussianCopula, tmp_path: Path
) -> None:
    path = tmp_path / "c.synth"
    model.save(path)
    header = read_header(path)
    for change, told in (({"version": 9}, "version 9"), ({"method": "magic"}, "not known here")):
        rewritten(path, **{"header.json": json.dumps(header | change)})
        with pytest.raises(StorageError, match=told):
            load(path)
    rewritten(path, **{"header.json": json.dumps(header)})
    with pytest.raises(StorageError, match="holds a GaussianCopula, no ClassGaussian"):
        ClassGaussian.load(path)


class Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a file was executed",))


@pytest.mark.parametrize("name", ["arrays/array-0.npy", "values.json", "header.json"])
def test_nothing_in_a_file_is_executed(name: str, model: GaussianCopula, tmp_path: Path) -> None:
    path = tmp_path / "c.synth"
    model.save(path)
    objects = io.BytesIO()
    np.save(objects, np.array([Exploit()], dtype=object), allow_pickle=True)
    for content in (objects.getvalue(), pickle.dumps(Exploit())):
        rewritten(path, **{name: content})
        with pytest.raises(StorageError):
            load(path)


@pytest.mark.parametrize(
    "state",
    [
        {"type": "dict", "items": [["classes_", {"type": "Popen", "fields": {}}]]},
        {"type": "dict", "items": [["columns_", {"type": "Column", "fields": {"name": "x"}}]]},
        {"type": "dict", "items": [["__class__", 5]]},
        {"type": "dict", "items": 5},
        {"type": "array", "name": "array-999"},
        5,
    ],
)
def test_values_of_unknown_types_are_refused(
    state: Any, model: GaussianCopula, tmp_path: Path
) -> None:
    path = tmp_path / "c.synth"
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        values = json.loads(archive.read("values.json"))
    rewritten(path, **{"values.json": json.dumps(values | {"state": state})})
    with pytest.raises(StorageError, match=r"c\.synth"):
        load(path)


def test_what_cannot_be_stored_is_refused_before_anything_is_written(
    model: GaussianCopula, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="learned nothing yet"):
        GaussianCopula(CLINIC).save(tmp_path / "c.synth")
    with pytest.raises(StorageError, match="no listed method"):
        Uniform(CLINIC).fit(TRAIN).save(tmp_path / "c.synth")
    with pytest.raises(StorageError, match="facts"):
        model.save(tmp_path / "c.synth", facts={"x": object()})
    model.extra_ = object()
    with pytest.raises(StorageError, match="a object cannot be stored"):
        model.save(tmp_path / "c.synth")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        "text",
        1.5,
        float("inf"),
        [1, (2, 3)],
        {(1, "a"): {0: None}},
        CLINIC,
        load_schema("sepsis"),
    ],
)
def test_values_come_back_as_they_were(value: Any) -> None:
    arrays: dict[str, Any] = {}
    again = unpack(json.loads(json.dumps(pack(value, arrays))), arrays)
    assert again == value
    assert type(again) is type(value)


def test_arrays_and_rows_come_back_as_they_were() -> None:
    arrays: dict[str, Any] = {}
    rows = Rows(np.zeros((2, 3)), np.ones((2, 1), dtype=np.int64), np.zeros((2, 4), dtype=bool))
    again = unpack(json.loads(json.dumps(pack({"rows": rows}, arrays))), arrays)["rows"]
    assert again.codes_NC.dtype == np.int64
    assert again.absent_NM.dtype == bool
    assert (again.values_NF == rows.values_NF).all()
    assert np.isnan(unpack(pack(float("nan"), {}), {}))
    with pytest.raises(StorageError, match="object"):
        pack(np.array([object()]), {})


def test_only_dataclasses_become_storable_and_each_name_once() -> None:
    for cls in (int, Rows):
        with pytest.raises(ValueError, match="no dataclass, or"):
            storable(cls)


def test_every_listed_method_can_be_made_and_found_by_its_name() -> None:
    assert "gaussian-copula" in method_names()
    for name in method_names():
        if find_spec("sdv") is None and name.startswith("sdv-"):
            continue
        made = new_synthesiser(name, min_class_size=30)
        assert isinstance(made, Synthesiser)
        assert methods.name_of(made) == name
        assert made.get_params()["min_class_size"] == 30


def test_unknown_methods_and_parameters_are_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match="did you mean 'gaussian-copula'"):
        new_synthesiser("gausian-copula")
    with pytest.raises(ConfigError, match="did you mean 'max_knots'"):
        new_synthesiser("gaussian-copula", max_knot=3)


def test_a_method_whose_extra_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"needs fedward\.synth\.tables\.nowhere: pip"):
        Method("nowhere", "Nothing", "").load()


def test_a_model_of_a_schema_is_stored_with_it(tmp_path: Path) -> None:
    schema: TableSchema = load_schema("heart-disease")
    rng = np.random.default_rng(0)

    def values(field: FieldSchema) -> Any:
        if field.range is None:
            return rng.choice(np.array(field.categories), 80)
        return rng.uniform(field.range[0], field.range[1], 80)

    frame = pd.DataFrame({field.name: values(field) for field in schema.fields}).assign(
        **{str(schema.label_column): np.arange(80) % 2}
    )
    fitted = GaussianCopula(schema).fit(frame)
    fitted.save(tmp_path / "c.synth")
    again = load(tmp_path / "c.synth")
    pd.testing.assert_frame_equal(again.sample(9, seed=1), fitted.sample(9, seed=1))


def test_every_public_name_can_be_imported_and_none_loads_the_others() -> None:
    for name in fedward.synth.__all__:
        assert getattr(fedward.synth, name).__name__ == name
        assert name in dir(fedward.synth)
    assert set(fedward.synth.__all__) == set(fedward.synth._MODULES)
    with pytest.raises(AttributeError, match="Nothing"):
        fedward.synth.Nothing  # noqa: B018


def test_phantoms_need_no_pandas_and_a_copula_no_torch() -> None:
    code = """
import sys
import fedward.synth, fedward.synth.phantom
assert "pandas" not in sys.modules
from fedward.synth import GaussianCopula, load
assert "torch" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
