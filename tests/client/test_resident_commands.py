"""The commands of a site's three processes, and the folder that they share."""

import stat
from pathlib import Path

import pytest

from fedward.client.resident.commands import SiteProcess, prepare_state, site_processes
from fedward.common.config.site import LoadedSite, load_site_config
from fedward.common.errors import ConfigError
from fedward.common.kit import Kit
from fedward.common.roster import Roster

HASH = "a" * 64
SITE = """\
version: 1
site: hospital-1
data: {path: patients.csv, schema: heart_disease}
limits: {epochs: 2}
min_cohort: 5
"""


def site(folder: Path, more: str = "") -> LoadedSite:
    (folder / "site.yaml").write_text(SITE + more)
    return load_site_config(folder / "site.yaml")


def kit(folder: Path) -> Kit:
    place = folder / "kit"
    place.mkdir(exist_ok=True)
    (place / "ca.crt").write_text("authority\n")
    roster = Roster("c", 1, "2026-01-01", "2027-01-01", "server:9092", "key", (), (), ())
    return Kit(place, "site", "c", "hospital-1", "server:9092", roster)


def processes(folder: Path, more: str = "", only: str | None = None) -> list[SiteProcess]:
    return site_processes(site(folder, more), kit(folder), accept=HASH, port=9094, only=only)


def option(process: SiteProcess, name: str) -> str:
    return process.argv[process.argv.index(name) + 1]


def test_the_worker_comes_first_and_the_network_last(tmp_path: Path) -> None:
    found = processes(tmp_path)
    assert [process.name for process in found] == ["worker", "runner", "supernode"]
    assert all(process.argv[1] == "-I" for process in found)


def test_the_three_agree_on_socket_port_and_secret(tmp_path: Path) -> None:
    worker, runner, supernode = processes(tmp_path)
    assert option(worker, "--socket") == option(runner, "--socket")
    assert option(runner, "--runtime") == f"127.0.0.1:{option(supernode, '--port')}"
    assert option(runner, "--secret") == option(supernode, "--superexec-auth-secret-file")
    assert option(runner, "--ca") == option(supernode, "--ssl-certfile")
    assert option(runner, "--accept") == HASH
    assert option(supernode, "--isolation") == "process"
    assert option(supernode, "--superlink") == "server:9092"


def test_no_secret_is_in_an_argument_or_the_environment(tmp_path: Path) -> None:
    found = processes(tmp_path)
    secret = (tmp_path / "state" / "superexec.secret").read_bytes()
    said = str([(process.argv, process.env) for process in found])
    assert len(secret) == 32
    assert secret.hex() not in said
    assert str(secret) not in said


def test_what_is_shared_is_closed_to_others_and_made_once(tmp_path: Path) -> None:
    shared = prepare_state(site(tmp_path), kit(tmp_path))
    before = shared.secret.read_bytes(), shared.certificate.read_bytes()
    assert stat.S_IMODE(shared.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(shared.secret.stat().st_mode) == 0o600
    assert shared.socket.parent.stat().st_mode & 0o007 == 0
    prepare_state(site(tmp_path), kit(tmp_path))
    assert (shared.secret.read_bytes(), shared.certificate.read_bytes()) == before


def test_a_state_folder_that_is_open_to_everybody_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o755)
    with pytest.raises(ConfigError, match="chmod o="):
        processes(tmp_path)


def test_a_folder_of_a_group_lets_the_group_read_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "shared"
    place.mkdir()
    place.chmod(0o2770)
    monkeypatch.setenv("FEDWARD_STATE", str(place))
    monkeypatch.setenv("FEDWARD_RUNNER_USER", "fedward-runner")
    worker, runner, _ = processes(tmp_path)
    assert option(worker, "--peer-uid") == "fedward-runner"
    assert Path(option(worker, "--socket")).is_relative_to(place)
    for name in ("--secret", "--ca"):
        assert stat.S_IMODE(Path(option(runner, name)).stat().st_mode) == 0o640
    assert stat.S_IMODE((place / "loopback.key").stat().st_mode) == 0o600


def test_a_process_started_alone_makes_only_its_own_files(tmp_path: Path) -> None:
    (worker,) = processes(tmp_path, only="worker")
    assert worker.name == "worker"
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["socket"]
    processes(tmp_path, only="supernode")
    assert (tmp_path / "state" / "superexec.secret").exists()


def test_the_proxy_is_for_the_supernode_alone(tmp_path: Path) -> None:
    worker, runner, supernode = processes(tmp_path, "proxy: http://proxy.local:3128\n")
    assert supernode.env["HTTPS_PROXY"] == "http://proxy.local:3128"
    assert "HTTPS_PROXY" not in worker.env
    assert runner.env["NO_PROXY"] == "*"
    assert all(process.env["FLWR_TELEMETRY_ENABLED"] == "0" for process in (worker, supernode))


def test_a_further_authority_is_trusted_beside_the_kits(tmp_path: Path) -> None:
    (tmp_path / "proxy.crt").write_text("proxy\n")
    supernode = processes(tmp_path, "ca_file: proxy.crt\n")[2]
    roots = Path(option(supernode, "--root-certificates"))
    assert roots.read_text() == "authority\n\nproxy\n"
    assert option(processes(tmp_path)[2], "--root-certificates") == str(tmp_path / "kit/ca.crt")


def test_a_further_authority_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ca_file.*proxy\.crt"):
        processes(tmp_path, "ca_file: proxy.crt\n")
