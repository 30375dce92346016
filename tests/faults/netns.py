"""A network of its own for one process: it reaches one address, and every other attempt is seen.

Needs root, `ip` and kernel name spaces. What the process sends leaves through one virtual cable,
at whose other end a raw socket listens: TCP to another port, another host, and questions to a name
server are all written down.
"""

import contextlib
import ipaddress
import os
import shutil
import socket
import struct
import subprocess
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self

ETH_P_IP = 0x0800
ETH_P_ALL = 0x0003
_ETH_BYTES = 14


def why_not() -> str | None:
    """Return why no network name space can be made here, or None."""
    if os.geteuid() != 0:
        return "a network name space needs root"
    if shutil.which("ip") is None:
        return "a network name space needs the program ip (Debian: iproute2)"
    probe = f"fw-probe-{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False)
    if done.returncode != 0:
        return "this kernel or container makes no network name space"
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return None


@dataclass(frozen=True)
class Packet:
    """Where one packet wanted to go."""

    protocol: str
    host: str
    port: int


class Cell:
    """One name space with one cable to this machine."""

    def __init__(self, number: int = 1) -> None:
        self.name = f"fw{os.getpid() % 10_000}-{number}"
        self.here = f"10.213.{number}.1"
        self.there = f"10.213.{number}.2"
        self.packets: list[Packet] = []
        self._cable = f"fw{os.getpid() % 10_000}x{number}"
        self._ear: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        far = f"{self._cable}b"
        _ip("netns", "add", self.name)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", far)
        _ip("link", "set", far, "netns", self.name)
        _ip("addr", "add", f"{self.here}/30", "dev", self._cable)
        _ip("link", "set", self._cable, "up")
        inside = ("-n", self.name)
        _ip(*inside, "addr", "add", f"{self.there}/30", "dev", far)
        _ip(*inside, "link", "set", far, "up")
        _ip(*inside, "link", "set", "lo", "up")
        # All roads lead to the listener: an attempt that met "no route" would not be seen.
        _ip(*inside, "route", "add", "default", "via", self.here)
        self._ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._ear.bind((self._cable, 0))
        self._ear.settimeout(0.5)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ear, self._ear = self._ear, None
        if self._thread is not None:
            self._thread.join(5)
        if ear is not None:
            ear.close()
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("netns", "del", self.name)

    def inside(self, command: list[str]) -> list[str]:
        """Return `command` as it is run in the cell."""
        return ["ip", "netns", "exec", self.name, *command]

    def others(self, port: int) -> set[Packet]:
        """Return every destination but the one that is allowed."""
        allowed = Packet("tcp", self.here, port)
        return {packet for packet in self.packets if packet != allowed}

    def _listen(self) -> None:
        while (ear := self._ear) is not None:
            try:
                frame, address = ear.recvfrom(65_535)
            except (TimeoutError, OSError):
                continue
            if address[2] != socket.PACKET_OUTGOING:
                packet = read_packet(frame)
                if packet is not None:
                    self.packets.append(packet)


def read_packet(frame: bytes) -> Packet | None:
    """Return where an Ethernet frame with IPv4 goes; None for neighbour discovery and the like."""
    if len(frame) < _ETH_BYTES + 20 or struct.unpack_from("!H", frame, 12)[0] != ETH_P_IP:
        return None
    header = (frame[_ETH_BYTES] & 0x0F) * 4
    kind = {6: "tcp", 17: "udp", 1: "icmp"}.get(frame[_ETH_BYTES + 9], "other")
    host = str(ipaddress.IPv4Address(frame[_ETH_BYTES + 16 : _ETH_BYTES + 20]))
    has_port = kind in {"tcp", "udp"}
    port = struct.unpack_from("!H", frame, _ETH_BYTES + header + 2)[0] if has_port else 0
    return Packet(kind, host, port)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
