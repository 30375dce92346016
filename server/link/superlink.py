"""How the SuperLink is started, and whether it answers."""

import secrets
import socket
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx

from fedward.common.errors import ConfigError, NetworkError
from fedward.common.keys import write_private
from fedward.common.kit import Kit
from fedward.common.processes import GIVES_BACK_MEMORY
from fedward.server.link.flower_control import network_error

SECRET_BYTES = 32
_PORTS = range(20_000, 32_000)
_SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_LOG_LEVEL": "WARNING",
    # Our own processes meet on this machine, whatever proxy its environment names.
    "NO_PROXY": "127.0.0.1,localhost,::1",
    "no_proxy": "127.0.0.1,localhost,::1",
}


def superlink_command(kit: Kit, state: Path, listen: str) -> tuple[list[str], dict[str, str]]:
    """Return the command of the SuperLink and what its environment needs; make its secret.

    Args:
        kit: the server's.
        state: folder of all that the coordinator keeps.
        listen: host:port; on the loopback address, behind the front.
    """
    host, port = split_address(listen)
    program = Path(sys.executable).with_name("flower-superlink")
    if not program.is_file():
        raise ConfigError(f"{program}: not there; install fedward again in this environment")
    argv = [
        *(sys.executable, "-I", str(program)),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(secret_file(state))),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        *("--database", str(state / "superlink.sqlite")),
        *("--host", host, "--port", str(port)),
        *("--ssl-ca-certfile", str(kit.ca_file)),
        *("--ssl-certfile", str(kit.server_cert)),
        *("--ssl-keyfile", str(kit.server_key)),
    ]
    return argv, environment(state)


def environment(state: Path) -> dict[str, str]:
    """Return what each process of the coordinator needs in its environment."""
    return {**_SETTINGS, **GIVES_BACK_MEMORY, "FLWR_HOME": str(state / "flwr")}


def secret_file(state: Path) -> Path:
    """Return the file with the secret of those who may take over runs; made once."""
    path = state / "superexec.secret"
    if not path.exists():
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, secrets.token_bytes(SECRET_BYTES))
    return path


def superlink_port(state: Path) -> int:
    """Return the port of the SuperLink on the loopback address, the same at every start.

    Another one only if somebody else uses it meanwhile. Below those that Linux gives to outgoing
    connections, one of which could hold it while the SuperLink is started again.
    """
    path = state / "superlink.port"
    with suppress(OSError, ValueError):
        kept = int(path.read_text(encoding="ascii"))
        if _is_free(kept):
            return kept
    while True:
        port = _PORTS[secrets.randbelow(len(_PORTS))]
        if _is_free(port):
            write_private(path, f"{port}\n".encode("ascii"))
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port`, without the brackets of an IPv6 address.

    Raises:
        ConfigError: it is no such text.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"{address!r}: expected host:port, such as 0.0.0.0:8443")
    return host.strip("[]"), int(port)


def wait_healthy(address: str, ca: bytes, *, within_s: float) -> None:
    """Return once the SuperLink at `address` answers.

    Raises:
        NetworkError: it does not within `within_s` seconds; TrustError for a foreign certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca.decode("ascii"))
    end = time.monotonic() + within_s
    with httpx.Client(verify=context, timeout=5.0, trust_env=False) as client:
        while True:
            try:
                client.get(f"https://{address}/health").raise_for_status()
            except httpx.HTTPError as error:
                shown: NetworkError = network_error(address, error)
                if type(shown) is not NetworkError or time.monotonic() > end:
                    raise shown from error
                time.sleep(0.3)
            else:
                return
