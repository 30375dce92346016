import io
import json
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedward.client.data import catalogue
from fedward.client.data.catalogue import DATA_SETS, DataSet, fetch, resolve_root, verify
from fedward.client.data.convert import HEART_FILES, sepsis_first_hours
from fedward.common.errors import ConfigError, NetworkError, SiteDataError
from fedward.deploy.cli import main

# Columns as UCI's `processed` files have them; four patients per hospital, half of them ill.
HEALTHY = "63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,0.0"
ILL = "67.0,1.0,4.0,160.0,?,0.0,2.0,108.0,1.0,1.5,2.0,?,?,2"
HOURLY = ["HR", "Age", "Gender", "Unit1", "Unit2", "HospAdmTime", "ICULOS", "SepsisLabel"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder of local copies."""
    monkeypatch.setenv("FEDWARD_DATA_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small_heart(monkeypatch: pytest.MonkeyPatch) -> DataSet:
    """Return a heart disease of sixteen patients, known under its usual name."""
    fields = {**vars(DATA_SETS["heart-disease"]), "files": {"heart_disease_4sites.csv": (16, 8)}}
    entry = DataSet(**fields)
    monkeypatch.setitem(DATA_SETS, entry.name, entry)
    # Made-up patients have another hash than the published ones.
    monkeypatch.setattr(catalogue, "content_hash", lambda folder, entry: entry.sha256)
    return entry


def heart_archive(*, healthy: str = HEALTHY) -> bytes:
    files = dict.fromkeys(HEART_FILES.values(), f"{healthy}\n{ILL}\n" * 2)
    return archive({**files, "heart-disease.names": "Publication Request"})


def archive(files: dict[str, str]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as out:
        for name, text in files.items():
            out.writestr(name, text)
    return content.getvalue()


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[str]:
    """Answer every download with `content`; return the addresses that were asked for."""
    asked: list[str] = []

    def urlopen(url: str, *, timeout: float) -> io.BytesIO:
        assert timeout > 0
        asked.append(url)
        return io.BytesIO(content)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def unplug(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def urlopen(url: str, *, timeout: float) -> io.BytesIO:
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def test_the_list_names_licence_and_how_to_get_each_data_set(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["data", "list"]) == 0
    shown = capsys.readouterr().out
    for entry in DATA_SETS.values():
        assert entry.licence in shown
        how = entry.by_hand or f"fedward data fetch {entry.name}"
        assert f"not here; {how}" in shown


def test_the_list_for_scripts_says_where_copies_are(
    capsys: pytest.CaptureFixture[str], data_dir: Path
) -> None:
    assert main(["data", "list", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert listed.keys() == DATA_SETS.keys()
    assert Path(listed["heart-disease"]["local_path"]) == data_dir / "uci_heart_disease"
    assert listed["sepsis"]["citation"].startswith("Reyna")


def test_a_fetched_data_set_is_converted_verified_and_found_by_its_name(
    small_heart: DataSet,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = serve(monkeypatch, heart_archive())
    assert main(["data", "fetch", "heart-disease"]) == 0
    out, err = capsys.readouterr()
    assert asked == [small_heart.home]
    assert Path(out.strip()) == cache / "uci_heart_disease"
    assert "CC BY 4.0" in err
    assert "verified" in err
    frame = pd.read_csv(cache / "uci_heart_disease" / "heart_disease_4sites.csv")
    assert frame["site"].value_counts().to_dict() == dict.fromkeys(HEART_FILES, 4)
    assert frame["chol"].isna().sum() == 8
    assert resolve_root("heart-disease", Path()) == cache / "uci_heart_disease"
    assert resolve_root("heart_disease", Path()) == cache / "uci_heart_disease"
    assert [path.name for path in (cache / "uci_heart_disease").iterdir()] == list(
        small_heart.files
    )


def test_what_is_already_here_is_checked_and_not_downloaded_again(
    small_heart: DataSet, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch, heart_archive())
    fetch("heart-disease")
    fetch("heart-disease")
    assert len(asked) == 1
    file = cache / small_heart.folder / "heart_disease_4sites.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(SiteDataError, match=r"15 rows, 7 positive; published are 16 and 8; delete"):
        fetch("heart-disease")
    file.write_bytes(b"\xff\xfe\x00nonsense")
    with pytest.raises(SiteDataError, match=r"cannot be read as a table .*; delete"):
        fetch("heart-disease")


def test_without_a_network_the_command_ends_with_4_and_says_what_to_do(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unplug(monkeypatch, urllib.error.URLError("no route to host"))
    assert main(["data", "fetch", "sepsis"]) == 4
    message = capsys.readouterr().err
    assert DATA_SETS["sepsis"].home in message
    assert "no route to host" in message
    assert "FEDWARD_DATA_DIR" in message
    assert "Traceback" not in message
    assert not cache.exists()


@pytest.mark.parametrize("error", [TimeoutError("timed out"), ConnectionResetError("reset")])
def test_a_connection_that_breaks_is_a_network_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    unplug(monkeypatch, error)
    with pytest.raises(NetworkError, match="cannot reach https://archive"):
        fetch("heart-disease")


def damaged() -> bytes:
    content = bytearray(heart_archive())
    content[60:75] = b"x" * 15
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        b"<html>moved</html>",
        b"",
        heart_archive()[:400],
        archive({"readme.txt": "hello"}),
        heart_archive(healthy="a,b" + ",0" * 12),
        damaged(),
    ],
    ids=["a page", "nothing", "cut short", "another archive", "other columns", "damaged"],
)
def test_a_wrong_archive_ends_with_3_and_leaves_nothing_that_looks_like_data(
    small_heart: DataSet,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
) -> None:
    serve(monkeypatch, content)
    assert main(["data", "fetch", "heart-disease"]) == 3
    message = capsys.readouterr().err
    assert "published" in message or "cells are not numbers" in message
    assert "Traceback" not in message
    assert small_heart.local_path is None
    assert not list(cache.rglob("*.csv"))


def test_an_archive_with_other_patients_than_published_is_refused(
    small_heart: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, heart_archive(healthy=ILL))
    with pytest.raises(SiteDataError, match="16 rows, 16 positive; published are 16 and 8"):
        fetch("heart-disease")
    assert small_heart.local_path is None


def test_a_folder_that_cannot_be_written_ends_with_7(
    small_heart: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    serve(monkeypatch, heart_archive())
    (tmp_path / "file").write_text("in the way")
    assert main(["data", "fetch", small_heart.name, "--to", str(tmp_path / "file")]) == 7
    assert "cannot be written" in capsys.readouterr().err


def test_an_unknown_data_set_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["data", "fetch", "hart-disease"]) == 2
    assert "did you mean 'heart-disease'" in capsys.readouterr().err


def test_a_root_that_is_not_here_names_the_command_that_fetches_it(cache: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_root("sepsis", Path())
    assert "fedward data fetch sepsis" in str(caught.value)
    assert str(cache) in str(caught.value)


def test_a_folder_is_a_root_too(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    assert resolve_root("tables", tmp_path) == tmp_path / "tables"


def hours(values: list[Any], labels: list[int], start: int = 1) -> str:
    rows = [
        f"{value}|70|1|NaN|NaN|-5|{start + hour}|{label}"
        for hour, (value, label) in enumerate(zip(values, labels, strict=True))
    ]
    return "\n".join(["|".join(HOURLY), *rows]) + "\n"


def test_sepsis_keeps_the_last_value_of_the_first_nine_hours_and_the_hour_of_onset() -> None:
    patients = {
        "training/training_setA/p000001.psv": hours([*range(60, 72)], [0] * 12),
        "training/training_setA/p000002.psv": hours([80, "NaN", 82, "NaN"], [0, 0, 1, 1]),
        "training/training_setA/p000003.psv": hours([99, 99], [0, 0], start=10),
        "training/training_setB/p100001.psv": hours([50, 51], [1, 1]),
    }
    tables = sepsis_first_hours(zipfile.ZipFile(io.BytesIO(archive(patients))))
    assert list(tables) == list(DATA_SETS["sepsis"].files)
    frame = tables["hospital_A_first9h.csv.gz"]
    assert frame["patient_id"].tolist() == ["p000001", "p000002", "p000003"]
    assert frame["HR"].tolist()[:2] == [68.0, 82.0]
    assert pd.isna(frame["HR"][2])  # came after the ninth hour
    assert frame["sepsis"].tolist() == [0, 1, 0]
    assert frame["label_onset_hour"].tolist()[1] == 3
    assert frame["last_hour"].tolist() == [12, 4, 11]


@pytest.mark.parametrize("name", DATA_SETS)
def test_the_real_copies_are_what_was_published(data_dir: Path, name: str) -> None:
    verify(DATA_SETS[name], data_dir / DATA_SETS[name].folder)
