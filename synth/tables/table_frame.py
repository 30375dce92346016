"""A site's `Table` as the data frame that synthesisers learn from."""

import numpy as np
import pandas as pd

from fedward.common.tables.table import Table
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.encoder import categories_of


def frame_of(table: Table, columns: Columns) -> pd.DataFrame:
    """Return the rows of `table` in the form that `Columns` describes.

    Args:
        table: (N) rows, of the schema that `columns` come from.
        columns: `Columns.of_schema` of it; a selection of features is fine.
    """
    found: dict[str, object] = {}
    for column in columns:
        cells = table.columns[column.name]
        if column.is_continuous:
            found[column.name] = cells
        else:
            absent = np.isnan(cells)
            code = np.where(absent, 0, cells).astype(np.int64)
            found[column.name] = categories_of(column, code, absent)
    if columns.label is not None:
        found[columns.label] = np.array(columns.classes)[table.label]
    return pd.DataFrame(found)
