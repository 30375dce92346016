"""Each way of changing a chain has a test in which it is found, at the right entry."""

import hashlib

import pytest

from fedward.common.chain import (
    ANCHOR_KIND,
    START,
    Anchor,
    Head,
    Row,
    anchor_text,
    entry_content,
    entry_hash,
    read_anchor,
    verify_anchor,
    verify_chain,
)


def chain(length: int = 6) -> list[Row]:
    rows: list[Row] = []
    previous = START
    for seq in range(1, length + 1):
        content = entry_content(seq, event=f"event {seq}")
        previous = entry_hash(previous, content)
        rows.append(Row(seq, content, previous))
    return rows


def test_a_whole_chain_has_no_finding() -> None:
    assert verify_chain(chain()) is None
    assert verify_chain([]) is None


def test_the_hash_is_sha256_over_the_previous_hash_and_the_content() -> None:
    expected = hashlib.sha256(b"ab\n{}").hexdigest()  # by hand
    assert entry_hash("ab", "{}") == expected


@pytest.mark.parametrize("seq", [1, 3, 6])
def test_an_edit_is_found_at_its_entry(seq: int) -> None:
    rows = chain()
    rows[seq - 1] = Row(seq, entry_content(seq, event="another"), rows[seq - 1].hash)
    finding = verify_chain(rows)
    assert finding is not None
    assert (finding.kind, finding.seq) == ("edited", seq)


def test_an_edit_with_a_fitting_hash_is_found_at_the_next_entry() -> None:
    rows = chain()
    content = entry_content(3, event="another")
    rows[2] = Row(3, content, entry_hash(rows[1].hash, content))
    finding = verify_chain(rows)
    assert finding is not None
    assert (finding.kind, finding.seq) == ("edited", 4)


def test_a_deletion_is_found_at_the_gap() -> None:
    finding = verify_chain([row for row in chain() if row.seq not in (3, 4)])
    assert finding is not None
    assert (finding.kind, finding.seq) == ("missing", 3)
    assert "entries 3 to 4" in finding.text


def test_a_deletion_is_found_where_the_rest_was_renumbered() -> None:
    rows = [row for row in chain() if row.seq != 3]
    rows = [Row(place, row.content, row.hash) for place, row in enumerate(rows, start=1)]
    finding = verify_chain(rows)
    assert finding is not None
    assert (finding.kind, finding.seq) == ("missing", 3)


def test_two_entries_that_changed_places_are_found() -> None:
    rows = chain()
    rows[1], rows[4] = Row(2, rows[4].content, rows[4].hash), Row(5, rows[1].content, rows[1].hash)
    finding = verify_chain(rows)
    assert finding is not None
    assert (finding.kind, finding.seq) == ("moved", 2)


def test_a_cut_end_is_found_with_an_anchor_and_only_with_one() -> None:
    rows = chain()[:4]
    assert verify_chain(rows) is None
    finding = verify_anchor(Anchor("bern", 6, chain()[5].hash), Head(4, rows[-1].hash), None)
    assert finding is not None
    assert (finding.kind, finding.seq) == ("cut", 5)


def test_a_log_that_was_written_anew_is_found_with_an_anchor() -> None:
    finding = verify_anchor(Anchor("bern", 2, "0" * 64), Head(4, "1" * 64), chain()[1].hash)
    assert finding is not None
    assert (finding.kind, finding.seq) == ("replaced", 2)


def test_an_anchor_that_fits_is_no_finding() -> None:
    row = chain()[1]
    assert verify_anchor(Anchor("bern", 2, row.hash), Head(4, "1" * 64), row.hash) is None
    assert verify_anchor(Anchor("bern", 0, START), Head(4, "1" * 64), None) is None


def test_what_is_signed_says_what_it_is_and_can_be_read_back() -> None:
    anchor = Anchor("bern", 3, "ab" * 32)
    text = anchor_text(anchor, round_number=7, run_key="run")
    assert read_anchor(text, ANCHOR_KIND) == anchor
    assert '"round": 7' in text
    assert read_anchor('{"site": "bern", "seq": 3, "hash": "ab"}', ANCHOR_KIND) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"event": "start"}', '{"site": "b", "seq": true, "hash": "x"}']
)
def test_a_line_about_something_else_is_no_anchor(text: str) -> None:
    assert read_anchor(text) is None
