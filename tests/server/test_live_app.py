"""The live page as browsers get it, without a browser."""

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
from flask.testing import FlaskClient

from fedward.server.live.app import make_app
from fedward.server.live.guard import is_loopback, names_of
from fedward.server.live.source import RunSource, SiteSource
from tests.server.live_stand import GrowingRun, Page


@pytest.fixture
def run(tmp_path: Path) -> GrowingRun:
    return GrowingRun(tmp_path / "run")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    run = GrowingRun(tmp_path_factory.mktemp("served") / "run")
    app = make_app(RunSource(run.folder), names=names_of("127.0.0.1"))
    return cast("FlaskClient", app.server.test_client())


@pytest.mark.parametrize("host", ["127.0.0.1:8050", "localhost:8050", "[::1]:8050", "10.0.0.7"])
def test_own_names_and_addresses_are_answered(client: FlaskClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200
    assert client.get("/_dash-layout", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "localhost.attacker.example:8050",
        "127.0.0.1.attacker.example",
        "",
        "[::1",
        "localhost@attacker.example",
    ],
)
def test_other_names_are_refused_everywhere(client: FlaskClient, host: str) -> None:
    for path in ("/", "/_dash-layout", "/_dash-dependencies", "/any/other"):
        assert client.get(path, headers={"Host": host}).status_code == 421
    posted = client.post("/_dash-update-component", json={}, headers={"Host": host})
    assert posted.status_code == 421


def test_every_answer_bounds_what_the_page_may_do(client: FlaskClient) -> None:
    for path in ("/", "/_dash-layout", "/no/such/page", "/assets/x", "/_dash-component-suites/x/y"):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-eval" not in policy
        assert "'unsafe-inline'" not in policy.partition("style-src")[0]
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_names_no_other_host_and_runs_without_debugging(client: FlaskClient) -> None:
    page = client.get("/").text
    assert re.findall(r"(?:src|href)=\"(?!/|#|data:)[^\"]+", page) == []
    config = re.search(r"_dash-config\"[^>]*>(.*?)</script>", page)
    assert config is not None
    assert not json.loads(config[1]).get("hot_reload")
    assert not json.loads(config[1])["ui"]


