"""A simulated run of images leaves pictures of its cases, where its schema allows that."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedward.common.config.loader import run_config_from_dict
from fedward.common.config.yaml_lines import dump_yaml
from fedward.simulations.simulate import Run, simulate
from tests.client.ct_folder import STONES, write_patient, write_table

SITES = ("north", "south")
IN_PAGE = '<img src="data:image/png;base64,'


def run_in(folder: Path, *, shown: bool = True, **changes: Any) -> Run:
    """Return a run of one round over two folders of scans."""
    for number, site in enumerate(SITES):
        names = [f"{site}-{patient}" for patient in range(6)]
        for name in names:
            write_patient(folder / site, name, offset=20 * number)
        write_table(folder / site, names)
    assert STONES.image is not None
    image = STONES.image.model_copy(update={"shown": shown})
    schema = STONES.model_copy(update={"image": image, "min_cohort": 1})
    (folder / "stones.yaml").write_text(
        dump_yaml({"version": 1, **schema.model_dump(mode="json", exclude_defaults=True)})
    )
    values: dict[str, Any] = {
        "version": 1,
        "name": "stones",
        "seed": 1,
        "task": "ct-lesions",
        "data": {
            "root": str(folder),
            "schema": "stones.yaml",
            "sites": {site: {"file": site} for site in SITES},
            # One lesion each: all two or three test rows are then in the picture.
            "image": {"size": [32, 32, 32], "window": [-400, 2000], "min_lesion_voxels": 100},
        },
        "model": {
            "name": "basic-unet",
            "features": [4, 4, 8, 8, 8, 4],
            "norm": "group",
            "class_head": True,
        },
        "loss": {"weights": "fixed"},
        "strategy": {"name": "fedavg"},
        "rounds": 1,
        "local": {"epochs": 1, "batch_size": 4, "learning_rate": 0.01},
        "engine": {"name": "inprocess"},
    }
    config = run_config_from_dict({**values, **changes})
    return simulate(config, base_dir=folder, out=folder / "runs")


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of scans go to the test's own folder."""
    monkeypatch.setenv("FEDWARD_DATA_DIR", str(tmp_path / "data"))


def test_each_site_of_phantoms_has_a_picture_in_the_run_and_in_its_report(tmp_path: Path) -> None:
    finished = run_in(tmp_path)
    found = sorted((finished.folder / "pictures").iterdir())
    assert [path.name for path in found] == ["north.png", "south.png"]
    for path in found:
        with Image.open(path) as opened:
            assert opened.info["Description"].startswith(("best: Dice ", "only: Dice "))
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert page.count(IN_PAGE) == 2


@pytest.mark.slow
def test_private_data_are_in_no_picture(tmp_path: Path) -> None:
    finished = run_in(tmp_path, shown=False)
    assert not (finished.folder / "pictures").exists()
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert IN_PAGE not in page
    assert "Pictures of patients stay at the sites" in page


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavg", "fedbn", "ditto"])
def test_a_site_is_shown_with_the_model_that_it_was_tested_with(
    tmp_path: Path, strategy: str
) -> None:
    local = {"epochs": 4, "batch_size": 2, "learning_rate": 0.05}
    finished = run_in(tmp_path, strategy={"name": strategy}, local=local, rounds=2)
    for site in SITES:
        dice = finished.summary["sites"][site]["metrics"]["dice"]["value"]
        with Image.open(finished.folder / "pictures" / f"{site}.png") as opened:
            shown = [float(words.split()[-1]) for words in opened.info["Description"].split(",")]
        assert 0 < dice == pytest.approx(np.mean(shown), abs=0.006)


@pytest.mark.slow
def test_repetitions_share_the_pictures_of_the_first(tmp_path: Path) -> None:
    finished = run_in(tmp_path, repeat={"seeds": [1, 2]})
    assert sorted(path.name for path in (finished.folder / "pictures").iterdir()) == [
        "north.png",
        "south.png",
    ]
    assert not list(finished.folder.glob("repeats/*/pictures"))
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "They are those of the first repetition." in page
