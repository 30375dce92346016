"""The one way out of a site. Each refusal has an update that would otherwise have left."""

import json
from typing import cast

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from fedward.client.app import make_client_app
from fedward.client.egress import egress
from fedward.client.site import Site
from fedward.client.store import SiteStore
from fedward.client.trainer import Trainer
from fedward.common.errors import SiteDataError
from fedward.common.flower import assume_server_identity, stamp
from fedward.common.records import (
    PARAMETERS,
    STATISTICS_QUERY,
    Binding,
    Instruction,
    Update,
    Vectors,
    arrays_of,
)
from fedward.common.task import PatientDataset, SiteData

BINDING = Binding("run", 3, "nonce", "model", "manifest")
SITE_DATA = SiteData(PatientDataset({}), PatientDataset({}))
ASKED = Instruction(BINDING, {PARAMETERS: np.zeros(3, np.float32)})


def send(vectors: Vectors, loss: float = 0.5) -> None:
    update = Update(5, loss, vectors, {"seconds": 1.0})
    records = egress(update, ASKED, loss_name="train_loss")
    assert set(records) == {"arrays", "metrics", "receipt", "report"}


def test_an_honest_update_leaves_with_its_receipt() -> None:
    update = Update(5, 0.5, {PARAMETERS: np.ones(3, np.float32)}, {"seconds": 1.0})
    records = egress(update, ASKED, loss_name="train_loss")
    assert BINDING.is_in(records["receipt"])
    assert dict(records["metrics"].items()) == {"num-examples": 5, "train_loss": 0.5}
    assert json.loads(str(records.config_records["report"]["json"])) == {"seconds": 1.0}


@pytest.mark.parametrize(
    ("vectors", "why"),
    [
        ({PARAMETERS: np.array([1, np.nan, 1], np.float32)}, "NaN or infinite"),
        ({PARAMETERS: np.array([1, np.inf, 1], np.float32)}, "NaN or infinite"),
        ({PARAMETERS: np.ones(4, np.float32)}, "another form"),
        ({PARAMETERS: np.ones(3, np.float64)}, "another form"),
        ({"patients": np.ones(3, np.float32)}, "not on the list"),
    ],
)
def test_what_was_not_agreed_stays_at_the_site(vectors: Vectors, why: str) -> None:
    with pytest.raises(SiteDataError, match=why):
        send(vectors)


def test_a_loss_that_is_not_finite_stays_at_the_site() -> None:
    with pytest.raises(SiteDataError, match="train_loss is not finite"):
        send({PARAMETERS: np.ones(3, np.float32)}, loss=float("nan"))


def test_masking_is_the_last_step_and_sees_only_what_passed() -> None:
    seen: list[Vectors] = []

    def mask(vectors: Vectors) -> Vectors:
        seen.append(vectors)
        return {name: vector + 100 for name, vector in vectors.items()}

    update = Update(5, 0.5, {PARAMETERS: np.ones(3, np.float32)})
    records = egress(update, ASKED, loss_name="train_loss", mask=mask)
    np.testing.assert_array_equal(arrays_of(records)[PARAMETERS].numpy(), [101, 101, 101])
    bad = Update(5, 0.5, {PARAMETERS: np.full(3, np.nan, np.float32)})
    with pytest.raises(SiteDataError, match="NaN"):
        egress(bad, ASKED, loss_name="train_loss", mask=mask)
    assert len(seen) == 1


@pytest.mark.parametrize(("second", "leaves"), [(2.5, True), (float("nan"), False)])
def test_preprocessing_sums_pass_the_same_gate(second: float, leaves: bool) -> None:
    assume_server_identity(run_id=1)
    site = Site("bern", lambda _: SITE_DATA, lambda: np.array([5.0, second]), SiteStore(None))
    app = make_client_app(lambda context: site, cast("Trainer", None))
    content = RecordDict({"binding": BINDING.to_record()})
    message = stamp(Message(content, dst_node_id=1, message_type=STATISTICS_QUERY))
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    if leaves:
        sums = arrays_of(app(message, context).content)["sums"].numpy()
        np.testing.assert_array_equal(sums, [5.0, second])
    else:
        with pytest.raises(SiteDataError, match="NaN or infinite values in sums"):
            app(message, context)