def test_files_beside_the_run_cannot_be_asked_for(run: GrowingRun) -> None:
    app = make_app(RunSource(run.folder), names=names_of("127.0.0.1"))
    client = app.server.test_client()
    (run.folder / "secret.txt").write_text("secret", encoding="utf-8")
    for path in ("/assets/../secret.txt", "/assets/secret.txt", "/static/secret.txt"):
        assert "secret" not in client.get(path).text.replace(path, "")


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_it_knows_which_addresses_stay_on_this_machine(host: str, *, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_new_round_is_drawn_and_an_old_one_is_not_drawn_again(run: GrowingRun) -> None:
    page = Page(RunSource(run.folder))
    page.open()
    assert page.text("word.children") == "waiting"
    assert page.props["learning.hidden"]
    for number in (1, 2):
        run.round(number)
    page.changed("clock.n_intervals", 2)
    assert page.text("sentence.children").startswith("2 of 10 rounds are done.")
    assert not page.props["learning.hidden"]
    assert {"round-auroc", "round-eval_loss"} <= page.charts("learning-body.children").keys()
    asked = len(page.texts)
    page.changed("clock.n_intervals", 3)
    assert len(page.texts) == asked + 1


def test_nothing_new_comes_while_the_browser_still_draws(run: GrowingRun) -> None:
    # Dash drops an answer once it has asked again: rounds that are faster than the drawing of
    # one would leave the page empty.
    run.round(1)
    page = Page(RunSource(run.folder))
    page.open()
    first = page.props["seen.data"]
    page.props["maps-drawn.data"] = None
    run.round(2)
    page.changed("clock.n_intervals", 2)
    assert page.props["seen.data"] == first
    assert page.text("sentence.children").startswith("2 of 10")
    page.props["maps-drawn.data"] = first["version"]
    page.changed("clock.n_intervals", 3)
    assert page.props["seen.data"] != first
    assert page.props["maps-drawn.data"] == page.props["seen.data"]["version"]


def test_all_parts_of_the_page_are_of_one_version(run: GrowingRun) -> None:
    run.round(1)
    page = Page(RunSource(run.folder))
    page.open()
    run.round(2)
    page.changed("screen.data", "narrow")
    assert page.text("round-words.children") == "Round 1, the newest."


def test_no_answer_holds_what_is_not_json_nor_markup_of_a_site(run: GrowingRun) -> None:
    run.round(1)
    run.round(2, refused="south")
    page = Page(RunSource(run.folder))
    page.open()
    for text in page.texts:
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in an answer"))
    assert "<b>too large</b>" in page.text("replies.children")  # as words: React escapes them


def test_refused_replies_and_rests_are_told_with_their_reasons(run: GrowingRun) -> None:
    run.round(1)
    run.round(2, refused="south")
    run.round(3, rests="north")
    page = Page(RunSource(run.folder))
    page.open()
    told = page.text("replies.children")
    assert told.index("saturated: rests") < told.index("too large")
    assert "1 accepted, 1 at rest" in page.text("facts.children")
    assert "rests, round 3" in page.text("sites.children")
    assert "participation" in page.charts("participation-body.children")


def test_maps_and_figures_of_the_layer_are_drawn(run: GrowingRun) -> None:
    for number in (1, 2, 3):
        run.round(number)
    page = Page(RunSource(run.folder))
    page.open()
    assert page.props["layer-name.value"] == "body.0.weight"
    (maps,) = page.charts("maps-body.children").values()
    assert [trace["type"] for trace in maps["data"]] == ["heatmap", "heatmap"]
    assert page.charts("layer-body.children").keys() == {
        "cme-rho-0", "cme-log_mag-0", "cme-map_cos-0", "cme-top1-0",
    }  # fmt: skip
    assert "acf-0" in page.charts("acf-body.children")
    assert "update-influence" in page.charts("influence-body.children")
    page.changed("acf-site.value", "south")
    assert "acf-1" in page.charts("acf-body.children")


def pictures(page: Page) -> Any:
    (maps,) = page.charts("maps-body.children").values()
    return [trace["z"] for trace in maps["data"]]


def test_the_slider_follows_the_newest_round_until_it_is_moved(run: GrowingRun) -> None:
    for number in (1, 2):
        run.round(number)
    page = Page(RunSource(run.folder))
    page.open()
    assert (page.props["round.value"], page.props["round.max"]) == (2, 2)
    newest = pictures(page)
    page.changed("round.value", 1)
    assert page.props["follow.value"] == []
    assert "Round 1; the newest is round 2." in page.text("round-words.children")
    assert pictures(page) != newest
    run.round(3)
    page.changed("clock.n_intervals", 2)
    assert (page.props["round.value"], page.props["round.max"]) == (1, 3)
    page.changed("round.value", 3)
    assert page.props["follow.value"] == ["newest"]
    page.changed("round.value", 2)
    page.changed("follow.value", ["newest"])
    assert page.props["round.value"] == 3


def test_a_move_counts_also_when_a_round_comes_at_the_same_time(run: GrowingRun) -> None:
    for number in (1, 2, 3):
        run.round(number)
    page = Page(RunSource(run.folder))
    page.open()
    (callback,) = page.callbacks("round.max")
    for moved, follows in ((1, []), (3, ["newest"])):
        page.props |= {"round.value": moved, "follow.value": ["newest"], "round.max": 3}
        page.run(callback, ["filled.data", "round.value"])
        assert page.props["follow.value"] == follows
        assert page.props["round.value"] == moved


@pytest.mark.slow
def test_one_colour_scale_holds_for_all_rounds(run: GrowingRun) -> None:
    for number in (1, 2, 3):
        run.round(number)
    page = Page(RunSource(run.folder))
    page.open()
    scales = []
    for number in (1, 2, 3):
        page.changed("round.value", number)
        (maps,) = page.charts("maps-body.children").values()
        scales.append(maps["layout"]["coloraxis"])
    assert scales[0] == scales[1] == scales[2]


@pytest.mark.slow
def test_a_narrow_screen_gets_its_own_charts(run: GrowingRun) -> None:
    run.round(1)
    page = Page(RunSource(run.folder))
    page.open()
    wide = page.charts("maps-body.children")["maps-0"]["layout"]["height"]
    page.changed("screen.data", "narrow")
    narrow = page.charts("maps-body.children")["maps-0"]["layout"]["height"]
    assert narrow != wide


def test_a_run_that_watches_nothing_has_no_section_for_it(run: GrowingRun) -> None:
    lines = [
        {"round": 1, "site": "north", "phase": "train", "metrics": {"train_loss": 1.0}},
        {"round": 1, "site": None, "phase": "train", "metrics": {"train_loss": 1.0}},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.folder / "history.jsonl").write_text(text, encoding="utf-8")
    page = Page(RunSource(run.folder))
    page.open()
    hidden = {
        key for key in ("learning", "maps", "layer", "influence") if page.props[f"{key}.hidden"]
    }
    assert hidden == {"maps", "layer", "influence"}


def test_many_sites_and_a_cut_history_are_borne(run: GrowingRun) -> None:
    lines = [
        {"round": number, "site": f"site-{s:03d}", "phase": "train", "metrics": {"train_loss": 1.0},
         "cme": {"head.weight": {"log_mag": -1.0}}, "update": {"influence": 0.01}}
        for number in range(1, 6)
        for s in range(250)
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.folder / "history.jsonl").write_text(f"{text}{{broken\n", encoding="utf-8")
    page = Page(RunSource(run.folder))
    page.open()
    assert "1 line of the history could not be read" in page.text("sentence.children")
    assert "The first 200 of 250 sites" in page.text("sites.children")
    assert sum(map(len, page.texts)) < 1_000_000


def test_a_hospital_sees_its_own_maps_and_nothing_of_others(run: GrowingRun) -> None:
    for number in (1, 2):
        run.round(number)
    kept = run.folder / "kept"
    (kept / "run-a").mkdir(parents=True)
    (run.folder / "cme" / "north").rename(kept / "run-a" / "north")
    page = Page(SiteSource(kept, "north"))
    page.open()
    assert page.text("word.children") == "kept"
    assert len(pictures(page)) == 1
    assert page.charts("layer-body.children")
    assert "learning.hidden" not in page.props
