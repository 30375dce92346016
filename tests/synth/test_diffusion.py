"""Diffusion: the formulas on numbers worked out by hand, and a table that is learned."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fedward.common.errors import ConfigError
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.diffusion import TabularDiffusion
from fedward.synth.tables.diffusion_steps import (
    Schedule,
    cosine_schedule,
    denoised_numbers,
    divergence,
    noised_numbers,
    one_hot,
    places,
    posterior,
)

COLUMNS = Columns(
    (
        Column("pressure", "continuous", low=0, high=400, decimals=0),
        Column("rate", "continuous", low=0, high=400, decimals=1),
        Column("sex", "categorical", categories=("f", "m")),
    ),
    "died",
    (0, 1),
)


def quick(columns: Columns = COLUMNS) -> TabularDiffusion:
    return TabularDiffusion(columns, num_updates=20, num_steps=10, hidden=(32, 32), batch_size=64)


def patients(n: int = 600) -> pd.DataFrame:
    """Rows in which `rate` follows `pressure`, both follow the class, and so does a gap."""
    rng = np.random.default_rng(7)
    died = (np.arange(n) % 3 == 0).astype(int)
    pressure = np.clip(120 + 30 * died + 15 * rng.standard_normal(n), 1, 399).round()
    rate = (60 + 0.2 * pressure + 2 * rng.standard_normal(n)).round(1)
    rate[rng.random(n) < np.where(died == 1, 0.4, 0.1)] = np.nan
    sex = np.where(rng.random(n) < np.where(died == 1, 0.8, 0.3), "m", "f")
    return pd.DataFrame({"pressure": pressure, "rate": rate, "sex": sex, "died": died})


def test_the_schedule_keeps_nearly_all_at_first_and_nearly_nothing_at_last() -> None:
    schedule = cosine_schedule(100)
    assert schedule.kept_T[0] > 0.999
    assert schedule.kept_T[-1] < 1e-3
    assert (schedule.kept_T.diff() < 0).all()


def test_a_posterior_worked_out_by_hand() -> None:
    # Two categories, alpha = 0.5 at this step and 0.8 kept before it; category 1 is seen, and the
    # clean row is believed to be category 0 with 0.9. Towards: (.25, .75); away: .8 p + .1.
    schedule = Schedule(torch.tensor([0.8, 0.5]), torch.tensor([0.8, 0.4]))
    clean = torch.tensor([[[0.9, 0.1]]])
    hot = one_hot(torch.tensor([[1]]), 2)
    found = posterior(clean, hot, torch.tensor([1]), places((2,)), schedule)
    joint = (0.25 * 0.82, 0.75 * 0.18)
    assert found.flatten().tolist() == pytest.approx([one / sum(joint) for one in joint])


def test_a_posterior_gives_nothing_to_places_that_a_group_lacks() -> None:
    valid = places((2, 3))
    clean = (torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(1)) * valid).clamp(min=0)
    clean = clean / clean.sum(-1, keepdim=True)
    hot = one_hot(torch.tensor([[1, 2]] * 5), 3)
    found = posterior(clean, hot, torch.arange(5), valid, cosine_schedule(10))
    assert found[:, 0, 2].abs().max() == 0
    torch.testing.assert_close(found.sum(-1), torch.ones(5, 2))


def test_the_first_step_says_what_the_clean_row_is() -> None:
    clean = torch.tensor([[[0.3, 0.7]]])
    hot = one_hot(torch.tensor([[0]]), 2)
    # Without anything kept of the seen category, the posterior is the belief.
    schedule = Schedule(torch.tensor([0.0]), torch.tensor([0.0]))
    found = posterior(clean, hot, torch.tensor([0]), places((2,)), schedule)
    torch.testing.assert_close(found, clean)


def test_a_divergence_worked_out_by_hand() -> None:
    true = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]])
    found = torch.tensor([[[0.25, 0.75], [0.5, 0.5]]])
    first = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert divergence(true, found).item() == pytest.approx((first + math.log(2)) / 2, abs=1e-6)
    assert divergence(true, true).item() == pytest.approx(0, abs=1e-6)


def test_with_the_true_noise_numbers_come_back_from_any_step() -> None:
    schedule = cosine_schedule(60)
    generator = torch.Generator().manual_seed(3)
    clean = torch.randn(40, 3, generator=generator)
    values = noised_numbers(clean, torch.randn(40, 3, generator=generator), schedule.kept_T[[50]])
    for step in range(50, -1, -1):
        kept = schedule.kept_T[step]
        noise = (values - kept.sqrt() * clean) / (1 - kept).sqrt()
        fresh = torch.randn(40, 3, generator=generator)
        values = denoised_numbers(values, noise, fresh, step, schedule)
    torch.testing.assert_close(values, clean, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_table_is_learned() -> None:
    # n = 600 of 2,000 rows per class: standard errors of a mean are below 1 unit, of a share and
    # of a correlation below .03; five times that is beyond chance, and far below the effects.
    train = patients()
    model = TabularDiffusion(COLUMNS, num_updates=1500, num_steps=50, hidden=(64, 64)).fit(train)
    made = model.sample(class_counts={0: 1000, 1: 1000}, seed=1)
    for died in (0, 1):
        own, other = (table[table["died"] == died] for table in (made, train))
        assert own["pressure"].mean() == pytest.approx(other["pressure"].mean(), abs=5)
        assert (own["sex"] == "m").mean() == pytest.approx((other["sex"] == "m").mean(), abs=0.15)
        assert own["rate"].isna().mean() == pytest.approx(other["rate"].isna().mean(), abs=0.15)
        assert own["pressure"].corr(own["rate"]) > 0.4


def test_rows_keep_bounds_decimals_and_numbers_and_the_seed_gives_the_same_again() -> None:
    model = quick().fit(patients(120))
    made = model.sample(class_counts={0: 31, 1: 17}, seed=5)
    assert made["died"].value_counts().to_dict() == {0: 31, 1: 17}
    assert made["pressure"].between(0, 400).all()
    assert (made["pressure"] % 1 == 0).all()
    pd.testing.assert_frame_equal(made, model.sample(class_counts={0: 31, 1: 17}, seed=5))
    again = quick().fit(patients(120))
    pd.testing.assert_frame_equal(made, again.sample(class_counts={0: 31, 1: 17}, seed=5))


def test_a_saved_model_makes_the_same_rows(tmp_path: Path) -> None:
    model = quick().fit(patients(120))
    model.save(tmp_path / "model.synth")
    read = TabularDiffusion.load(tmp_path / "model.synth")
    pd.testing.assert_frame_equal(read.sample(30, seed=2), model.sample(30, seed=2))


def test_a_table_of_numbers_alone_and_one_of_categories_alone_are_learned() -> None:
    train = patients(120)
    for name in ("pressure", "sex"):
        columns = Columns((COLUMNS[name],), "died", (0, 1))
        model = quick(columns).fit(train)
        assert len(model.sample(25, seed=1)) == 25


@pytest.mark.parametrize("wrong", [{"num_steps": 1}, {"learning_rate": 0.0}, {"hidden": ()}])
def test_parameters_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        TabularDiffusion(COLUMNS, **wrong).fit(patients(120))  # type: ignore[arg-type]
