"""Classes mixed into one table, in an order that does not depend on the size of its parts."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from fedward.synth.tables.rows import Ints
from fedward.synth.tables.sampling import ClassStream


def interleaved(
    streams: Mapping[int, ClassStream],
    counts: Mapping[int, int],
    *,
    seed: int,
    chunk_rows: int,
) -> Iterator[tuple[pd.DataFrame, Ints]]:
    """Yield tables of at most `chunk_rows` rows with their (N,) class codes, classes mixed.

    The order follows from seed and counts alone, so that chunks of any size join to the same
    table. There is at least one table, which may be empty.
    """
    codes = sorted(counts)
    order = np.repeat(codes, [counts[code] for code in codes]).astype(np.int64)
    np.random.default_rng([seed, len(order)]).shuffle(order)
    for start in range(0, max(len(order), 1), chunk_rows):
        code_N = order[start : start + chunk_rows]
        # Row i of `stacked` goes where the i-th place of a stable sort by class points.
        stacked = pd.concat(
            [streams[code].take(int((code_N == code).sum())) for code in codes], ignore_index=True
        )
        row_N = np.empty(len(code_N), dtype=np.int64)
        row_N[np.argsort(code_N, kind="stable")] = np.arange(len(code_N))
        yield stacked.iloc[row_N].reset_index(drop=True), code_N
