"""How wide the kernels are, in standard deviations of the columns.

Scott and Silverman follow scikit-learn: one number for n rows of d columns of numbers. The
cross-validated one maximises the density that the other rows give to each row, leave-one-out.

What is ours: a row that lacks a value. Its own missing columns count for nothing; where only the
other row lacks the value, the squared difference is the expected one to a standardised value that
is not known, z**2 + 1. Counting that as 0 would make incomplete rows look alike, and the kernels
collapse.

Shapes: N rows, F columns of numbers.
"""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from fedward.common.errors import ConfigError
from fedward.synth.tables.rows import Bools, Floats

Rule = Literal["scott", "silverman", "cv"]
CV_ROWS = 500
"""Rows that are compared with each other; more add time, and little to the answer."""
CV_GRID: Floats = np.geomspace(0.05, 2.0, 40)


def check_bandwidth(bandwidth: Rule | float) -> None:
    """Raise ConfigError unless `bandwidth` is a rule or a number above 0."""
    is_rule = isinstance(bandwidth, str) and bandwidth in get_args(Rule)
    is_width = isinstance(bandwidth, int | float) and bandwidth > 0
    if not (is_rule or is_width):
        raise ConfigError(
            f"bandwidth: given {bandwidth!r}, expected {', '.join(get_args(Rule))}, or a number "
            "above 0 in standard deviations"
        )


def choose_bandwidth(
    bandwidth: Rule | float, values_NF: Floats, absent_NF: Bools, *, rng: np.random.Generator
) -> float:
    """Return the width of the kernels for the rows of a class.

    Args:
        bandwidth: a rule, or the width itself.
        values_NF: (N, F) standardised; 0 where missing.
        absent_NF: (N, F) whether a value is missing.
        rng: chooses the rows that `cv` compares.
    """
    size, num_columns = values_NF.shape
    if bandwidth == "scott":
        return scott(size, num_columns)
    if bandwidth == "silverman":
        return silverman(size, num_columns)
    if bandwidth == "cv":
        return cross_validated(values_NF, absent_NF, rng)
    return float(bandwidth)


def scott(num_rows: int, num_columns: int) -> float:
    """Return n**(-1/(d+4)). Source: Scott 1992, Multivariate Density Estimation, eq. 6.42."""
    return float(num_rows ** (-1 / (num_columns + 4)))


def silverman(num_rows: int, num_columns: int) -> float:
    """Return (n (d+2)/4)**(-1/(d+4)). Source: Silverman 1986, Density Estimation, eq. 4.14."""
    return float((num_rows * (num_columns + 2) / 4) ** (-1 / (num_columns + 4)))


def cross_validated(values_NF: Floats, absent_NF: Bools, rng: np.random.Generator) -> float:
    """Return the width of highest leave-one-out likelihood on a grid, in steps of 10 %.

    At most `CV_ROWS` rows are compared; the answer is carried over to all rows with the rate of
    Scott's rule. Equal rows pull it to the lower end of the grid.

    Args:
        values_NF: (N, F) standardised; 0 where missing.
        absent_NF: (N, F) whether a value is missing.
        rng: chooses the rows that are compared.
    """
    size, num_columns = values_NF.shape
    num_compared = min(size, CV_ROWS)
    index = rng.choice(size, num_compared, replace=False)
    squared_NN, known_N = _expected_squares(values_NF[index], absent_NF[index])
    np.fill_diagonal(squared_NN, np.inf)
    nearest_N1 = squared_NN.min(axis=1, keepdims=True)
    beyond_NN = squared_NN - nearest_N1  # so that the largest kernel is 1, and no sum 0
    likelihood = [
        float(
            (
                np.log(np.exp(beyond_NN / (-2 * h**2)).sum(axis=1))
                - nearest_N1[:, 0] / (2 * h**2)
                - known_N * np.log(h)
            ).sum()
        )
        for h in CV_GRID
    ]
    rate = scott(size, num_columns) / scott(num_compared, num_columns)
    return float(CV_GRID[int(np.argmax(likelihood))]) * rate


def _expected_squares(
    values_NF: Floats, absent_NF: Bools
) -> tuple[Floats, npt.NDArray[np.float64]]:
    """Return (N, N) squared distances over the columns that the first row has, and their count."""
    known_NF = (~absent_NF).astype(np.float64)
    x_NF = values_NF * known_NF
    squared_NN = (x_NF**2).sum(axis=1)[:, None] - 2 * x_NF @ x_NF.T
    squared_NN += known_NF @ (x_NF**2 + absent_NF).T
    return np.maximum(squared_NN, 0.0), known_NF.sum(axis=1)
