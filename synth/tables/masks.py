"""Which cells are missing together: a pattern that few records share points at them.

In an intensive care unit most patterns of measured and missing laboratory values are rare: of the
1,294 septic patients of a public data set, 440 have one that no other has. A synthetic row that
shows its parent's pattern then tells whose copy it is, whatever noise its values carry.

Shapes: N rows, M columns.
"""

import numpy as np

from fedward.common.errors import ConfigError
from fedward.synth.tables.rows import Bools


def common_masks(absent_NM: Bools, min_size: int) -> Bools:
    """Return (N, M) each row's own pattern, or the nearest that `min_size` rows or more share.

    Nearest: in the fewest cells another one; of those the one that most rows share.

    Args:
        absent_NM: (N, M) whether a cell is missing, rows of one class.
        min_size: 1 leaves all patterns as they are.

    Raises:
        ConfigError: no pattern is shared by so many rows.
    """
    if min_size <= 1 or not absent_NM.any():
        return absent_NM
    pattern_UM, of_row_N, times_U = np.unique(
        absent_NM, axis=0, return_inverse=True, return_counts=True
    )
    frequent = np.flatnonzero(times_U >= min_size)
    if len(frequent) == 0:
        raise ConfigError(
            f"min_mask_size: in a class of {len(absent_NM)} rows no pattern of missing cells is "
            f"shared by {min_size}; leave out columns that are rarely measured, fill with "
            "missing='median', or set min_mask_size=1 (rows then show their parents' patterns)"
        )
    frequent = frequent[np.argsort(-times_U[frequent], kind="stable")]
    here_UM, there_CM = pattern_UM.astype(np.float64), pattern_UM[frequent].astype(np.float64)
    differ_UC = here_UM @ (1 - there_CM).T + (1 - here_UM) @ there_CM.T
    nearest_U = frequent[np.argmin(differ_UC, axis=1)]
    shown_NM: Bools = pattern_UM[nearest_U[of_row_N.ravel()]]
    return shown_NM
