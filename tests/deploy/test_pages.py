"""The pages for hospitals and data protection officers: what they name is there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fedward.common.config.site import SiteConfig, load_site_config
from fedward.deploy import cli
from fedward.deploy.commands.federation import SUPERNODE_PORT
from tests.architecture.tree import ROOT
from tests.deploy.test_services import SITE_PARTS, SYSTEMD, settings

PAGES = sorted((ROOT / "deploy" / "docs").glob("*.md"))
HOSPITAL = ROOT / "deploy" / "docs" / "hospital_it.md"
# Blocks within lists are indented; the test of all pages sees only those that are not.
BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)\n(?P<body>.*?)^ *```", re.MULTILINE | re.DOTALL
)


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            for line in block["body"].replace("\\\n", " ").splitlines():
                if line.strip().startswith("fedward "):
                    yield page.stem, line.strip()
        for line in re.findall(r"`(fedward [^`]+)`", text):
            if "--" in line and "without" not in line:
                yield page.stem, line


@pytest.mark.parametrize(("page", "line"), list(commands()))
def test_a_command_on_a_page_is_one_that_exists(page: str, line: str) -> None:
    cli._parser().parse_args(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_are_in_the_repository(page: Path) -> None:
    named = re.findall(r"`((?:tests|deploy)/[\w./{},-]+)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_site_yaml_on_the_page_can_be_read(tmp_path: Path) -> None:
    blocks = [b for b in BLOCK.finditer(HOSPITAL.read_text()) if b["language"] == "yaml"]
    whole, *parts = (
        "\n".join(line[len(b["indent"]) :] for line in b["body"].splitlines()) for b in blocks
    )
    (tmp_path / "site.yaml").write_text(whole)
    config = load_site_config(tmp_path / "site.yaml").config
    # The others are sections of the first: `data` of a site with scans, `telemetry`.
    for part in parts:
        changed = {**yaml.safe_load(whole), **yaml.safe_load(part)}
        (tmp_path / "changed.yaml").write_text(yaml.safe_dump(changed))
        load_site_config(tmp_path / "changed.yaml")
    assert [list(yaml.safe_load(part)) for part in parts] == [["data"], ["telemetry"]]
    assert config.key_file.startswith("supernode/")
    assert config.database.startswith("worker/")
    assert config.id_salt_file.startswith("worker/")


def test_keys_of_site_yaml_that_the_pages_speak_of_exist() -> None:
    known = {field.alias or name for name, field in SiteConfig.model_fields.items()}
    keys = r"`(approve|proxy|ca_file|min_cohort|show_metrics|retention_days)\b"
    said = {key for page in PAGES for key in re.findall(keys, page.read_text())}
    assert said == {"approve", "proxy", "ca_file", "min_cohort", "show_metrics", "retention_days"}
    assert said <= known


def test_users_and_port_are_those_of_the_units() -> None:
    text = HOSPITAL.read_text()
    for part in SITE_PARTS:
        (user,) = settings(SYSTEMD / f"fedward-{part}.service")["User"]
        assert f"`{user}`" in text
    assert f"| {SUPERNODE_PORT} (`--port`) |" in text
