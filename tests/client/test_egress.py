"""The one way out of a site. Each refusal has an update that would otherwise have left."""

import json

import numpy as np
import pytest

from fedward.client.egress import egress
from fedward.common.errors import SiteDataError
from fedward.common.records import PARAMETERS, Binding, Instruction, Update, Vectors, arrays_of

BINDING = Binding("run", 3, "nonce", "model", "manifest")
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
