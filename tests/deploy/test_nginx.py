"""The shipped nginx.conf, run by nginx in front of a server that answers everything."""

import http.client
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT

CONF = ROOT / "deploy" / "services" / "nginx.conf"
NAME = "fedward.example.org"
DESK = "127.0.0.2"
"""From where an operator calls; everybody else is at 127.0.0.1."""

pytestmark = pytest.mark.network


class Echo(BaseHTTPRequestHandler):
    """Answers every request with the path that reached it, and the operator that it names."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = " ".join([self.path, self.headers.get("fedward-operator", "")]).strip().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
        pass


@dataclass(frozen=True)
class Gate:
    port: int
    folder: Path

    def post(
        self, path: str, *, operator: str | None = None, at: str = "127.0.0.1", body: bytes = b"x"
    ) -> tuple[int, str]:
        """Return status and body of a request with exactly this path."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        # The name in the certificate, at the address of this machine.
        raw = socket.create_connection(("127.0.0.1", self.port), 10, source_address=(at, 0))
        connection = http.client.HTTPConnection(NAME, timeout=10)
        connection.sock = context.wrap_socket(raw, server_hostname=NAME)
        try:
            connection.putrequest("POST", path)
            connection.putheader("Content-Length", str(len(body)))
            if operator:
                connection.putheader("fedward-operator", operator)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


def make_certificate(folder: Path, name: str, subject: str) -> None:
    """Write NAME.crt, signed by itself, and NAME.key."""
    openssl = shutil.which("openssl") or pytest.skip("needs openssl, to make certificates")
    arguments = (
        f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -days 2 -subj /CN={subject}"
    )
    files = ("-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.crt"))
    subprocess.run(
        [openssl, *arguments.split(), "-addext", f"subjectAltName=DNS:{subject}", *files],
        check=True,
        capture_output=True,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if nginx is None:
        pytest.skip("needs nginx (Debian: nginx-light), to run the shipped configuration")
    folder = tmp_path_factory.mktemp("gate")
    make_certificate(folder, "server", NAME)
    shutil.copy(folder / "server.crt", folder / "ca.crt")
    superlink = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    superlink.socket = context.wrap_socket(superlink.socket, server_side=True)
    thread = threading.Thread(target=superlink.serve_forever)
    thread.start()
    port = free_port()
    conf = CONF.read_text()
    for shipped, here in (
        ("127.0.0.1:8443;", f"127.0.0.1:{superlink.server_address[1]};"),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        (" fedward/", f" {folder}/"),
        ("        default 1;", "        default 0;"),
        ("# 10.20.30.0/24 1;", f"{DESK} 1;"),
        ("/run/nginx.pid", f"{folder}/nginx.pid"),
        ("/var/log/nginx", str(folder)),
    ):
        assert shipped in conf
        conf = conf.replace(shipped, here)
    (folder / "nginx.conf").write_text(conf)
    command = [
        nginx,
        "-p",
        str(folder),
        "-c",
        str(folder / "nginx.conf"),
        "-e",
        f"{folder}/start.log",
    ]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen([*command, "-g", "daemon off;"])
    try:
        wait_for(port)
        yield Gate(port, folder)
    finally:
        process.terminate()
        process.wait(10)
        superlink.shutdown()
        superlink.server_close()
        thread.join()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError("nginx did not start")


def test_a_hospital_reaches_the_fleet_interface(gate: Gate) -> None:
    assert gate.post("/v1/fleet/pull-messages") == (200, "/v1/fleet/pull-messages")


def test_operators_are_heard_from_their_own_network_only_if_it_is_set(gate: Gate) -> None:
    assert gate.post("/v1/control/start-run", operator="alice")[0] == 403
    assert gate.post("/v1/control/start-run", at=DESK)[0] == 200
    assert gate.post("/v1/runtime/acquire-task", at=DESK)[0] == 404


def test_what_an_operator_signed_reaches_the_front(gate: Gate) -> None:
    said = gate.post("/v1/control/start-run", operator="alice", at=DESK)
    assert said == (200, "/v1/control/start-run alice")


@pytest.mark.parametrize("operator", [None, "alice"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/runtime/acquire-task",
        "/V1/Runtime/acquire-task",
        "/v1/%72untime/acquire-task",
        "//v1//runtime/acquire-task",
        "/v1/fleet/../runtime/acquire-task",
        "/v1/fleet/%2e%2e/runtime/acquire-task",
        "/v1/runtime/acquire-task/..%2f..%2ffleet/pull-messages",
        "/v1/fleet/pull-messages/../../runtime/acquire-task",
        "/v1/fleet/..;/runtime/acquire-task",
        "/",
        "/docs",
    ],
)
def test_no_spelling_of_a_path_reaches_the_runtime_interface(
    gate: Gate, path: str, operator: str | None
) -> None:
    status, reached = gate.post(path, operator=operator)
    assert status == 404 or reached.split()[0] == "/v1/fleet/pull-messages"


def test_control_cannot_be_reached_under_the_name_of_the_fleet(gate: Gate) -> None:
    for path in ("/v1/fleet/../control/stop-run", "/v1/fleet/%2e%2e%2fcontrol/stop-run"):
        assert gate.post(path)[0] == 403


def test_a_piece_of_a_model_passes_and_an_endless_body_does_not(gate: Gate) -> None:
    assert gate.post("/v1/fleet/push-object", body=bytes(6 * 2**20))[0] == 200
    context = ssl.create_default_context(cafile=str(gate.folder / "ca.crt"))
    raw = socket.create_connection(("127.0.0.1", gate.port), timeout=10)
    with context.wrap_socket(raw, server_hostname=NAME) as connection:
        head = ["POST /v1/fleet/push-object HTTP/1.1", f"Host: {NAME}", f"Content-Length: {2**30}"]
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_plain_http_and_old_tls_are_refused(gate: Gate) -> None:
    plain = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=10)
    plain.request("POST", "/v1/fleet/pull-messages", body=b"x")
    assert plain.getresponse().status == 400
    plain.close()
    weak = ("-cipher", "DEFAULT:@SECLEVEL=0")  # else the client itself would refuse
    result = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{gate.port}", "-tls1_1", *weak],
        capture_output=True,
        text=True,
        input="",
        check=False,
    )
    assert result.returncode != 0


def test_the_log_names_who_asked_for_what_and_holds_no_query(gate: Gate) -> None:
    gate.post("/v1/control/list-runs?word=secret", operator="alice", at=DESK)
    deadline = time.monotonic() + 5
    log = gate.folder / "access.log"
    while "list-runs" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert '"alice" POST /v1/control/list-runs 200' in log.read_text()
    assert "secret" not in log.read_text()
