"""Can this site join: what is wrong is found, named, and shown without a patient."""

import datetime
import email.utils
import http.server
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fedward.client.approvals import RosterPins
from fedward.client.check import check_site
from fedward.client.check_data import check_data, shown_cells
from fedward.client.check_link import check_key, check_roster, check_server, clock
from fedward.client.cohort import hash_patients
from fedward.client.findings import Finding, exit_code
from fedward.client.privacy.anchor_file import AnchorFile
from fedward.client.privacy.data_set import DataSet
from fedward.client.privacy.entries import Budget, Planned
from fedward.client.privacy.ledger import PrivacyLedger
from fedward.client.releases import Release, ReleaseLedger
from fedward.common.deployment import make_request
from fedward.common.keys import make_key
from fedward.common.privacy.accounting import Segment
from tests.client.clinic import clinic_frame
from tests.client.clinic_site import ClinicSite, make_site, provide_kit, run_config
from tests.faults.connect_proxy import ConnectProxy

Serve = Callable[[ClinicSite], None]


@pytest.fixture
def clinic(tmp_path: Path) -> ClinicSite:
    return make_site(tmp_path)


def named(findings: list[Finding] | Iterator[Finding], name: str) -> Finding:
    return next(one for one in findings if one.name == name)


def failing(findings: list[Finding] | Iterator[Finding]) -> set[str]:
    return {one.name for one in findings if one.status == "fail"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Answer HTTPS requests at the address of a consortium, with its server's certificate."""
    started = []

    def start(made: ClinicSite) -> None:
        kit = made.server
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(kit.server_cert, kit.server_key)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", kit.port), QuietHandler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_a_sound_site_has_nothing_that_fails(clinic: ClinicSite) -> None:
    findings = check_site(clinic.site)
    assert failing(findings) == set()
    assert exit_code(findings) == 0
    assert {one.name for one in findings} >= {
        "data.columns", "data.values", "data.patients", "data.labels",
        "config.key", "config.id-salt", "config.device", "config.memory",
        "storage.database", "storage.disk",
    }  # fmt: skip


def test_a_check_makes_no_database(clinic: ClinicSite) -> None:
    provide_kit(clinic)
    before = {path.name for path in clinic.folder.iterdir()}
    check_site(clinic.site, clinic.kit, online=False)
    assert {path.name for path in clinic.folder.iterdir()} == before


def test_all_that_is_wrong_with_the_values_is_said_at_once(clinic: ClinicSite) -> None:
    frame = clinic_frame(40)
    frame["creatinine"] = 1.2345
    frame["stage"] = 7
    clinic.rewrite(frame)
    findings = [one for one in check_data(clinic.site) if one.status == "fail"]
    text = " ".join(one.text for one in findings)
    assert len(findings) == 2
    assert "'creatinine': 40 of 40 values are outside" in text
    assert "'stage': 40 cells are none of the categories" in text
    assert "1.2345" not in text
    assert exit_code(findings) == 3


def test_a_missing_column_is_named(clinic: ClinicSite) -> None:
    clinic.rewrite(clinic_frame(40).drop(columns="age"))
    (finding,) = check_data(clinic.site)
    assert finding.name == "data.columns"
    assert "'age'" in finding.text


def test_a_missing_file_is_named(clinic: ClinicSite) -> None:
    (clinic.folder / "clinic.csv").unlink()
    assert "there is no such file" in named(check_data(clinic.site), "data.columns").text


def test_a_small_class_is_not_counted_and_does_not_follow_from_the_total(
    clinic: ClinicSite,
) -> None:
    frame = clinic_frame(40)
    frame["died"] = 0
    frame.loc[:2, "died"] = 1
    clinic.rewrite(frame)
    finding = named(check_data(clinic.site), "data.labels")
    assert finding.status == "warn"
    assert re.findall(r"\d+", finding.text) == ["4"], "the bound, and neither 3 nor 37"


def test_no_cell_smaller_than_k_can_be_reckoned_from_what_is_shown() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        k = int(rng.integers(1, 12))
        counts = {str(i): int(n) for i, n in enumerate(rng.integers(0, 30, rng.integers(2, 6)))}
        shown = shown_cells(counts, k)
        withheld = [count for name, count in counts.items() if shown[name] == "-"]
        assert all(int(text) >= k for text in shown.values() if text != "-")
        assert len(withheld) != 1, "it would follow from the total"


def test_too_few_patients_are_refused_without_saying_how_few(clinic: ClinicSite) -> None:
    clinic.rewrite(clinic_frame(3))
    finding = named(check_data(clinic.site), "data.patients")
    assert finding.status == "fail"
    assert "3" not in finding.text.replace(str(clinic.folder), "")


def test_a_mostly_missing_feature_is_a_warning(clinic: ClinicSite) -> None:
    frame = clinic_frame(40)
    frame.loc[:29, "chol"] = np.nan
    clinic.rewrite(frame)
    assert named(check_data(clinic.site), "data.missing").text == "mostly missing: chol 75%"


def test_a_class_that_nobody_has_is_a_warning(clinic: ClinicSite) -> None:
    clinic.rewrite(clinic_frame(40).assign(died=0))
    finding = named(check_data(clinic.site), "data.labels")
    assert (finding.status, finding.text) == ("warn", "no patient is positive")


@pytest.mark.parametrize(
    ("ids", "status", "text"),
    [
        (range(1000, 1010), "ok", "10 ids on the list, 10 of them in the file"),
        (range(1000, 1002), "ok", "2 ids on the list, fewer than 4 of them in the file"),
        (range(1, 9), "warn", "8 ids on the list, 0 of them in the file"),
    ],
)
def test_the_exclusion_list_is_applied_and_counted(
    clinic: ClinicSite, ids: range, status: str, text: str
) -> None:
    (clinic.folder / "withdrawn.txt").write_text("\n".join(map(str, ids)), encoding="utf-8")
    file = clinic.folder / "site.yaml"
    content = file.read_text(encoding="utf-8").replace(
        "  schema:", "  exclude: withdrawn.txt\n  schema:"
    )
    file.write_text(content, encoding="utf-8")
    finding = named(check_data(clinic.site), "data.exclude")
    assert finding.status == status
    assert text in finding.text


def test_a_key_that_others_can_read_fails(clinic: ClinicSite) -> None:
    (clinic.folder / "site.key").chmod(0o644)
    finding = named(check_key(clinic.site, None), "config.key")
    assert finding.status == "fail"
    assert "chmod 600" in finding.text


def test_the_key_of_the_roster_is_recognised_and_another_is_not(clinic: ClinicSite) -> None:
    provide_kit(clinic)
    finding = named(check_key(clinic.site, clinic.kit), "config.key")
    assert finding.status == "ok"
    assert "in the roster as west" in finding.text
    (clinic.folder / "site.key").unlink()
    make_key(clinic.folder / "site.key")
    finding = named(check_key(clinic.site, clinic.kit), "config.key")
    assert finding.status == "fail"
    assert "not in the roster" in finding.text


def test_a_roster_near_its_end_is_a_warning_and_an_expired_one_fails(clinic: ClinicSite) -> None:
    provide_kit(clinic)
    ends = datetime.datetime.fromisoformat(clinic.kit.roster.expires)
    for days, status in ((60, "ok"), (10, "warn"), (-1, "fail")):
        (finding,) = check_roster(clinic.kit, ends - datetime.timedelta(days=days))
        assert finding.status == status


def test_a_roster_that_nobody_confirmed_fails(clinic: ClinicSite) -> None:
    provide_kit(clinic)
    findings = check_site(clinic.site, clinic.kit, online=False)
    assert failing(findings) == {"network.pin"}
    pins = RosterPins(clinic.database)
    pins.pin_roster(clinic.kit.roster)
    pins.close()
    assert failing(check_site(clinic.site, clinic.kit, online=False)) == set()


@pytest.mark.network
def test_the_server_is_reached_over_tls(clinic: ClinicSite, serve: Serve) -> None:
    provide_kit(clinic, f"localhost:{free_port()}")
    serve(clinic)
    findings = list(check_server(clinic.site, clinic.kit))
    assert [(one.name, one.status) for one in findings] == [
        ("network.server", "ok"),
        ("network.certificate", "ok"),
        ("network.clock", "ok"),
    ]


@pytest.mark.network
def test_the_server_of_another_authority_is_not_trusted(
    clinic: ClinicSite, serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> None:
    port = free_port()
    other = make_site(tmp_path_factory.mktemp("other"))
    provide_kit(other, f"localhost:{port}")
    serve(other)
    provide_kit(clinic, f"localhost:{port}")
    (finding,) = check_server(clinic.site, clinic.kit)
    assert finding.status == "fail"
    assert "not one of the kit's authority" in finding.text
    assert exit_code([finding]) == 4


@pytest.mark.network
def test_the_sites_proxy_is_the_way_out(clinic: ClinicSite, serve: Serve) -> None:
    provide_kit(clinic, f"localhost:{free_port()}")
    serve(clinic)
    with ConnectProxy([("localhost", clinic.kit.port)]) as proxy:
        clinic.configure(f"proxy: {proxy.url}\n")
        findings = list(check_server(clinic.site, clinic.kit))
        assert findings[0].status == "ok"
        assert min(proxy.num_bytes) > 0


@pytest.mark.network
def test_a_proxy_that_refuses_is_named(clinic: ClinicSite) -> None:
    provide_kit(clinic)
    with ConnectProxy([]) as proxy:
        clinic.configure(f"proxy: {proxy.url}\n")
        (finding,) = check_server(clinic.site, clinic.kit)
    assert finding.status == "fail"
    assert "403" in finding.text
    assert "let the proxy allow CONNECT" in finding.advice


def test_a_server_that_is_away_fails_with_advice(clinic: ClinicSite) -> None:
    provide_kit(clinic, f"localhost:{free_port()}")
    (finding,) = check_server(clinic.site, clinic.kit)
    assert (finding.name, finding.status) == ("network.server", "fail")
    assert finding.advice


@pytest.mark.parametrize(
    ("ahead_s", "status"),
    [(0, "ok"), (4, "warn"), (9, "fail"), (-4, "warn"), (-200, "warn"), (-400, "fail")],
)
def test_the_clock_is_judged_as_the_superlink_judges_it(ahead_s: float, status: str) -> None:
    now = time.time()
    date = email.utils.formatdate(now - ahead_s, usegmt=True)
    assert clock(date, now).status == status


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_a_server_that_does_not_tell_the_time_is_a_warning(date: str | None) -> None:
    assert clock(date, time.time()).status == "warn"


def test_a_run_within_the_limits_could_start(clinic: ClinicSite) -> None:
    request = make_request(run_config(), "check", base_dir=clinic.folder)
    finding = named(check_site(clinic.site, run=request), "config.run")
    assert finding.status == "ok"


def test_a_run_beyond_the_limits_is_refused_with_both_values(clinic: ClinicSite) -> None:
    config = run_config(local={"epochs": 9})
    request = make_request(config, "check", base_dir=clinic.folder)
    finding = named(check_site(clinic.site, run=request), "config.run")
    assert finding.status == "fail"
    assert "asks for 9, the site allows 5" in finding.text


def test_a_damaged_database_fails(clinic: ClinicSite) -> None:
    clinic.database.write_bytes(b"no database" * 1000)
    finding = named(check_site(clinic.site), "storage.database")
    assert finding.status == "fail"
    assert exit_code([finding]) == 7


def test_data_decide_the_exit_code_before_the_rest() -> None:
    findings = [Finding(name, "fail", "") for name in ("config.key", "network.server", "data.x")]
    assert exit_code(findings) == 3
    assert exit_code(findings[:2]) == 4
    assert exit_code(findings[:1]) == 2
    assert exit_code([Finding("data.x", "warn", "")]) == 0


def test_how_many_synthetic_rows_have_left_is_shown_and_a_spent_budget_is_warned_of(
    clinic: ClinicSite,
) -> None:
    assert named(check_site(clinic.site), "config.synthetic").text.startswith("no synthetic rows")
    clinic.configure("  synthetic_rows: 50\n  synthetic_sums: true\n")
    ledger = ReleaseLedger(clinic.database)
    ledger.book(Release("west", "rows", "a", {}, 40, num_rows=30), run_key="r", limit=50)
    found = named(check_site(clinic.site), "config.synthetic")
    assert found.status == "ok"
    assert "30 synthetic rows left this site, 20 of 50 may leave yet" in found.text
    assert "may leave" in found.text.split(";")[1]
    ledger.book(Release("west", "rows", "b", {}, 40, num_rows=20), run_key="r", limit=50)
    assert named(check_site(clinic.site), "config.synthetic").status == "warn"
    ledger.close()


def test_what_privacy_budget_there_is_and_whether_its_ledger_is_whole_is_shown(
    clinic: ClinicSite,
) -> None:
    assert "no budget" in named(check_site(clinic.site), "config.privacy").text
    clinic.configure("  epsilon: 3\n  delta: 1.0e-3\n")
    assert "within epsilon 3" in named(check_site(clinic.site), "config.privacy").text
    ledger = PrivacyLedger(clinic.database, site="west", budget=Budget(3.0, 1e-3))
    steps = (Segment(2.0, 0.1, 200),)
    data = DataSet.of("west", hash_patients(range(20), bytes(32)), bytes(32))
    ledger.reserve(Planned("m", "r", "stroke", 1, steps, 1e-3), data)
    ledger.close()
    found = named(check_site(clinic.site), "config.privacy")
    assert (found.status, "was spent on the patients" in found.text) == ("warn", True)
    AnchorFile(clinic.database, "west").path.unlink()
    assert named(check_site(clinic.site), "storage.privacy-ledger").status == "fail"
