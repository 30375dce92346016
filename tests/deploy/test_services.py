"""The service files say what they should, by the tools that will read them."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedward.deploy import cli
from tests.architecture.tree import ROOT

SERVICES = ROOT / "deploy" / "services"
SYSTEMD = SERVICES / "systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))
SITE_PARTS = ("worker", "runner", "supernode")
MOST_EXPOSURE = 15
"""Of 100, as `systemd-analyze security` counts; an unhardened service has 96."""
HIDDEN = {
    "fedward-runner": "-/var/lib/fedward/supernode -/var/lib/fedward/worker",
    "fedward-supernode": "-/var/lib/fedward/worker",
}
HARDENING = {
    "CapabilityBoundingSet": "",
    "NoNewPrivileges": "yes",
    "PrivateDevices": "yes",
    "PrivateTmp": "yes",
    "ProtectHome": "yes",
    "ProtectSystem": "strict",
    "Restart": "always",
    "RestartSec": "15",
}


def need(*programs: str) -> str:
    """Return the first of `programs` that is here, or skip the test."""
    for program in programs:
        if found := shutil.which(program):
            return found
    pytest.skip(f"needs {' or '.join(programs)}, to read the file as the real program would")


def settings(unit: Path) -> dict[str, list[str]]:
    """Return every key of a unit file with its values; no key is in two sections here."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_understands_every_line_of_a_unit(unit: Path, tmp_path: Path) -> None:
    analyze = need("systemd-analyze")
    copies = [tmp_path / other.name for other in UNITS]
    for other, copy in zip(UNITS, copies, strict=True):
        copy.write_text(other.read_text().replace("/opt/fedward/bin/fedward", "/bin/true"))
    result = subprocess.run(
        [analyze, "verify", "--man=no", str(tmp_path / unit.name)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "Failed to" in result.stderr and "Unit " not in result.stderr:
        pytest.skip(f"systemd-analyze cannot work here: {result.stderr.splitlines()[-1]}")
    complaints = [line for line in result.stderr.splitlines() if "fedward-" in line]
    assert (result.returncode, complaints) == (0, [])


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_leaves_little_for_an_intruder(unit: Path) -> None:
    analyze = need("systemd-analyze")
    result = subprocess.run(
        [analyze, "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-300:]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_starts_a_command_that_exists_as_a_user_of_its_own(unit: Path) -> None:
    keys = settings(unit)
    assert {key: keys[key][-1] for key in HARDENING} == HARDENING
    assert keys["User"] == [unit.stem]
    assert "MemoryMax" in keys
    program, *arguments = keys["ExecStart"][0].split()
    assert program == "/opt/fedward/bin/fedward"
    cli._parser().parse_args(arguments)


def test_only_the_worker_gets_patients_and_it_gets_no_network() -> None:
    worker, runner, supernode = (
        settings(SYSTEMD / f"fedward-{part}.service") for part in SITE_PARTS
    )
    assert worker["PrivateNetwork"] == ["yes"]
    assert worker["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert worker["Environment"][-1] == f"FEDWARD_RUNNER_USER={runner['User'][0]}"
    assert runner["IPAddressDeny"] == ["any"]
    assert runner["IPAddressAllow"] == ["localhost"]
    for other in (runner, supernode):
        assert other["InaccessiblePaths"] == [HIDDEN[other["User"][0]]]


def test_users_and_folders_are_made_as_described(tmp_path: Path) -> None:
    sysusers, tmpfiles = need("systemd-sysusers"), need("systemd-tmpfiles")
    (tmp_path / "etc").mkdir()
    for program, *arguments, file in (
        (sysusers, "fedward.sysusers.conf"),
        (tmpfiles, "--create", "fedward.tmpfiles.conf"),
    ):
        command = [program, f"--root={tmp_path}", *arguments, str(SYSTEMD / file)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if "Operation not permitted" in result.stderr or "Permission denied" in result.stderr:
            pytest.skip(f"{program} needs root to make users, even below --root")
        assert result.returncode == 0, result.stderr
    users = re.findall(r"^([\w-]+):", (tmp_path / "etc/passwd").read_text(), re.MULTILINE)
    assert {unit.stem for unit in UNITS} <= set(users)
    modes = {
        path.name: path.stat().st_mode & 0o7777 for path in (tmp_path / "var/lib/fedward").iterdir()
    }
    private = {"worker": 0o700, "runner": 0o700, "supernode": 0o700}
    assert modes == {**private, "kit": 0o755, "state": 0o2770, "logs": 0o2770}


def compose() -> dict[str, Any]:
    """Return the compose file, with YAML's merges done."""
    loaded: dict[str, Any] = yaml.safe_load((SERVICES / "compose.yaml").read_text())
    return loaded


def compose_command() -> list[str]:
    """Return Docker's plugin or the older program; neither needs the daemon to read a file."""
    if shutil.which("docker"):
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if plugin.returncode == 0:
            return ["docker", "compose"]
    return [need("docker-compose")]


def test_compose_accepts_the_file() -> None:
    command = compose_command()
    arguments = ["-f", str(SERVICES / "compose.yaml"), "--profile", "site", "config", "--quiet"]
    result = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"FEDWARD_IMAGE": "fedward@sha256:0", "PATH": "/usr/local/bin:/usr/bin:/bin"},
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["server", *SITE_PARTS])
def test_a_container_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = compose()["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"].split(":")[0]) > 0
    assert "mem_limit" in service
    assert "privileged" not in service
    # `docker inspect` shows the environment: no place for a secret.
    assert set(service.get("environment", {})) <= {"FEDWARD_RUNNER_USER"}
    cli._parser().parse_args(service["command"])


def test_containers_of_a_site_open_no_port_and_share_no_user() -> None:
    services = compose()["services"]
    assert not any("ports" in services[part] for part in SITE_PARTS)
    assert services["worker"]["network_mode"] == "none"
    assert len({services[part]["user"] for part in SITE_PARTS}) == len(SITE_PARTS)
    asker = services["worker"]["environment"]["FEDWARD_RUNNER_USER"]
    assert services["runner"]["user"].split(":")[0] == asker
    holders = {
        part: [line for line in services[part]["volumes"] if "FEDWARD_DATA" in line]
        for part in SITE_PARTS
    }
    assert [part for part, lines in holders.items() if lines] == ["worker"]
    assert holders["worker"][0].endswith(":ro")
    assert [part for part in SITE_PARTS if "secrets" in services[part]] == ["supernode"]


def test_the_image_is_built_from_pinned_bytes_and_runs_as_nobody() -> None:
    dockerfile = (SERVICES / "Dockerfile").read_text()
    lines = [line for line in dockerfile.splitlines() if line and not line.startswith("#")]
    # Neither a tag that moves nor a default that hides which base was taken.
    assert [line for line in lines if line.startswith("ARG")] == [
        "ARG PYTHON_IMAGE",
        "ARG PIP_EXTRA_INDEX_URL",
    ]
    assert {line.split()[1] for line in lines if line.startswith("FROM")} == {"${PYTHON_IMAGE}"}
    assert "--require-hashes" in dockerfile
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    copied = {line.split()[1] for line in lines if line.startswith("COPY")}
    assert set(packages["package-dir"].values()) <= copied


def pins(lock: Path) -> dict[str, str]:
    """Return package -> version, without the part that names a build (`+cpu`)."""
    found = re.findall(r"^([\w.-]+)==([^\s+\\]+)", lock.read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_the_hashed_lock_has_the_same_versions_and_a_hash_for_each() -> None:
    hashed = ROOT / "requirements-hashed.lock"
    assert pins(hashed) == pins(ROOT / "requirements.lock")
    blocks = re.split(r"^(?=\w)", hashed.read_text(), flags=re.MULTILINE)
    without = [block.split()[0] for block in blocks[1:] if "--hash=sha256:" not in block]
    assert without == []
