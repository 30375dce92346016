"""Monitoring in the report: what is read, what the page and the plots say, how large they get."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from fedward.common.monitoring.map_files import write_maps
from fedward.common.monitoring.stream import LayerFigures, LayerRound
from fedward.common.wording import MINUS
from fedward.server.report import build_report, write_model_card, write_plots
from fedward.server.report.charts_cme import (
    acf_chart,
    covariance_chart,
    figure_chart,
    influence_chart,
    layer_labels,
    stretches,
)
from fedward.server.report.map_scale import STEPS, MapScale, common_scale, shrink
from fedward.server.report.monitoring import Monitoring, assemble, read_monitoring
from fedward.server.report.plots_cme import write_monitoring_plots
from fedward.server.report.record import read_run
from tests.server.report_cme_fixture import MID, Watched, build_watched, layer_map
from tests.server.report_fixture import FakeRun, build_run
from tests.server.test_report import text_of

SMALL = Watched(run=FakeRun(num_rounds=6), layers=MID, num_neurons=16, saturated_from=4)
UNPROTECTED = (
    "Unprotected telemetry: the monitor's figures are computed from unprotected weights, rounded."
)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_watched(tmp_path_factory.mktemp("watched"))


def read(folder: Path) -> Monitoring:
    found = read_monitoring(folder)
    assert found is not None
    return found


def page_of(folder: Path) -> str:
    return build_report(folder).read_text(encoding="utf-8")


def plots_of(folder: Path) -> list[str]:
    """Write the plots of the monitoring alone, and return their names."""
    return [path.name for path in write_monitoring_plots(read(folder), folder, "a $run$")]


def said_in(page: str) -> str:
    """Return the text of the page, without its scripts."""
    return text_of(page.split("<script")[0])


def test_a_run_that_was_not_watched_has_no_monitoring(tmp_path: Path) -> None:
    assert read_monitoring(build_run(tmp_path)) is None
    text = said_in(page_of(tmp_path))
    assert "Monitoring" not in text
    assert UNPROTECTED not in text


def test_figures_come_from_the_history_and_the_acf_from_the_maps(watched: Path) -> None:
    found = read(watched)
    assert found.numbers == list(range(1, 15))
    assert list(found.sites) == ["cleveland", "hungarian", "switzerland", "va-long-beach"]
    assert found.layers == ["net.0.weight", "net.2.weight", "net.4.weight"]
    assert found.layer_figure("hungarian", "net.0.weight", "log_mag")[9] == pytest.approx(-2.9)
    acf = found.layer_figure("hungarian", "net.2.weight", "acf")
    assert acf[3] == pytest.approx(10**-2.8 * 1.3 * 0.8)
    assert np.isnan(acf[4])  # that round's map was lost
    assert found.sites["cleveland"].saturated == [10, 11, 13, 14]
    assert found.sites["cleveland"].rests == [9, 12]
    assert found.federation_saturated == [13, 14]
    assert found.is_quantised
    np.testing.assert_allclose(
        np.nansum([site.influence for site in found.sites.values()], axis=0)[0], 1.0
    )


def test_a_run_that_goes_on_is_read_as_far_as_it_is_written(tmp_path: Path) -> None:
    build_watched(tmp_path, SMALL)
    (tmp_path / "summary.json").unlink()
    history = tmp_path / "history.jsonl"
    history.write_text(history.read_text()[:-20])
    (tmp_path / "cme" / "cleveland" / "round-00002.safetensors").write_bytes(b"cut")
    found = read(tmp_path)
    assert found.numbers == [1, 2, 3, 4, 5, 6]
    assert found.is_quantised  # seen from the figures: there is no summary yet
    assert np.isnan(found.layer_figure("cleveland", MID[0], "acf")[1])
    assert np.isfinite(found.layer_figure("cleveland", MID[0], "log_mag")[1])
    assert json.dumps(covariance_chart(found, MID[0]).figure.to_json())


def test_figures_that_are_no_multiples_were_not_rounded() -> None:
    line = {"round": 1, "site": "a", "phase": "train", "cme": {"w": {"log_mag": -1.234}}}
    found = assemble([line])
    assert found is not None
    assert not found.is_quantised
    assert assemble([{**line, "cme": {"w": {"log_mag": -1.25}}}]).is_quantised  # type: ignore[union-attr]


def test_what_is_no_number_is_left_out() -> None:
    broken = {"log_mag": float("nan"), "rho": None, "map_cos": True, "unknown": 3.0, "top1": 0.5}
    line = {"round": 1, "site": "a", "phase": "train", "cme": {"w": broken}, "update": {"x": 1}}
    found = assemble([line])
    assert found is not None
    assert set(found.sites["a"].layers["w"]) == {"top1"}
    assert not found.has("rho")


def test_maps_of_repetitions_are_those_of_the_first(tmp_path: Path) -> None:
    build_watched(tmp_path, SMALL)
    for label in ("seed-1", "seed-2"):
        own = tmp_path / "repeats" / label
        own.mkdir(parents=True)
        text = (tmp_path / "history.jsonl").read_text()
        (own / "history.jsonl").write_text(text if label == "seed-2" else text + "\n")
        shutil.copytree(tmp_path / "cme", own / "cme")
    shutil.rmtree(tmp_path / "cme")
    path = read(tmp_path).maps["cleveland"][1]
    assert path.is_relative_to(tmp_path / "repeats" / "seed-2")


def test_the_page_says_what_was_saturated_and_saved(watched: Path) -> None:
    text = said_in(page_of(watched))
    assert "The weights had come to rest at 1 of 4 sites by the last round." in text
    assert "540 local epochs in all; 20 more (4 % of what was asked for) were saved" in text
    assert "cleveland 0.100 0.800 10–11, 13–14 9, 12" in text
    assert "hungarian 0.200 0.775 never never" in text
    assert "Saturation is advice, not a verdict" in text
    assert "High influence is not quality" in text
    assert text.count(UNPROTECTED) == 2  # beside the figures, and under the limits


def test_a_run_that_saturation_ended_did_not_fail(tmp_path: Path) -> None:
    build_watched(tmp_path, Watched(run=SMALL.run, layers=MID, num_neurons=8, stopped=True))
    assert not read_run(tmp_path).ended_early
    text = said_in(page_of(tmp_path))
    assert "early stop (saturation)" in text
    assert "weights of enough sites had come to rest" in text


def test_without_telemetry_the_page_says_that_saturation_is_not_known(tmp_path: Path) -> None:
    quiet = Watched(run=SMALL.run, maps=False, telemetry="none", tells=False, saturated_from=None)
    build_watched(tmp_path, quiet)
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text() + "monitor: {cme: {}}\n")
    text = said_in(page_of(tmp_path))
    assert "Whether the weights still move is not known" in text
    assert UNPROTECTED not in text
    assert "Saturated in rounds" not in text
    config.write_text(config.read_text().replace("cme: {}", "cme: false"))
    assert "Layers were not watched" in said_in(page_of(tmp_path))


def test_without_maps_the_page_says_where_they_are(tmp_path: Path) -> None:
    build_watched(tmp_path, Watched(run=SMALL.run, layers=MID, maps=False))
    text = said_in(page_of(tmp_path))
    assert "A hospital keeps its own" in text
    assert "Autocorrelation" not in text


def test_the_page_holds_no_nan_where_layers_and_rounds_are_missing(tmp_path: Path) -> None:
    build_watched(tmp_path, SMALL)
    zeros = LayerRound(LayerFigures(), np.zeros((16, 16), np.float32), None, 2, is_sketched=False)
    broken = LayerRound(
        LayerFigures(log_mag=-12.0),
        np.full((16, 16), np.nan, np.float32),
        None,
        2,
        is_sketched=True,
    )
    write_maps(tmp_path / "cme", "hungarian", 6, {"other": zeros})
    write_maps(tmp_path / "cme", "cleveland", 6, {MID[0]: broken})
    page = page_of(tmp_path)
    charts = page.split('<script type="application/json" id="charts">')[1].split("</script>")[0]
    json.loads(charts, parse_constant=lambda name: pytest.fail(f"{name} in the page"))
    assert not re.search(r"\bnan\b", said_in(page), re.IGNORECASE)
    assert len(plots_of(tmp_path)) == 4  # maps of each of the two layers, and the curves


def test_every_map_is_on_the_scale_of_all(watched: Path) -> None:
    chart = covariance_chart(read(watched), "net.2.weight")
    assert chart.stops == [str(number) for number in range(1, 15)]
    first, last = chart.figure.frames[0].data[0].z, chart.figure.frames[-1].data[0].z
    assert (first.dtype, first.shape) == (np.int8, (64, 64))
    assert np.abs(first).max() == STEPS
    assert 0 < np.abs(last).max() < STEPS / 2
    assert chart.figure.layout.coloraxis.cmax == STEPS
    assert [trace.coloraxis for trace in chart.figure.data] == ["coloraxis"] * 4
    alone = covariance_chart(read(watched), "net.2.weight", rounds=[14])
    assert alone.stops == []
    np.testing.assert_array_equal(alone.figure.data[0].z, last)


def test_a_map_that_is_missing_is_said_to_be(watched: Path) -> None:
    chart = covariance_chart(read(watched), "net.2.weight")
    titles = [frame.layout.xaxis2.title.text for frame in chart.figure.frames]
    assert titles[3] == "hungarian"
    assert titles[4] == "hungarian <i>no map</i>"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    layer = "<img src=x onerror=alert(1)>$x^2$"
    run = FakeRun(sites=("a<b>bold</b>", "$\\frac$"), num_rounds=4, one_class_site=None)
    build_watched(tmp_path, Watched(run=run, layers=(layer,), num_neurons=8, maps=False))
    maps = {
        layer: LayerRound(LayerFigures(), np.eye(4, dtype=np.float32), 0.1, 4, is_sketched=False)
    }
    for number in (1, 2):
        write_maps(tmp_path / "cme", "$\\frac$", number, maps)
    page = page_of(tmp_path)
    assert "<img" not in page.split("<script")[0]
    assert "<img" not in page.split('id="charts">')[1].split("</script>")[0]
    assert plots_of(tmp_path) == [
        "cme-maps-img-src-x-onerror-alert-1-x-2.png", "cme-rho.png", "influence.png",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_hundred_sites_and_many_layers_do_not_blow_the_page_up(tmp_path: Path) -> None:
    run = FakeRun(sites=tuple(f"site-{n:03d}" for n in range(100)), num_rounds=30, baselines=())
    layers = tuple(f"stage.{n}.weight" for n in range(20))
    build_watched(tmp_path, Watched(run=run, layers=layers, num_neurons=12, maps=False))
    generator = np.random.default_rng(1)
    noise = [generator.normal(0, 1, (128, 128)).astype(np.float32) for _ in layers]
    for site in run.sites[:20]:
        maps = {
            name: LayerRound(LayerFigures(), noise[n], 0.01, 4, is_sketched=False)
            for n, name in enumerate(layers)
        }
        for number in range(1, 31):
            write_maps(tmp_path / "cme", site, number, maps)
    page = page_of(tmp_path)
    assert len(page) < 9_500_000  # of which plotly.js has 4.8 million
    text = said_in(page)
    assert "the first 8 of 20 sites, 24 of 30 rounds, 3 of 20 layers" in text
    assert "Table of all 100 sites" in text
    assert len(write_plots(tmp_path)) == 7


def test_a_line_per_site_and_rings_where_it_was_saturated(watched: Path) -> None:
    chart = figure_chart(read(watched), "rho", "net.2.weight")
    names = [trace.name for trace in chart.figure.data]
    assert names == ["cleveland", "hungarian", "switzerland", "va-long-beach", "saturated"]
    assert list(chart.figure.data[-1].x) == [10, 11, 13, 14]
    assert "Saturated at some time: cleveland." in chart.description
    assert (chart.figure.layout.shapes[-1].x0, chart.figure.layout.shapes[-1].x1) == (12.5, 14.5)


def test_the_acf_has_layers_across_and_a_line_per_round(watched: Path) -> None:
    found = read(watched)
    chart = acf_chart(found, "hungarian")
    assert list(chart.figure.layout.xaxis.ticktext) == ["net.0", "net.2", "net.4"]
    names = [trace.name for trace in chart.figure.data]
    assert (names[0], names[-1], len(names)) == ("round 1", "round 14", 7)  # 5 was lost
    heights = {tuple(acf_chart(found, s).figure.layout.yaxis.range) for s in found.sites}
    assert len(heights) == 1


def test_influence_is_drawn_against_an_equal_share(watched: Path) -> None:
    chart = influence_chart(read(watched))
    assert list(chart.figure.data[3].y) == pytest.approx([0.4] * 12)  # two replies were refused
    assert "an equal share" in [note.text for note in chart.figure.layout.annotations]


def test_layers_are_named_without_what_they_share() -> None:
    assert layer_labels(["net.0.weight", "net.2.weight"]) == ["net.0", "net.2"]
    assert layer_labels(["a.b.conv1.weight", "a.b.fc.weight"]) == ["b.conv1", "b.fc"]
    assert layer_labels(["fc.weight"]) == ["fc.weight"]


def test_rounds_in_a_row_are_one_stretch() -> None:
    assert stretches([7, 3, 4, 5, 9, 8]) == [(3, 5), (7, 9)]
    assert stretches([]) == []


def test_the_scale_keeps_order_sign_and_ends() -> None:
    scale = MapScale(limit=1e-2, floor=1e-5)
    values = [-1e-2, -1e-4, 0.0, 1e-6, 1e-3, 1e-2, 5.0, np.nan, np.inf]
    places = scale.place(values)
    assert places[[0, 2, 5, 6, 7, 8]].tolist() == [-1.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    assert (np.diff(places[:6]) > 0).all()
    assert scale.place(-3e-4) == -scale.place(3e-4)
    ticks, words = scale.ticks()
    assert words == [f"{MINUS}10⁻²", f"{MINUS}10⁻⁴", "0", "10⁻⁴", "10⁻²"]
    assert ticks == sorted(ticks)
    assert scale.steps(values).dtype == np.int8


@pytest.mark.parametrize(
    "maps",
    [
        [],
        [np.zeros((3, 3))],
        [np.full((3, 3), np.nan)],
        [np.full((3, 3), 1e-30)],
        [np.full((2, 2), 3e38), np.full((2, 2), 1e-38)],
        [np.full((1, 1), 5e-324)],
    ],
)
def test_any_maps_have_a_scale(maps: list[np.ndarray]) -> None:
    scale = common_scale(maps)
    assert 0 < scale.floor < scale.limit
    assert np.isfinite(scale.place([0.0, *(m.ravel()[0] for m in maps)])).all()
    places, words = scale.ticks()
    assert len(places) == len(words) >= 3


@pytest.mark.parametrize("size", [1, 63, 64, 65, 100, 128])
def test_a_small_map_has_the_means_of_blocks(size: int) -> None:
    map_PP = np.random.default_rng(size).normal(0, 1, (size, size))
    small = shrink(map_PP)
    assert small.shape == (min(size, 64),) * 2
    if size == 128:
        blocks = map_PP.reshape(64, 2, 64, 2).mean(axis=(1, 3))
        np.testing.assert_allclose(small, blocks, rtol=1e-6, atol=1e-7)
    rows = np.repeat(np.arange(64), np.diff([*(np.arange(64) * size // 64), size]))
    if size > 64:
        by_hand = [map_PP[rows == r][:, rows == r].mean() for r in range(64)]
        np.testing.assert_allclose(np.diag(small), by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_plots_have_the_layout_of_the_paper(watched: Path) -> None:
    names = [path.name for path in write_plots(watched)]
    assert names[2:] == [
        "cme-maps-net-2-weight.png", "cme-maps-net-0-weight.png", "cme-maps-net-4-weight.png",
        "cme-rho.png", "influence.png",
    ]  # fmt: skip
    picture = imread(watched / "plots" / names[2])
    height, width = picture.shape[:2]
    assert height > width  # four sites by four rounds, and the ACF below
    # The last round is fainter than the first: one scale of colours for both.
    columns = picture[: int(0.75 * height), :, :3]
    dark = [
        1 - columns[:, int(a * width) : int(b * width)].mean()
        for a, b in ((0.05, 0.2), (0.7, 0.85))
    ]
    assert dark[0] > 2 * dark[1]


def test_maps_of_one_neuron_are_drawn(tmp_path: Path) -> None:
    build_watched(tmp_path, Watched(run=SMALL.run, layers=MID, num_neurons=2, maps=False))
    one = LayerRound(LayerFigures(), np.ones((1, 1), np.float32), None, 2, is_sketched=False)
    write_maps(tmp_path / "cme", "cleveland", 1, {MID[0]: one})
    assert "There are maps of one round only." in said_in(page_of(tmp_path))
    assert "cme-maps-net-2-weight.png" in plots_of(tmp_path)


def test_the_model_card_tells_saturation_and_its_limits(watched: Path) -> None:
    card = write_model_card(watched).read_text(encoding="utf-8")
    assert "## Monitoring\n\nThe weights had come to rest at 1 of 4 sites" in card
    assert UNPROTECTED in card
    assert "Influence says who moved the model, not who made it better" in card


def test_the_maps_of_the_fixture_turn_from_noise_to_pattern() -> None:
    early, late = (np.corrcoef(layer_map(n, 0, 64).ravel(), layer_map(n + 1, 0, 64).ravel())[0, 1]
                   for n in (1, 10))  # fmt: skip
    assert early < late
