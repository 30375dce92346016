"""Who may knock: connections with a wrong key, certificate or clock, and sites nobody knows."""

import datetime
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest, RegisterNodeFleetRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient

from tests.faults.federation import FEDWARD, Federation, Site
from tests.faults.figures import Figure, case, is_true, none_of
from tests.faults.processes import TooLateError, Tree, wait_for
from tests.faults.tcp_proxy import TcpProxy, Terminated

ACCEPTED = "accepted"


@dataclass(frozen=True)
class Skewed:
    """Signs as a SuperNode does, by a clock that is wrong by some seconds."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    shift_s: float

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the three headers of a node."""
        shift = datetime.timedelta(seconds=self.shift_s)
        told = (datetime.datetime.now(datetime.UTC) + shift).isoformat()
        signature = sign_message(self.key, told.encode("ascii"))
        public = b64encode(public_key_to_bytes(self.key.public_key())).decode("ascii")
        headers = {
            FLEET_HTTP_PUBLIC_KEY_HEADER: public,
            TIMESTAMP_HEADER: told,
            FLEET_HTTP_SIGNATURE_HEADER: b64encode(signature).decode("ascii"),
        }
        add_headers(context.request, headers)
        return call_next(context)


def knock(
    address: str,
    key: ec.EllipticCurvePrivateKey,
    ca: bytes | None,
    *,
    shift_s: float = 0.0,
    registers: bool = False,
) -> str:
    """Ask the server to activate the node of `key`, and return `ACCEPTED` or the reason why not.

    Args:
        address: host:port.
        key: of the site.
        ca: whom to trust; None: no TLS at all.
        shift_s: by how much the clock is wrong.
        registers: first try to register the key oneself.
    """
    client = FleetHttpClient.from_server_address(
        address,
        ca is None,
        ca,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            Skewed(key, shift_s),
        ],
    )
    public = public_key_to_bytes(key.public_key())
    try:
        if registers:
            client.RegisterNode(RegisterNodeFleetRequest(public_key=public))
        client.ActivateNode(ActivateNodeRequest(public_key=public, heartbeat_interval=30))
    except httpx.HTTPStatusError as error:
        return f"HTTP {error.response.status_code}: {error.response.text[:120]}"
    except (httpx.HTTPError, ValueError) as error:
        return f"{type(error).__name__}: {str(error)[:160]}"
    finally:
        client.close()
    return ACCEPTED


@case("trust")
def trust() -> list[Figure]:
    """Every kind of stranger is refused, and the honest site beside them is not."""
    from fedward.common.keys import load_key

    with Federation(["aachen", "bern", "cork", "delft"]) as federation:
        guest = federation.site("delft")
        guest.stop()
        stranger = ec.generate_private_key(ec.SECP384R1())
        address = f"127.0.0.1:{federation.port}"
        ca = (guest.kit / "ca.crt").read_bytes()
        key = load_key(guest.folder / "site.key")
        other_ca = certificate(federation.folder / "other", days=1).certificate.read_bytes()
        before = len(logged(federation))
        heard = {
            "plaintext": knock(address, key, None),
            "wrong CA": knock(address, key, other_ca),
            "unregistered key": knock(address, stranger, ca),
            "registers itself": knock(address, stranger, ca, registers=True),
            "clock -10 s": knock(address, key, ca, shift_s=10),
            "clock +400 s": knock(address, key, ca, shift_s=-400),
        }
        time.sleep(2)
        said = logged(federation)[before:].strip()
        figures = [is_true(f"the server's log tells of them: {said[:60]!r}", bool(said))]
        figures.append(none_of("strangers accepted", [k for k in heard if heard[k] == ACCEPTED]))
        figures += [is_true(f"{name}: {why[:70]}", why != ACCEPTED) for name, why in heard.items()]
        figures += without_a_name(federation)
        figures += sybil(federation)
        figures += expired(federation, guest)
        figures += foreign_kit(federation, guest)
        accepted = wait_for(lambda: knock(address, key, ca) == ACCEPTED, "delft", within_s=90)
        figures.append(is_true("the right key with the right clock is accepted", accepted))
        figures += revoked(federation, guest, key, ca)
    return figures


def logged(federation: Federation) -> str:
    """Return what the SuperLink and the conductor have logged."""
    return "".join(p.read_text("utf-8") for p in sorted((federation.state / "logs").glob("*.log")))


def without_a_name(federation: Federation) -> list[Figure]:
    """Call what Flower lets everybody call, at the server's address and with its public ca.crt."""
    from fedward.common.errors import NetworkError
    from fedward.common.keys import public_text
    from fedward.server.link.flower_control import Control

    key = ec.generate_private_key(ec.SECP384R1())
    address, ca = f"127.0.0.1:{federation.port}", (federation.kits / "server/ca.crt").read_bytes()
    run = federation.submit(rounds=200)
    flower_run = wait_for(lambda: run.status.get("flower_run"), "the run's number", within_s=60)
    told: dict[str, str] = {}
    with Control(address, ca) as control:
        calls: dict[str, Callable[[], object]] = {
            "register": lambda: control.register(public_text(key), "sybil"),
            "unregister": lambda: control.unregister(1),
            "list nodes": control.nodes,
            "list runs": control.runs,
            "logs": lambda: list(control.logs(flower_run)),
            "stop": lambda: control.stop_run(flower_run),
        }
        for name, call in calls.items():
            try:
                call()
            except NetworkError as error:
                told[name] = str(error)
            else:
                told[name] = ACCEPTED
    goes_on = run.status["state"] == "running"
    federation.stop_run(run)
    return [
        none_of("calls without a name accepted", [k for k in told if told[k] == ACCEPTED]),
        is_true(f"stop: {told['stop'][:70]}", "not signed" in told["stop"]),
        is_true("the run goes on meanwhile", goes_on),
    ]


