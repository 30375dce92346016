"""Who has the trained model: each site that named exactly this release, and nobody else."""

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Error, Message, RecordDict

from fedward.common.flower import assume_server_identity, stamp
from fedward.common.keys import public_text
from fedward.common.release import RELEASE_QUERY, Release, verify_release
from fedward.server.instructions import SelectedSites
from fedward.server.release import send_release
from fedward.simulations.grids.inprocess import InProcessGrid

KEY = ec.generate_private_key(ec.SECP384R1())
NODES = {"good": 1, "refuses": 2, "away": 3, "liar": 4}
RELEASE = Release(
    run_key="heart-1",
    request_hash="ab" * 32,
    name="heart",
    round=3,
    config={},
    schema={},
    parameters=np.ones(4, dtype=np.float32),
    statistics=None,
    manifest_hash="cd" * 32,
)


class FourSites(SelectedSites):
    """One site for each way to answer."""

    def __init__(self) -> None:
        super().__init__(InProcessGrid(), list(NODES.values()))
        assume_server_identity(run_id=1)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        for message in messages:
            assert message.metadata.message_type == RELEASE_QUERY
            release, signature = Release.from_records(stamp(message).content)
            verify_release(release, signature, public_text(KEY))
            match message.metadata.dst_node_id:
                case 1:
                    kept = ConfigRecord({"release": release.fingerprint})
                    yield Message(RecordDict({"kept": kept}), reply_to=message)
                case 2:
                    yield Message(Error(1, "has round 4 already"), reply_to=message)
                case 4:
                    kept = ConfigRecord({"release": "another"})
                    yield Message(RecordDict({"kept": kept}), reply_to=message)


def test_each_site_is_told_apart() -> None:
    told = send_release(FourSites(), NODES, RELEASE, KEY, timeout_s=5)
    assert told == {
        "good": "ok",
        "refuses": "has round 4 already",
        "away": "no answer within 5 s",
        "liar": "the answer names another model",
    }
