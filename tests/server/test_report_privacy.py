"""The section on privacy: what it says of each mode, and what it must not hide."""

import json
from pathlib import Path
from typing import Any

from fedward.common.privacy.claim import dp_sgd_claim, update_claim
from fedward.server.report import build_report
from fedward.server.report.privacy_section import EVERY_SITE, MODES, Section, privacy_section
from tests.server.report_fixture import FakeRun, build_run
from tests.server.test_report import text_of

SITES = ("aachen", "<b>bern</b>")
ROUNDS = 12


def claim(mode: str) -> dict[str, Any]:
    made = (
        dp_sgd_claim(3.0, 1e-5, is_reproducible=True)
        if mode == "dp-sgd"
        else update_claim(3.0, 1e-5, is_local=mode == "local", is_reproducible=True)
    )
    sites = {
        site: {
            "rounds": ROUNDS,
            "epsilon": 3.0,
            "delta": 1e-5,
            "noise_multiplier": 4.756,
            "sample_rate": 0.25,
            "signal_to_noise": 0.5,
            "clipped": 0.25,
        }
        for site in SITES
    }
    return {**made.to_dict(), "mode": mode, "sites": sites, "warnings": ["the signal drowns"]}


def lines(mode: str, *, sites: tuple[str, ...] = SITES, clipped: bool = True) -> list[Any]:
    found: list[Any] = []
    for number in range(1, ROUNDS + 1):
        spent = number / 4
        for site in sites:
            privacy = {"noise_multiplier": 4.756, "sample_rate": 0.25, "signal_to_noise": 0.5}
            line = {"round": number, "site": site, "phase": "train", "status": "ok"}
            told = {**privacy, "clipped": 0.25} if clipped else privacy
            own = {} if mode == "central" else {"epsilon": spent}
            found.append({**line, "privacy": told, **own})
        last = {"epsilon": spent} if mode == "central" else {}
        found.append({"round": number, "site": None, "phase": "train", "status": "ok", **last})
    return found


def section(mode: str, **keys: Any) -> Section:
    found = privacy_section(claim(mode), lines(mode, **keys))
    assert found is not None
    return found


def curves(found: Section, key: str) -> dict[str, list[float]]:
    chart = next(one for one in found.charts if one.key == key)
    return {trace["name"]: list(trace["y"]) for trace in chart.spec["data"]}


def test_a_run_that_promises_nothing_has_no_section() -> None:
    assert privacy_section(None, lines("dp-sgd")) is None
    assert privacy_section({}, []) is None


def test_a_promise_to_patients_is_shown_by_site_and_round() -> None:
    found = section("dp-sgd")
    assert found.headline.startswith("Every patient of every site was promised at most epsilon 3")
    assert found.rounds[0] == 1
    assert found.rounds[-1] == ROUNDS
    first = found.rows[0]
    assert (first.epsilons[0], first.epsilons[-1]) == ("0.250", "3.000")
    assert (first.noise_multiplier, first.sample_rate) == ("4.756", "0.25")
    assert (first.delta, first.signal_to_noise, first.clipped) == ("1e-05", "0.5", "25%")
    drawn = curves(found, "privacy-epsilon")
    assert len(drawn) == 2
    assert all(line[-1] == 3.0 for line in drawn.values())
    assert found.warnings == ["the signal drowns"]
    assert any("test patients" in text for text in found.not_covered)


def test_a_promise_to_hospitals_says_that_patients_are_not_meant() -> None:
    for mode in ("central", "local"):
        found = section(mode)
        assert found.headline.startswith("Every hospital was promised")
        assert "not their patients one by one" in found.mode
    assert "which is trusted and sees every update" in MODES["central"]


def test_the_servers_noise_costs_every_site_the_same() -> None:
    found = section("central")
    assert list(curves(found, "privacy-epsilon")) == [EVERY_SITE]
    assert {row.epsilons[-1] for row in found.rows} == {"3.000"}


def test_what_hospitals_do_not_tell_has_no_column_and_no_chart() -> None:
    found = section("dp-sgd", clipped=False)
    assert not found.has_clipped
    assert not any(chart.key == "privacy-clipped" for chart in found.charts)
    assert section("dp-sgd").has_clipped


def test_a_site_that_missed_the_first_rounds_had_spent_nothing_then() -> None:
    late = [line for line in lines("dp-sgd") if line["site"] != SITES[0] or line["round"] > 6]
    found = privacy_section(claim("dp-sgd"), late)
    assert found is not None
    assert found.rows[0].epsilons[0] == "0"
    assert found.rows[0].epsilons[-1] == "3.000"


def test_the_page_shows_the_section_only_to_private_runs_and_names_stay_text(
    tmp_path: Path,
) -> None:
    folder = build_run(tmp_path, FakeRun(num_rounds=ROUNDS))
    plain = text_of(build_report(folder).read_text(encoding="utf-8"))
    assert "what was promised, and what it cost" not in plain
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "privacy": claim("dp-sgd")}))
    with (folder / "history.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines("dp-sgd"))
    page = build_report(folder).read_text(encoding="utf-8")
    assert "Privacy: what was promised, and what it cost" in text_of(page)
    assert "<b>bern</b>" not in page
    assert "&lt;b&gt;bern&lt;/b&gt;" in page
