from pathlib import Path

from fedward.client.messages import MessageLedger


def begin(ledger: MessageLedger, message_id: str) -> int:
    return ledger.begin(message_id, run_key="run", round_number=3, phase="train")


def test_attempts_are_counted_per_message() -> None:
    ledger = MessageLedger(None)
    assert [begin(ledger, "a"), begin(ledger, "b"), begin(ledger, "a")] == [1, 1, 2]


def test_attempts_survive_the_worker(tmp_path: Path) -> None:
    first = MessageLedger(tmp_path / "site.sqlite")
    begin(first, "a")
    # Not closed: the worker was killed.
    assert begin(MessageLedger(tmp_path / "site.sqlite"), "a") == 2
    first.close()
