"""Raw maps at a hospital: where they lie, who may read them, what leaves, and when they go."""

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward.client.database import maps_folder
from fedward.client.messages import MessageLedger
from fedward.client.retention import everything, purge, purge_old
from fedward.common.config.site import load_site_config
from fedward.common.errors import ConfigError
from fedward.common.monitoring.map_files import list_maps, read_maps, write_maps
from fedward.common.monitoring.stream import LayerFigures, LayerRound
from fedward.server.deployed import Coordinator, run_request
from fedward.server.history import read_history
from tests.client.clinic_site import SITE_YAML
from tests.conftest import BESIDE_THE_REPOSITORY, CHOSEN
from tests.deploy.heart import SITES, Consortium, HospitalGrid, heart_disease, make_consortium

ROUND = {
    "body.2.weight": LayerRound(
        LayerFigures(-2.0), np.eye(4, dtype=np.float32), acf=0.1, num_snapshots=4, is_sketched=False
    )
}
WATCHED = ("model.name=mlp", "model.hidden=[8,6]", "monitor.cme=true", "rounds=2")


def leave_maps(database: Path, *runs: str) -> None:
    """Leave what a site has after the rounds of some runs; the first is old."""
    ledger = MessageLedger(database)
    for number, run in enumerate(runs):
        write_maps(maps_folder(database) / run, "west", 1, ROUND)
        write_maps(maps_folder(database) / run, "west", 2, ROUND)
        ledger.begin(f"message {number}", run_key=run, round_number=1, phase="train")
    ledger.close()
    connection = sqlite3.connect(database)
    with connection:
        connection.execute("UPDATE messages SET started = '2020-01-01' WHERE run_key = ?", runs[:1])
    connection.close()


def test_the_maps_of_a_run_go_with_what_else_is_old_of_it(tmp_path: Path) -> None:
    database = tmp_path / "site.sqlite"
    leave_maps(database, "old", "new")
    assert purge_old(database, days=30) == ["old"]
    assert [path.name for path in maps_folder(database).iterdir()] == ["new"]
    assert list(list_maps(maps_folder(database) / "new")["west"]) == [1, 2]


def test_purge_removes_the_maps_and_nothing_beside_them(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE_YAML, encoding="utf-8")
    leave_maps(tmp_path / "site.sqlite", "one", "two")
    own = maps_folder(tmp_path / "site.sqlite") / "two" / "notes.txt"
    own.write_text("of a person here", encoding="utf-8")
    gone = list(purge(everything(load_site_config(tmp_path / "site.yaml"))))
    assert [entry.path.name for entry in gone if "map" in entry.what] == ["cme"]
    left = [path for path in maps_folder(tmp_path / "site.sqlite").rglob("*") if path.is_file()]
    assert left == [own]
    own.unlink()
    leave_maps(tmp_path / "site.sqlite", "one")
    list(purge(everything(load_site_config(tmp_path / "site.yaml"))))
    assert not (maps_folder(tmp_path / "site.sqlite") / "one").exists()


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("[cme.roh]", "did you mean 'cme.rho'"),
        ("[gradient-norm]", "expected one of cme, cme.log_mag, cme.rho, cme.map_cos, cme.top1"),
        ("cme", "expected a list"),
    ],
)
def test_an_unknown_name_in_telemetry_is_refused_when_the_file_is_read(
    tmp_path: Path, written: str, says: str
) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(f"{SITE_YAML}telemetry: {written}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="telemetry") as refused:
        load_site_config(path)
    assert says in str(refused.value)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Consortium, Path]:
    """Return four hospitals after a watched run; one lets two figures out, one lets all out."""
    data = Path(CHOSEN) if CHOSEN else BESIDE_THE_REPOSITORY
    if not data.is_dir():
        pytest.skip("needs the public data sets: see tests/conftest.py")
    folder = tmp_path_factory.mktemp("cme")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDWARD_DATA_DIR", str(data))
        made = make_consortium(folder / "c", data)
        for site, telemetry in (("va", "[cme.rho, cme.log_mag]"), ("cleveland", "[cme]")):
            with made.site_yaml(site).open("a", encoding="utf-8") as yaml:
                yaml.write(f"telemetry: {telemetry}\n")
        config = heart_disease(*WATCHED, "local.epochs=4", "data.validation_fraction=0.2")
        text = made.signed(config)
        grid = HospitalGrid({site: made.open(site) for site in SITES}, text)
        here = Coordinator(made.server, grid, grid.nodes, lambda line: None)
        run_request(made.read(text), here, folder / "run")
    return made, folder / "run"


def lines_of(run: Path, phase: str) -> list[dict[str, Any]]:
    lines = [line for line in read_history(run / "history.jsonl") if line["phase"] == phase]
    assert all(line.get("status", "ok") == "ok" for line in lines), lines
    return lines


@pytest.mark.slow
def test_every_hospital_keeps_its_own_maps_beside_its_database(
    deployed: tuple[Consortium, Path],
) -> None:
    made, run = deployed
    for site in SITES:
        (folder,) = maps_folder(made.folder / site / "site.sqlite").iterdir()
        files = list_maps(folder)
        assert {name: list(rounds) for name, rounds in files.items()} == {site: [1, 2]}
        for path in files[site].values():
            (layer,) = read_maps(path).values()
            assert layer.map_PP.shape == (6, 6)
            assert (path.stat().st_mode & 0o777, layer.num_snapshots) == (0o600, 4)
    assert not (run / "cme").exists(), "no map leaves a hospital"


@pytest.mark.slow
def test_what_each_hospital_lists_is_all_that_the_coordinator_hears(
    deployed: tuple[Consortium, Path],
) -> None:
    made, run = deployed
    heard = {
        line["site"]: line.get("cme")
        for line in lines_of(run, "train")
        if line["site"] is not None and line["round"] == 2
    }
    assert heard.pop("hungarian") is None
    assert heard.pop("switzerland") is None
    assert {site: set(*map(frozenset, cme.values())) for site, cme in heard.items() if cme} == {
        "va": {"rho", "log_mag"},
        "cleveland": {"rho", "log_mag", "map_cos", "top1"},
    }
    for site, steps in (("hungarian", None), ("va", {"cme.log_mag": 0.05, "cme.rho": 0.02})):
        trail = made.open(site).trail
        trained = [entry for entry in trail.entries() if entry.get("asked") == "train_loss"]
        assert [entry.get("rounded_to") for entry in trained] == [steps, steps]
        assert [entry["withheld"] for entry in trained] == ([3, 4] if steps is None else [1, 2])


@pytest.mark.slow
def test_the_loss_on_validation_patients_reaches_the_history(
    deployed: tuple[Consortium, Path],
) -> None:
    lines = lines_of(deployed[1], "evaluate")
    assert lines
    for line in lines:
        assert 0 < line["metrics"]["validation_loss"] < 5
