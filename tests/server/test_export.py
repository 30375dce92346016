"""A run in TensorBoard, as TensorBoard's own reader finds it."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedward.common.errors import ConfigError, FedwardError, StorageError
from fedward.common.monitoring.map_files import write_maps
from fedward.common.monitoring.stream import LayerFigures, LayerRound
from fedward.server.export import MAX_PICTURES, _shown_maps, export_tensorboard, figures_of
from fedward.server.history import Entry, History
from fedward.server.report.monitoring import SiteMonitoring, assemble

LAYER = "layers.2.weight"
SITES = ("north", "south")
NUM_ROUNDS = 3
SECONDS = (2.0, 3.0, 5.0)
KEEP_ALL = {"images": 0, "scalars": 0, "tensors": 0}


def entries(number: int) -> Iterator[Entry]:
    """Yield the lines of one round: `south` rests in the last."""
    for place, site in enumerate(SITES, start=1):
        if (site, number) == ("south", NUM_ROUNDS):
            yield Entry(number, "train", site, "skipped", reason="saturated: rests")
            continue
        yield Entry(
            number,
            "train",
            site,
            num_examples=40 * place,
            metrics={"train_loss": 1 / (number + place)},
            seconds=0.5 * place,
            bytes_sent=1000,
            bytes_received=1200 + number,
            cme={LAYER: {"log_mag": -1.5 - number / 10, "rho": 0.2 / place}},
            update={"influence": place / 3, "cosine": 0.9},
            saturated=number == 2 and site == "south",
        )
        yield Entry(
            number, "evaluate", site, metrics={"eval_loss": 0.4, "auroc": 0.8 + number / 100}
        )
    yield Entry(
        number,
        "train",
        metrics={"train_loss": 0.5},
        seconds=SECONDS[number - 1],
        update={"norm_ratio": 0.1 / number},
        saturated=False,
    )


def layer_round(scale: float, acf: float) -> LayerRound:
    map_PP = scale * np.array([[2.0, -1.0], [-1.0, 2.0]], np.float32)
    return LayerRound(LayerFigures(rho=0.1), map_PP, acf, num_snapshots=4, is_sketched=False)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the folder of a small run with maps."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("version: 1\nname: clinic\n")
    history = History(folder / "history.jsonl")
    for number in range(1, NUM_ROUNDS + 1):
        history.add(entries(number))
        for place, site in enumerate(SITES, start=1):
            layers = {LAYER: layer_round(place / number, acf=place / 10)}
            write_maps(folder / "cme", site, number, layers)
    return folder


def opened(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance=KEEP_ALL).Reload()


def curve(events: EventAccumulator, tag: str) -> dict[int, float]:
    return {event.step: event.value for event in events.Scalars(tag)}


def picture(events: EventAccumulator, number: int) -> np.ndarray[Any, Any]:
    found = {event.step: event for event in events.Images(f"cme_map/{LAYER}")}
    return np.asarray(Image.open(io.BytesIO(found[number].encoded_image_string)))


def test_every_figure_of_the_history_is_there_under_its_site_round_and_name(
    run: Path, tmp_path: Path
) -> None:
    done = export_tensorboard(run, tmp_path / "out")
    found = {
        site: opened(done.folder / place)
        for site, place in [(None, "federation"), *((name, f"sites/{name}") for name in SITES)]
    }
    expected = 0
    for text in (run / "history.jsonl").read_text().splitlines():
        line = json.loads(text)
        for tag, value in figures_of(line):
            curves = curve(found[line["site"]], tag)
            assert curves[line["round"]] == pytest.approx(value, rel=1e-6), tag
            expected += 1
    acf = len(SITES) * NUM_ROUNDS
    assert (done.num_sites, done.num_scalars) == (2, expected + acf)
    written = sum(
        len(events.Scalars(tag)) for events in found.values() for tag in events.Tags()["scalars"]
    )
    assert written == expected + acf


def test_figures_have_the_names_that_the_page_on_monitoring_gives(
    run: Path, tmp_path: Path
) -> None:
    events = opened(export_tensorboard(run, tmp_path / "out").folder / "sites" / "south")
    assert set(events.Tags()["scalars"]) == {
        "train/ok",
        "train/loss",
        "train/seconds",
        "train/bytes_sent",
        "train/bytes_received",
        "train/num_examples",
        "evaluate/ok",
        "evaluate/loss",
        "evaluate/auroc",
        f"cme/{LAYER}/log_mag",
        f"cme/{LAYER}/rho",
        f"cme/{LAYER}/acf",
        "update/influence",
        "update/cosine",
        "saturated",
    }
    assert curve(events, "saturated") == {1: 0, 2: 1}
    assert curve(events, "train/ok") == {1: 1, 2: 1, 3: 0}


def test_the_time_between_rounds_is_what_they_took(run: Path, tmp_path: Path) -> None:
    events = opened(export_tensorboard(run, tmp_path / "out").folder / "federation")
    times = [event.wall_time for event in events.Scalars("train/loss")]
    np.testing.assert_allclose(np.diff(times), SECONDS[1:], atol=1e-3)
    assert times[-1] == pytest.approx((run / "history.jsonl").stat().st_mtime, abs=1e-3)


def test_the_configuration_is_there_as_text(run: Path, tmp_path: Path) -> None:
    events = opened(export_tensorboard(run, tmp_path / "out").folder / "federation")
    (text,) = events.Tensors("config/text_summary")
    assert b"name: clinic" in text.tensor_proto.string_val[0]


def test_maps_are_pictures_on_one_scale_for_all_sites_and_rounds(run: Path, tmp_path: Path) -> None:
    done = export_tensorboard(run, tmp_path / "out")
    north, south = (opened(done.folder / "sites" / site) for site in SITES)
    assert (done.num_pictures, done.are_pictures_all) == (len(SITES) * NUM_ROUNDS, True)
    # The map of south in round 2 equals that of north in round 1.
    np.testing.assert_array_equal(picture(south, 2), picture(north, 1))
    first, third = picture(north, 1), picture(north, 3)
    assert first.shape == (128, 128, 3)
    assert third[0, 0].sum() > first[0, 0].sum()  # a third of the covariance: nearer to white
    red, blue = (0, 2)
    assert first[0, 0, red] > first[0, 0, blue]  # above 0: orange
    assert first[0, 127, red] < first[0, 127, blue]  # below 0: blue


def test_a_run_that_goes_on_is_exported_up_to_its_last_whole_line(
    run: Path, tmp_path: Path
) -> None:
    path = run / "history.jsonl"
    path.write_text(path.read_text() + '{"round": 4, "si')
    events = opened(export_tensorboard(run, tmp_path / "out").folder / "federation")
    assert list(curve(events, "train/loss")) == [1, 2, 3]


def test_a_run_that_watched_nothing_is_exported_without_maps(tmp_path: Path) -> None:
    History(tmp_path / "history.jsonl").add([Entry(1, "train", "north", metrics={"loss": 0.5})])
    done = export_tensorboard(tmp_path, tmp_path / "out")
    assert (done.num_scalars, done.num_pictures, done.are_pictures_all) == (2, 0, True)


def test_repetitions_lie_beside_each_other(run: Path, tmp_path: Path) -> None:
    for seed in ("seed1", "seed2"):
        shutil.copytree(run, tmp_path / "study" / "repeats" / seed)
    (tmp_path / "study" / "config.yaml").write_text("name: study\n")
    once = export_tensorboard(run, tmp_path / "once")
    done = export_tensorboard(tmp_path / "study", tmp_path / "out")
    assert (done.num_sites, done.num_scalars) == (2, 2 * once.num_scalars)
    for seed in ("seed1", "seed2"):
        events = opened(done.folder / seed / "sites" / "north")
        assert list(curve(events, "train/loss")) == [1, 2, 3]


def test_an_undefined_figure_is_left_out() -> None:
    metrics = {"auroc": {"value": None, "reason": "one class"}, "auprc": {"value": 0.5, "n": 9}}
    line = {"round": 1, "site": None, "phase": "evaluate", "metrics": {**metrics, "f1": None}}
    assert dict(figures_of(line)) == {"evaluate/auprc": 0.5}


def test_a_folder_that_holds_something_is_left_as_it_is(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "events").write_text("mine")
    with pytest.raises(ConfigError, match="holds files already"):
        export_tensorboard(run, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["events"]


def test_what_cannot_be_exported_leaves_nothing_behind(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        export_tensorboard(tmp_path, tmp_path / "out")
    with pytest.raises(StorageError, match="cannot be written"):
        export_tensorboard(run, run / "history.jsonl" / "out")
    History(run / "history.jsonl").add([Entry(4, "train", "../elsewhere")])
    with pytest.raises(FedwardError, match="was it edited"):
        export_tensorboard(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize(
    ("num_sites", "num_layers", "num_rounds"), [(4, 2, 500), (100, 3, 60), (1500, 2, 4)]
)
def test_many_maps_are_thinned_by_rounds_and_then_by_sites(
    num_sites: int, num_layers: int, num_rounds: int
) -> None:
    figures = {f"layer-{layer}": {"rho": 0.1} for layer in range(num_layers)}
    names = [f"site-{site}" for site in range(num_sites)]
    maps = {name: {n: Path(name) for n in range(1, num_rounds + 1)} for name in names}
    lines = [{"round": 1, "phase": "train", "site": name, "cme": figures} for name in names]
    watched = assemble(lines)
    assert watched is not None
    assert isinstance(watched.sites[names[0]], SiteMonitoring)
    watched.maps.update(maps)
    shown = _shown_maps(watched, MAX_PICTURES)
    assert 0.5 * MAX_PICTURES <= num_layers * sum(map(len, shown.values())) <= MAX_PICTURES
    for files in shown.values():
        assert {1, num_rounds} <= set(files)


def test_without_tensorboard_the_message_says_what_to_install(run: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['tensorboard'] = None\n"
        "from pathlib import Path\n"
        "from fedward.common.errors import ConfigError\n"
        "from fedward.server.export import export_tensorboard\n"
        "try: export_tensorboard(*map(Path, sys.argv[1:]))\n"
        "except ConfigError as error: print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, str(run), str(tmp_path / "out")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "pip install 'fedward[tracking]'" in said.stdout, said.stderr
    assert not (tmp_path / "out").exists()
