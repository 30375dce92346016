"""A site that raises: its error becomes a reply, the others answer, and no value leaves."""

from functools import partial
from pathlib import Path

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedward.common.errors import SiteDataError
from fedward.common.records import PARAMETERS, Update, read_instruction, reply_records
from fedward.simulations.worker import SiteWorker, describe
from tests.server.toy import run_toy

PATIENT = "Jane Doe, 1948-02-11"


def raising(error: Exception) -> SiteWorker:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["site"] == "bern":
            raise error
        asked = read_instruction(message)
        update = Update(5, 1.0, {PARAMETERS: asked.vectors[PARAMETERS] + 1})
        return Message(
            reply_records(update, asked.binding, loss_name="train_loss"), reply_to=message
        )

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        asked = read_instruction(message)
        records = reply_records(Update(5, 1.0), asked.binding, loss_name="eval_loss")
        return Message(records, reply_to=message)

    return SiteWorker(app, {1: "aachen", 2: "bern", 3: "cork"})


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (KeyError(PATIENT), "KeyError at test_worker.py"),
        (ValueError(f"could not convert {PATIENT}"), "ValueError at test_worker.py"),
        (MemoryError(), "MemoryError"),
        (SiteDataError("column 'age': 3 cells are not numbers"), "3 cells are not numbers"),
    ],
)
def test_a_site_that_raises_is_recorded_without_a_patients_value(
    error: Exception, shown: str
) -> None:
    targets = {"aachen": 1.0, "bern": 2.0, "cork": 3.0}
    outcome, loop = run_toy(targets=targets, rounds=1, factory=partial(raising, error))
    assert outcome.progress.num_aggregated == 1
    (failed,) = [e for e in loop.history.entries if e.status == "failed"]
    assert failed.site == "bern"
    assert shown in str(failed.reason)
    assert PATIENT not in str(failed.reason)


def test_a_foreign_error_names_the_place_but_not_the_path() -> None:
    try:
        Path("/no/such/patient.csv").read_text()
    except OSError as error:
        text = describe(error)
    assert text.startswith("FileNotFoundError at pathlib.py")
    assert "/no/such" not in text


def test_a_stacked_trainer_that_fails_costs_no_site_the_round(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken_prefill(pairs: object) -> None:
        raise FloatingPointError

    def factory() -> SiteWorker:
        worker = raising(ValueError())
        worker._prefill = broken_prefill
        return worker

    targets = {"aachen": 1.0, "bern": 2.0, "cork": 3.0}
    outcome, loop = run_toy(targets=targets, rounds=1, factory=factory)
    assert outcome.progress.num_aggregated == 1
    assert [e.site for e in loop.history.entries if e.status == "failed"] == ["bern"]
    assert "one by one instead" in caplog.text
