"""A real SuperLink behind the real front, and hands to knock with, for tests."""

import contextlib
import dataclasses
import signal
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
)
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedward.common.keys import load_key, make_key
from fedward.common.kit import Kit
from fedward.common.operator_auth import Signer
from fedward.common.processes import follow_parent
from fedward.common.roster import Roster, sign_roster
from fedward.server.link.conductor import reconcile
from fedward.server.link.flower_control import Control
from fedward.server.link.front import front_command
from fedward.server.link.superlink import wait_healthy
from tests.server.coordinator import Coordinator, free_port

LIST, STOP = "/v1/control/list-runs", "/v1/control/stop-run"
PROTOBUF = {"content-type": "application/protobuf", "accept": "application/protobuf"}


@dataclass
class Stand:
    """A coordinator at its public address, and its SuperLink behind."""

    public: Coordinator
    behind: Coordinator
    kit: Kit
    """Read once: tests put other rosters into its folder."""
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def ca(self) -> bytes:
        """The authority's certificate."""
        return self.kit.ca_file.read_bytes()

    def start(self) -> None:
        """Start the front."""
        command = front_command(self.kit, self.public.address, self.behind.address)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(follow_parent(command), stdout=log, stderr=log)
        wait_healthy(self.public.address, self.ca, within_s=60)

    def stop(self) -> None:
        """End the front."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)

    def signer(self, name: str = "anna", consortium: str = "Test") -> Signer:
        return Signer(name, consortium, load_key(self.public.folder / f"{name}.key"))

    def control(self) -> Control:
        """Return a connection of the operator's."""
        return Control(self.public.address, self.ca, self.signer())

    def client(self) -> httpx.Client:
        """Return a client that can say anything."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.kit.ca_file)
        base = f"https://{self.public.address}"
        return httpx.Client(base_url=base, verify=context, trust_env=False, timeout=30)

    def post(self, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> int:
        """Return the status of one call."""
        with self.client() as client:
            return client.post(path, content=body, headers=PROTOBUF | (headers or {})).status_code

    @contextlib.contextmanager
    def fleet(self, key_name: str) -> Iterator[FleetHttpClient]:
        """Yield what a SuperNode with this key talks through."""
        key = load_key(self.public.folder / f"{key_name}.key")
        client = FleetHttpClient.from_server_address(
            self.public.address,
            False,  # noqa: FBT003 - Flower's own signature
            self.ca,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        )
        try:
            yield client
        finally:
            client.close()

    def public_bytes(self, key_name: str) -> bytes:
        return public_key_to_bytes(load_key(self.public.folder / f"{key_name}.key").public_key())

    @contextlib.contextmanager
    def roster(self, **changes: object) -> Iterator[None]:
        """Put another signed roster into the server's kit for a while."""
        kit = self.kit
        before = kit.roster_file.read_text()
        changed: Roster = dataclasses.replace(kit.roster, serial=99, **changes)  # type: ignore[arg-type]
        ca_key = load_key(self.public.folder / "kits" / "ca" / "ca.key")
        kit.roster_file.write_text(sign_roster(changed, ca_key))
        try:
            yield
        finally:
            kit.roster_file.write_text(before)


@contextlib.contextmanager
def standing(folder: Path) -> Iterator[Stand]:
    """Yield a running coordinator with two sites, an operator, and a key that is in no roster."""
    public, behind = Coordinator(folder, free_port()), Coordinator(folder, free_port())
    public.provision("hospital-a", "hospital-b")
    make_key(folder / "stranger.key")
    behind.start()
    with behind.control() as control:
        reconcile(control, public.kit.roster)
    stand = Stand(public, behind, public.kit, folder / "front.log")
    stand.start()
    try:
        yield stand
    finally:
        stand.stop()
        behind.kill()


def status_of(error: pytest.ExceptionInfo[httpx.HTTPStatusError]) -> int:
    return error.value.response.status_code


def activate(stand: Stand, name: str, client: FleetHttpClient) -> int:
    """Return the node id of a site, as its SuperNode hears it."""
    request = ActivateNodeRequest(public_key=stand.public_bytes(name), heartbeat_interval=30)
    return client.ActivateNode(request).node_id


@contextlib.contextmanager
def active(stand: Stand, name: str) -> Iterator[tuple[FleetHttpClient, int]]:
    """Yield the connection of a SuperNode that is active, and its node id."""
    with stand.fleet(name) as client:
        node = activate(stand, name, client)
        yield client, node
        client.DeactivateNode(DeactivateNodeRequest(node_id=node))