def sybil(federation: Federation) -> list[Figure]:
    """Register a site behind the roster's back, on the server's own machine; it has no part."""
    from fedward.common.keys import public_text
    from fedward.server.link.flower_control import Control

    key = ec.generate_private_key(ec.SECP384R1())
    # Past the front: what else on that machine could do, and the conductor has to put right.
    port = int((federation.state / "superlink.port").read_text())
    address, ca = f"127.0.0.1:{port}", (federation.kits / "server/ca.crt").read_bytes()
    control = Control(address, ca)
    node = control.register(public_text(key), "sybil")
    knock(address, key, ca)
    # One of the four sites is away: it is not waited for long.
    run = federation.submit(rounds=2, sampling={"wait_for_sites_s": 5.0})
    run.wait_end(within_s=240)
    sites = {line["site"] for line in run.history() if line["status"] == "ok"} - {None}
    try:
        gone = wait_for(
            lambda: node not in {one.node_id for one in control.nodes() if one.is_registered},
            "the sybil to be unregistered",
            within_s=60,
        )
    except TooLateError:
        gone = False
    return [
        none_of("sybil: replies counted", sites - set(federation.names)),
        is_true("sybil: unregistered by the coordinator", gone),
        is_true("sybil: refused afterwards", knock(address, key, ca) != ACCEPTED),
    ]


def expired(federation: Federation, guest: Site) -> list[Figure]:
    """Stand before the server with a certificate of the true authority that has ended."""
    authority = federation.kits / "ca"
    ended = certificate(federation.folder / "ended", days=-1, authority=authority)
    told = f"127.0.0.1:{federation.port}"
    tls = Terminated(ended.certificate, ended.key, federation.kits / "server/ca.crt")
    with TcpProxy(("127.0.0.1", federation.port), tls=tls) as proxy:
        from fedward.common.keys import load_key

        key, ca = load_key(guest.folder / "site.key"), (guest.kit / "ca.crt").read_bytes()
        why = knock(f"127.0.0.1:{proxy.port}", key, ca)
        held = [why == ACCEPTED, "expired" in why.lower()]
    return [is_true(f"expired certificate of {told}: {why[:70]}", held == [False, True])]


def foreign_kit(federation: Federation, guest: Site) -> list[Figure]:
    """Start the real client with the authority of someone else: it must end, and say why."""
    with swapped(guest.kit / "ca.crt", federation.folder / "other/server.crt"):
        command = [FEDWARD, "client", "--kit", str(guest.kit), "--site", str(guest.file)]
        tree = Tree(command, guest.folder / "foreign.log", guest.env).start()
        try:
            code = wait_for(tree.process.poll, "the client to end", within_s=60)
        except TooLateError:
            code = 0
        finally:
            tree.stop()
    said = tree.text().strip().splitlines()
    last = said[-1] if said else ""
    return [is_true(f"kit of another authority: exit {code}: {last[:60]}", code in {2, 4})]


def revoked(federation: Federation, guest: Site, key: Any, ca: bytes) -> list[Figure]:
    """Revoke the guest's key, and let it knock again."""
    from fedward.common.kit import load_kit

    address = f"127.0.0.1:{federation.port}"
    file = federation.folder / "consortium.yaml"
    federation.fedward(
        "provision", str(file), "--out", str(federation.kits), "--revoke", guest.name
    )
    roster = load_kit(federation.kits / "server", "server").roster
    federation.stop_server()
    federation.start_server()
    try:
        wait_for(lambda: knock(address, key, ca) != ACCEPTED, "the refusal", within_s=60, every_s=2)
        why = knock(address, key, ca)
    except TooLateError:
        why = ACCEPTED
    left = [site.name for site in roster.sites if site.name == guest.name]
    return [
        none_of("revoked site in the roster", left),
        is_true(f"revoked key: {why[:70]}", why != ACCEPTED),
    ]


@contextmanager
def swapped(file: Path, other: Path) -> Iterator[None]:
    """Put another file in the place of one, for a while."""
    before = file.read_bytes()
    file.write_bytes(other.read_bytes())
    try:
        yield
    finally:
        file.write_bytes(before)


def certificate(folder: Path, *, days: int, authority: Path | None = None) -> Terminated:
    """Make a certificate for 127.0.0.1 that ends `days` from now; self-signed without authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import NameOID

    from fedward.common.keys import load_key

    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    signer, issuer = key, name
    if authority is not None:
        found = x509.load_pem_x509_certificate((authority / "ca.crt").read_bytes())
        signer, issuer = load_key(authority / "ca.key"), found.subject
    now = datetime.datetime.now(datetime.UTC)
    import ipaddress

    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(signer, hashes.SHA384())
    )
    files = Terminated(folder / "server.crt", folder / "server.key", folder / "server.crt")
    files.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    files.key.write_bytes(private)
    return files
