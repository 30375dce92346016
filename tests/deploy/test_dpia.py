"""`fedward dpia`: what the draft says, and what it leaves to people."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedward.common.config.loader import load_run_config, resolved_yaml
from fedward.common.errors import ConfigError, FedwardError
from fedward.common.tables.schema import load_schema, shipped_schemas
from fedward.deploy.commands import pages
from fedward.deploy.dpia import OPEN, dpia
from fedward.simulations import configs
from tests.server.report_fixture import FakeRun, build_run

HEART = Path(str(configs.__path__[0])) / "heart_disease.yaml"
REQUEST = "5d" * 32


def deployed_run(folder: Path, **changes: Any) -> Path:
    """Return the folder of a deployed run of the heart disease configuration."""
    build_run(folder, FakeRun())
    config = yaml.safe_load(resolved_yaml(load_run_config(HEART).config))
    config["data"]["schema"] = "schema.yaml"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "schema.yaml").write_text(shipped_schemas()["heart-disease"].read_text())
    (folder / "base_dir.txt").write_text(str(folder))
    change_summary(
        folder, **{"engine": "deployed", "operator": "alice", "request": REQUEST, **changes}
    )
    return folder


def change_summary(folder: Path, **changes: Any) -> None:
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def run_command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    pages.add(parser.add_subparsers())
    args = parser.parse_args(["dpia", *arguments])
    return int(args.command(args))


def test_every_point_of_article_35_has_its_section(tmp_path: Path) -> None:
    page = dpia(deployed_run(tmp_path / "run"))
    for letter in "abcd":
        assert f"(Article 35(7)({letter}))" in page
    for paragraph in ("35(2)", "35(9)", "35(11)", "Article 36"):
        assert paragraph in page
    assert page.count(OPEN) > 15


def test_the_run_is_named_with_request_operator_and_counts(tmp_path: Path) -> None:
    folder = deployed_run(tmp_path / "run")
    page = dpia(folder)
    summary = json.loads((folder / "summary.json").read_text())
    count = summary["sites"]["cleveland"]["num_examples"]
    assert f"| cleveland | {count['train']:,} | {count['test']:,} |" in page
    assert f"- Request (SHA-256): {REQUEST}" in page
    assert "- Asked for by: alice" in page
    assert "simulation" not in page


def test_every_column_is_listed_with_its_use(tmp_path: Path) -> None:
    page = dpia(deployed_run(tmp_path / "run"))
    schema = load_schema("heart-disease")
    used = load_run_config(HEART).config.data.features or tuple(f.name for f in schema.fields)
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for field in schema.fields:
        use = "used" if field.name in used else "in the file, unused"
        assert any(r.startswith(f"| {field.name} ") and r.endswith(f" {use} |") for r in rows)
    assert any(row.endswith("| outcome | predicted |") for row in rows)


def test_a_moved_deployed_folder_keeps_its_schema(tmp_path: Path) -> None:
    folder = deployed_run(tmp_path / "run")
    page = dpia(folder)
    assert dpia(folder.rename(tmp_path / "moved")) == page


def test_a_simulation_is_called_one(tmp_path: Path) -> None:
    folder = deployed_run(tmp_path / "run", engine="ray")
    page = dpia(folder)
    assert "This run was a simulation" in page
    assert "verified the operator's signature" not in page


def test_nothing_is_claimed_without_differential_privacy(tmp_path: Path) -> None:
    page = dpia(deployed_run(tmp_path / "run"))
    assert "Privacy: none is claimed" in page
    for claim in ("GDPR-compliant", "GDPR compliant", "fully anonym", "guarantees"):
        assert claim not in page


def test_an_unknown_schema_becomes_a_question(tmp_path: Path) -> None:
    folder = deployed_run(tmp_path / "run")
    (folder / "schema.yaml").unlink()
    page = dpia(folder)
    assert f"{OPEN} the columns." in page


def test_text_of_others_stays_text(tmp_path: Path) -> None:
    page = dpia(deployed_run(tmp_path / "run", operator="<script>x</script>|**b**"))
    assert "<script>" not in page
    assert "**b**" not in page


def test_refused_answers_are_counted_by_site(tmp_path: Path) -> None:
    refusal = {"round": 1, "site": "hungarian", "status": "rejected", "reason": "not finite"}
    page = dpia(deployed_run(tmp_path / "run", rejected=[refusal, {**refusal, "round": 2}]))
    assert "- hungarian: 2 answers rejected." in page


def test_an_average_of_one_is_not_hidden(tmp_path: Path) -> None:
    folder = deployed_run(tmp_path / "run")
    assert "fewer than 3 hospitals' answers" in dpia(folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["sampling"]["min_replies"] = 1
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert dpia(folder).count("one hospital's answer alone") == 2


def test_a_folder_without_a_summary_is_no_run(tmp_path: Path) -> None:
    folder = deployed_run(tmp_path / "run")
    (folder / "summary.json").unlink()
    with pytest.raises(FedwardError, match=r"summary\.json"):
        dpia(folder)


def test_the_command_writes_a_file_and_never_over_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = deployed_run(tmp_path / "runs" / "heart")
    out = tmp_path / "dpia.md"
    assert run_command("heart", "--runs", str(tmp_path / "runs"), "--out", str(out)) == 0
    assert out.read_text() == dpia(folder)
    assert capsys.readouterr().out.strip() == str(out)
    out.write_text("answers")
    with pytest.raises(ConfigError, match="answers of yours"):
        run_command(str(folder), "--out", str(out))
    assert out.read_text() == "answers"


@pytest.mark.parametrize(
    ("section", "says", "trains"),
    [
        (None, "treated as personal data", True),
        ({"method": "rows", "rows_per_site": 1200}, "1,200 synthetic rows", False),
        ({"method": "filtered-rows", "rows_per_site": 50}, "50 synthetic rows", True),
        ({"method": "copula", "rows_per_site": 50}, "min_cohort are joined", False),
        (
            {"method": "dp-copula", "rows_per_site": 50, "epsilon": 2.0, "delta": 1e-5},
            "epsilon 2, delta 1e-05",
            False,
        ),
    ],
)
def test_what_leaves_for_synthetic_patients_is_described(
    tmp_path: Path, section: dict[str, Any] | None, says: str, *, trains: bool
) -> None:
    folder = deployed_run(tmp_path / "run")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    if section is not None:
        config["synthesis"] = section
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    page = dpia(folder)
    assert says in page
    assert ("(an *update*)" in page) == trains
    assert ("Every hospital gives what synthetic patients" in page) == (section is not None)
