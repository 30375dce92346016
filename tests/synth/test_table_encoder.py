"""Tables to standardised rows and back, within bounds and decimals."""

import io

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest, skew
from sklearn.preprocessing import QuantileTransformer

from fedward.common.errors import ConfigError, SiteDataError
from fedward.synth.tables.checks import columns_for
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.encoder import Form, categories_of, learn_encoder, public_encoder
from fedward.synth.tables.rows import Rows
from fedward.synth.tables.scale import learn_scale, normal_scores, reflect
from tests.synth.clinic import CLINIC, patients

TRAIN = patients()
FEATURES = TRAIN[list(CLINIC.names)]


@pytest.mark.parametrize("transform", ["auto", "none", "log", "quantile"])
def test_encoding_is_undone_by_decoding(transform: str) -> None:
    form = Form(transform=transform)  # type: ignore[arg-type]
    encoder = learn_encoder(CLINIC, form, TRAIN)
    pd.testing.assert_frame_equal(encoder.decode(encoder.encode(TRAIN)), FEATURES)


def test_encoded_numbers_are_standardised_and_missing_cells_are_zero() -> None:
    rows = learn_encoder(CLINIC, Form(), TRAIN).encode(TRAIN)
    for place in range(5):
        known = rows.values_NF[~rows.absent_NM[:, place], place]
        assert known.mean() == pytest.approx(0, abs=1e-9)
        assert known.std() == pytest.approx(1)
        assert (rows.values_NF[rows.absent_NM[:, place], place] == 0).all()
    assert (rows.absent_NM[:, 3] == TRAIN["crp"].isna()).all()


def test_skewed_columns_with_a_lower_bound_are_taken_by_their_logarithm() -> None:
    encoder = learn_encoder(CLINIC, Form(), TRAIN)
    assert [scale.kind for scale in encoder.scales] == ["none", "none", "none", "log", "none"]
    assert skew(TRAIN["crp"].dropna()) > 2
    free = CLINIC.with_column(Column("crp", "continuous"))
    assert learn_encoder(free, Form(), TRAIN).scales[3].kind == "none"


def test_filled_cells_are_the_median_and_the_commonest_category() -> None:
    gone = TRAIN.assign(stage=TRAIN["stage"].where(TRAIN.index % 2 == 0))
    encoder = learn_encoder(CLINIC, Form(missing="median"), gone)
    rows = encoder.encode(gone)
    assert not rows.absent_NM.any()
    decoded = encoder.decode(rows)
    assert (decoded["crp"][gone["crp"].isna()] == round(float(gone["crp"].median()), 1)).all()
    assert set(decoded["stage"][gone["stage"].isna()]) == {gone["stage"].mode()[0]}


def test_reflection_keeps_values_in_and_piles_none_up_at_the_bound() -> None:
    z = np.random.default_rng(0).normal(size=20_000)
    for low, high in ((-0.5, None), (None, 0.5), (-0.5, 0.5), (0.2, 0.3)):
        folded = reflect(z, low, high)
        assert low is None or folded.min() >= low
        assert high is None or folded.max() <= high
        ends = [one for one in (low, high) if one is not None]
        assert not np.isin(folded, ends).any()
    # |z| is half-normal.
    assert kstest(reflect(z, 0.0, None), "halfnorm").pvalue > 1e-4
    assert (reflect(z, 0.3, 0.3) == 0.3).all()
    inside = np.array([-0.4, 0.0, 0.49])
    assert reflect(inside, -0.5, 0.5) == pytest.approx(inside)


@pytest.mark.parametrize(
    ("low", "high", "decimals", "ends"),
    [
        (0.5, 3.5, 0, (1.0, 3.0)),
        (0.3, 0.7, 1, (0.3, 0.7)),
        (-0.25, 0.29, 1, (-0.2, 0.2)),
        (0.2, 0.7, 0, (0.2, 0.7)),
        (None, 2.5, 0, (None, 2.0)),
    ],
)
def test_bounds_that_decimals_cannot_write_move_inwards(
    low: float | None, high: float | None, decimals: int, ends: tuple[float | None, float | None]
) -> None:
    column = Column("x", "continuous", low, high, decimals)
    scale = learn_scale(column, np.array([0.3, 0.6]), transform="none", filled=False)
    found = scale.written_bounds(low, high)
    assert found == pytest.approx(ends)


