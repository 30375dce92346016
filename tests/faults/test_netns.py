import socket
import subprocess
import sys

import pytest

from tests.faults.netns import Cell, Packet, why_not

REASON = why_not()
pytestmark = [pytest.mark.network, pytest.mark.skipif(REASON is not None, reason=str(REASON))]
PROGRAM = """
import socket, sys
here, port = sys.argv[1], int(sys.argv[2])
socket.create_connection((here, port), timeout=5).close()
if len(sys.argv) > 3:
    talk = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    talk.sendto(b"?", ("192.0.2.53", 53))
    try:
        socket.create_connection(("198.51.100.7", 443), timeout=1)
    except OSError:
        pass
"""


@pytest.mark.parametrize("calls_home", [False, True], ids=["quiet", "calls home"])
def test_a_process_in_the_cell_is_seen_when_it_turns_to_anyone_else(calls_home: bool) -> None:
    with Cell(7) as cell, socket.create_server((cell.here, 0)) as server:
        port = server.getsockname()[1]
        command = [sys.executable, "-I", "-c", PROGRAM, cell.here, str(port)]
        subprocess.run(cell.inside(command + ["x"] * calls_home), check=True, timeout=20)
        others = cell.others(port)
    strangers = {Packet("udp", "192.0.2.53", 53), Packet("tcp", "198.51.100.7", 443)}
    assert others == (strangers if calls_home else set())
