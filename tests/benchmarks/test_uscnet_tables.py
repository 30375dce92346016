"""Every row of the paper's tables is a configuration that loads, builds and learns."""

import math

import numpy as np
import pytest
import torch

from fedward.common.config.loader import load_run_config
from fedward.common.models.layout import num_columns
from fedward.common.randomness import seeded_global_torch
from fedward.common.tables.schema import load_schema
from fedward.common.tasks.ct import CtTask
from fedward.simulations.cli import find_config
from tests.benchmarks import uscnet_tables
from tests.benchmarks.ct_arms import CONFIG, Result
from tests.benchmarks.uscnet_tables import COLUMNS, TABLES, Changes, Row, figures_of, table
from tests.common.image_batches import images

BUILT = {
    row.changes: f"{number}-{row.name}"
    for number, rows in TABLES.items()
    for row in rows
    if row.changes is not None
}
SMALL = "data.image.size=[16, 16, 16]"


@pytest.mark.parametrize("changes", BUILT, ids=BUILT.values())
def test_the_keys_of_a_row_load_and_make_a_network_that_learns(changes: Changes) -> None:
    config = load_run_config(find_config(CONFIG), [*changes, SMALL]).config
    schema = load_schema(config.data.schema_name)
    task = CtTask(config.task, schema, config.data, model=config.model, loss=config.loss)
    with seeded_global_torch(0):
        model = task.build_model().train()
    batch = images(task.form, 2)
    assert task.layout is not None
    batch["features"] = torch.zeros(2, num_columns(task.layout))
    for name in ("image", "table"):
        batch[f"mask.{name}"][:] = name in config.data.modalities
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = [p.detach().clone() for p in model.parameters()]
    loss = task.training_loss(model, None) if config.loss.weights == "fixed" else None
    (loss or task.loss_per_sample)(model(batch), batch).sum().backward()
    optimizer.step()
    changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert any(changed)
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_tables_have_the_papers_rows() -> None:
    assert {number: len(rows) for number, rows in TABLES.items()} == {
        1: 11,
        2: 6,
        3: 15,
        4: 3,
        5: 6,
    }
    for rows in TABLES.values():
        assert len({row.name for row in rows}) == len(rows)
        for row in rows:
            assert (row.changes is None) == bool(row.why_not)
            assert set(row.reported) <= set(COLUMNS.values())
    # What stands for the layers of twelve is every set of the four layers there are, once.
    layers = [change for row in TABLES[3] for change in row.changes or ()]
    assert len({change for change in layers if "sma_layers" in change}) == 14


def test_the_modules_text_names_every_key_that_a_row_sets() -> None:
    text = " ".join(str(uscnet_tables.__doc__).split())
    one_of_a_kind = {change.partition("=")[0] for changes in BUILT for change in changes}
    assert all(f"{key}=" in text for key in one_of_a_kind)
    for row in (*TABLES[1][5:], *TABLES[4]):
        assert all(change in text for change in row.changes or ())


def test_a_row_that_repeats_another_has_its_keys() -> None:
    rows = {(number, row.name): row for number, table in TABLES.items() for row in table}
    same = [(2, "+cea+sma+dw"), (3, "z12"), (4, "bce+focal+dice"), (5, "auto")]
    assert len({rows[key].changes for key in same}) == 1
    assert rows[2, "+cea+sma"].changes == rows[5, "0.5/0.5"].changes
    assert rows[2, "ct"].changes == rows[1, "unetr"].changes


def test_a_table_shows_our_figures_and_the_papers_where_there_are_any() -> None:
    rows = [
        Row("a", (), "90.00 - - - 80.00 - - 3.50"),
        Row("b", None, "- - - - - 70.00 - -", "it is another one"),
    ]
    seeds = [_result(auroc=0.75, precision=0.5), _result(auroc=0.85)]
    head, _, ours, paper, other, _, why = table(rows, {"a": seeds})
    assert _cells(head)[2:5] == ["AUROC", "balanced acc.", "accuracy"]
    # Student's t with one degree of freedom: 12.706 times .05.
    half = 12.706 * 0.1 / 2
    assert _cells(ours)[:3] == ["a", "here", f"0.800 ({0.8 - half:.3f} to {0.8 + half:.3f})"]
    assert "0.500 [1 of 2 seeds]" in _cells(ours)
    assert _cells(paper)[:5] == ["a", "paper", "-", "0.800", "0.900"]
    assert _cells(paper)[-1] == "3.500"
    assert _cells(other) == ["b", "paper", *"------", "0.700", "-", "-"]
    assert why == "b is not built: it is another one."


def test_balanced_accuracy_is_the_mean_of_sensitivity_and_specificity() -> None:
    found = figures_of(_result(sensitivity=99 / 109, specificity=151 / 163))
    # The paper's "AUC" of USCNet, from the counts that its other figures allow.
    assert math.isclose(found["balanced_accuracy"], 0.9173, abs_tol=5e-5)


def _result(**figures: float) -> Result:
    return Result(np.zeros(0, dtype=np.int64), np.zeros(0), figures)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]