def test_decoded_numbers_keep_bounds_and_decimals_at_once() -> None:
    columns = Columns((Column("x", "continuous", 0.5, 9.5, decimals=0),))
    encoder = learn_encoder(columns, Form(), pd.DataFrame({"x": [1.0, 5.0, 9.0]}))
    z = np.linspace(-9, 9, 2001)[:, None]
    nothing = np.zeros((2001, 0), dtype=np.int64)
    x = encoder.decode(Rows(z, nothing, np.zeros((2001, 1), dtype=bool)))["x"]
    assert set(x) == set(range(1, 10))
    assert not np.signbit(x).any()


def test_tiny_numbers_are_not_rounded_away() -> None:
    x = np.array([1.5e-12, 2.5e-12, 7.25e-12])
    scale = learn_scale(Column("x", "continuous"), x, transform="none", filled=False)
    assert scale.decimals is None


def test_a_draw_far_out_stays_finite() -> None:
    columns = Columns((Column("x", "continuous", 0, None),))
    encoder = learn_encoder(columns, Form(transform="log"), pd.DataFrame({"x": [1.0, 50.0, 900.0]}))
    rows = Rows(np.full((1, 1), 1e6), np.zeros((1, 0), np.int64), np.zeros((1, 1), bool))
    assert np.isfinite(encoder.decode(rows)["x"]).all()


def test_normal_scores_are_those_of_scikit_learn_between_its_clipped_ends() -> None:
    x = np.sort(np.random.default_rng(1).normal(size=101))
    theirs = QuantileTransformer(n_quantiles=101, output_distribution="normal").fit_transform(
        x[:, None]
    )[:, 0]
    ours = normal_scores(x, x)
    # Theirs spread ranks over 0 to 1, ours over half a rank from 0 to half a rank below 1.
    assert np.abs(ours - theirs)[15:-15].max() < 0.02
    ties = normal_scores(np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.0, 3.0]))
    assert ties == pytest.approx([-1.1503, 0, 0, 1.1503], abs=1e-4)  # quantiles .125, .5, .875


def test_types_of_columns_do_not_depend_on_which_rows_there_are() -> None:
    for categories in (("a", "b"), (0, 1), (1, "other"), (False, True)):
        column = Column("x", "categorical", categories=categories)
        kinds = {
            str(
                pd.Series(
                    categories_of(column, np.array(code, dtype=np.int64), np.array(gone))
                ).dtype
            )
            for code, gone in (([0, 1], [False, False]), ([0], [True]), ([], np.zeros(0, bool)))
        }
        assert len(kinds) == 1


def test_a_table_is_written_with_whole_numbers_as_such_and_read_back() -> None:
    columns = Columns(
        (*CLINIC.columns, Column("smoker", "categorical", categories=(False, True))),
        "septic",
        (0, 1),
    )
    _, table = columns_for(columns, TRAIN.assign(smoker=TRAIN["age"] > 50))
    table.loc[3, ["age", "female", "smoker"]] = np.nan
    written = learn_encoder(columns, Form(), table).written(table)
    lines = written.to_csv(index=False).splitlines()
    assert lines[1].split(",")[:3] == [str(int(one)) for one in table.iloc[0, :3]]
    assert lines[1].split(",")[7] in {"True", "False"}
    assert lines[4].split(",")[0] == ""
    for again in (written, pd.read_csv(io.StringIO("\n".join(lines)))):
        pd.testing.assert_frame_equal(columns_for(columns, again)[1], table)


def test_an_unknown_category_is_an_error_not_a_code() -> None:
    encoder = learn_encoder(CLINIC, Form(), TRAIN)
    with pytest.raises(SiteDataError, match="'stage': 1 of 400 cells"):
        encoder.encode(TRAIN.assign(stage=TRAIN["stage"].where(TRAIN.index != 4, "terminal")))


def test_a_public_encoder_knows_no_patient() -> None:
    encoder = public_encoder(CLINIC, Form(transform="none"))
    pd.testing.assert_frame_equal(encoder.decode(encoder.encode(TRAIN)), FEATURES)
    age = encoder.scales[0]
    assert (age.mean, age.deviation, age.decimals) == (60, 60, 0)
    with pytest.raises(ConfigError, match="transform 'none'"):
        public_encoder(CLINIC, Form())
    with pytest.raises(ConfigError, match="needs a lowest and a highest"):
        public_encoder(CLINIC.with_column(Column("age", "continuous", 0)), Form(transform="none"))
