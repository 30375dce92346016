"""A table as numbers, for learners and attacks: imputed, standardised, one column per category."""

from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fedward.synth.tables.columns import Columns


def numeric_form(columns: Columns) -> ColumnTransformer:
    """Return an unfitted transformer from a table to (N, D) float64.

    Numbers are imputed by the median and standardised, both of the rows that it is fitted on;
    of a column that is missing everywhere zeros remain, so that D follows from `columns` alone.
    A category is a column of its own; a missing one is zero in all of them.

    Args:
        columns: of the table; its label is left out.
    """
    numbers = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler()
    )
    categories = OneHotEncoder(
        categories=[list(column.categories) for column in columns.categorical],
        handle_unknown="ignore",
        sparse_output=False,
    )
    return ColumnTransformer(
        [
            ("numbers", numbers, [column.name for column in columns.continuous]),
            ("categories", categories, [column.name for column in columns.categorical]),
        ]
    )
