"""What the rules are compared by: budgets, tuning on other seeds, what is saved and lost."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from fedward.simulations.stopping.comparison import ORACLE, Comparison, best_rule
from fedward.simulations.stopping.picture import picture
from fedward.simulations.stopping.recording import RecordedRound, Recording
from fedward.simulations.stopping.verdict import as_csv, as_rows, sentences

ROUNDS = 30


def recording(seed: int, turn: int, *, quiet_from: int | None = None) -> Recording:
    """Return a run whose validation loss turns after `turn` rounds, and whose AUROC then stays.

    Args:
        seed: of the recording.
        turn: best round.
        quiet_from: from which round CME is far below every threshold.
    """
    rounds = []
    for number in range(1, ROUNDS + 1):
        is_quiet = quiet_from is not None and number >= quiet_from
        told = {"log_mag": -9.0 if is_quiet else -1.0 + 0.3 * (number % 2), "rho": 0.9}
        figures = {
            "validation_loss": 0.5 + 0.02 * abs(number - turn),
            "auroc": 0.9 - 0.02 * max(turn - number, 0) - 0.0001 * seed,
        }
        rounds.append(RecordedRound(number, 4, figures, cme={"east": {"layer": told}}))
    return Recording(seed, "auroc", [], "sgd", "rms", 2, "hash", tuple(rounds))


def family(turns: Sequence[int], quiet_after: int | None = None) -> list[Recording]:
    return [
        recording(seed, turn, quiet_from=None if quiet_after is None else turn + quiet_after)
        for seed, turn in enumerate(turns, start=1)
    ]


def test_the_budget_comes_from_the_other_seeds() -> None:
    comparison = Comparison(family([8, 10, 12, 14]))
    assert comparison.budgets == [18, 17, 16, 15]  # 1.5 x mean of the others, rounded up
    assert not comparison.is_cut
    assert Comparison(family([28, 28, 28])).is_cut


def test_what_is_saved_is_counted_in_local_epochs_of_the_budget() -> None:
    rows = Comparison(family([8, 10, 12, 14])).rows
    assert [stop.saved_percent for stop in rows["full"].stops] == [0.0] * 4
    stop = rows["plateau"].stops[0]
    assert stop.stopped_at == 9, "patience 1 loses nothing on the other seeds"
    assert stop.saved_percent == pytest.approx(100 * (1 - 9 / 18))
    assert stop.lost_points == pytest.approx(0)


def test_nobody_is_judged_by_a_setting_that_its_own_figures_chose() -> None:
    runs = family([8, 10, 12, 14], quiet_after=0)
    spoilt = [
        replace(this, figures={**this.figures, "auroc": this.number / 100, "validation_loss": 1.0})
        for this in runs[0].rounds
    ]
    changed = [replace(runs[0], rounds=tuple(spoilt)), *runs[1:]]
    before, after = Comparison(runs), Comparison(changed)
    assert before.budgets[0] == after.budgets[0]
    for name, row in before.rows.items():
        assert row.stops[0].knobs == after.rows[name].stops[0].knobs, name
    assert after.budgets[1] != before.budgets[1], "the others do look at it"


def test_a_rule_that_would_lose_too_much_is_tuned_to_never_fire() -> None:
    early = [recording(seed, turn=20, quiet_from=2) for seed in (1, 2, 3)]
    row = Comparison(early).rows["saturation"]
    assert all(stop.knobs is None and stop.saved_percent == 0 for stop in row.stops)
    shipped = Comparison(early).rows["saturation-shipped"]
    assert all(stop.lost_points > 10 for stop in shipped.stops), "nothing guards the shipped ones"


def test_the_oracle_stops_at_the_first_round_within_half_a_point_of_the_end() -> None:
    rows = Comparison(family([8, 10, 12])).rows
    assert [stop.stopped_at for stop in rows[ORACLE].stops] == [8, 10, 12]


def test_it_says_so_when_cme_adds_something() -> None:
    # Noisy validation: the loss turns for a moment, long before the metric is done.
    runs = []
    for run in family([10, 11, 12, 13, 14], quiet_after=-1):
        dipped = [
            replace(this, figures={**this.figures, "validation_loss": 0.9 - 0.01 * this.number})
            for this in run.rounds
        ]
        runs.append(replace(run, rounds=tuple(dipped)))
    rows = Comparison(runs).rows
    assert rows["plateau"].saved.value == 0
    assert rows["saturation-shipped"].beyond.low is not None
    assert rows["saturation-shipped"].beyond.low > 0
    said = sentences(Comparison(runs))
    assert "CME adds something" in said[0]
    assert "may have been longer" in said[-1]


def test_it_says_so_when_cme_adds_nothing() -> None:
    comparison = Comparison(family([8, 10, 12, 14]))
    assert "CME adds nothing" in sentences(comparison)[0]
    assert best_rule(comparison.rows).name == "plateau"


def test_the_files_hold_every_rule_and_no_nan() -> None:
    comparison = Comparison(family([8, 10, 12]))
    text = json.dumps(as_rows(comparison), allow_nan=False)
    lines = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    assert [row["rule"] for row in json.loads(text)] == [line["rule"] for line in lines]
    assert float(lines[1]["saved_percent_value"]) == pytest.approx(
        comparison.rows["plateau"].saved.value
    )
    assert picture("demo", comparison).startswith(b"\x89PNG")
