"""SDV's synthesisers, for comparison: Gaussian copula, CTGAN and TVAE, as SDV ships them.

SDV and its parts (CTGAN, Copulas, RDT) are under the Business Source License 1.1, which is no
open-source licence: among other things it forbids to offer them to others as a service. So they are
no dependency; whoever wants the comparison reads the licence and installs them:
`pip install 'fedward[synth]'`. Tried with SDV 2.0.0, which needs pandas below 3.

One model learns all classes, with the label as one of its columns, as SDV is mostly used. Rows of a
class are those that come out with it; the others count as refused by the filter. Constraints,
conditions, bounds and exact numbers are ours, as with any other method.

Legend: N rows.
"""

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from fedward.common.errors import ConfigError
from fedward.common.randomness import seeded_global_torch
from fedward.common.tables.schema import TableSchema
from fedward.synth.tables.base import Synthesiser
from fedward.synth.tables.checks import class_codes
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.encoder import Form
from fedward.synth.tables.reading import classes_of
from fedward.synth.tables.rows import Bools, Candidates, Ints, Rows
from fedward.synth.tables.sampling import Shortfall, ShortfallError

TABLE = "rows"
MAX_TRIES = 10
"""Times that SDV is asked again where it returns fewer rows than it was asked for."""
_LABEL = "label "
"""Of a column in SDV's table; the space keeps it apart from a column of the patients'."""


@dataclass(frozen=True, repr=False)
class _Labelled(Candidates):
    is_class_N: Bools | None = None
    """(N,) which rows came out with the class that was asked for."""


class _SDV(Synthesiser):
    """What the three have in common.

    Privacy: SDV promises none, and its objects hold what was learned in a form that nothing here
    has looked into; they count as containing patients, and cannot be saved to a file.
    """

    holds_patients: ClassVar[bool] = True

    @property
    def form(self) -> Form:
        """How tables are encoded: SDV has transforms of its own."""
        return Form(transform="none")

    @abstractmethod
    def _new_model(self, metadata: Any) -> Any:
        """Return SDV's synthesiser, which has learned nothing yet."""

    def _fit_rows(self, rows: Rows, code_N: Ints, rng: np.random.Generator) -> None:
        frame = self.encoder_.decode(rows)
        if self.columns_.label is not None:
            frame[_LABEL] = classes_of(self.columns_, code_N).astype(str)
        for column in self.columns_.categorical:
            # As text, whatever they are, so that SDV never takes codes for numbers.
            frame[column.name] = _texts(frame[column.name])
        with _own_randomness(int(rng.integers(2**31))):
            self.model_ = self._new_model(_metadata(self.columns_))
            self.model_.fit({TABLE: frame})

    def _draw(self, code: int, size: int, rng: np.random.Generator) -> Candidates:
        frame = self._sampled(size, rng)
        is_class_N: Bools = np.ones(size, dtype=bool)
        if self.columns_.label is not None:
            labels = frame.pop(_LABEL).map({str(one): one for one in self.columns_.classes})
            table = frame.assign(**{self.columns_.label: labels})
            is_class_N = class_codes(self.columns_, table) == code
        for column in self.columns_.categorical:
            known = {str(one): one for one in column.categories}
            frame[column.name] = frame[column.name].map(known)
        return _Labelled(self.encoder_.encode(frame), is_class_N=is_class_N)

    def _keep(self, code: int, drawn: Candidates) -> Bools:
        assert isinstance(drawn, _Labelled)
        assert drawn.is_class_N is not None
        return drawn.is_class_N

    def _sampled(self, size: int, rng: np.random.Generator) -> pd.DataFrame:
        """Return exactly `size` rows of SDV's.

        Raises:
            ShortfallError: it goes on returning fewer.
        """
        parts: list[pd.DataFrame] = []
        for _ in range(MAX_TRIES):
            seed = int(rng.integers(2**31))
            with _own_randomness(seed):
                self.model_.reset_sampling()
                # SDV has no public way to a second, different sample that can be repeated.
                self.model_._set_random_state(seed)
                parts.append(self.model_.sample(size)[TABLE])
            if sum(map(len, parts)) >= size:
                return pd.concat(parts, ignore_index=True)[:size]
        raise ShortfallError(
            f"SDV returned {sum(map(len, parts))} of {size} rows when asked {MAX_TRIES} times; fit "
            "again, or with another method"
        )


class SDVGaussianCopula(_SDV):
    """SDV's Gaussian copula with parametric margins (`GaussianCopulaSynthesizer`).

    Args:
        columns: see `Synthesiser`, as for all that is not named here.
        default_distribution: of numbers: `beta` (SDV's own), `norm`, `truncnorm`, `uniform`,
            `gamma` or `gaussian_kde`.
    """

    def __init__(  # noqa: PLR0913 - parameters, as scikit-learn wants them
        self,
        columns: Columns | TableSchema | None = None,
        *,
        default_distribution: str = "beta",
        min_class_size: int = 20,
        max_candidates: int | None = None,
        on_shortfall: Shortfall = "raise",
        seed: int = 0,
    ) -> None:
        self.columns = columns
        self.default_distribution = default_distribution
        self.min_class_size = min_class_size
        self.max_candidates = max_candidates
        self.on_shortfall = on_shortfall
        self.seed = seed

    def _new_model(self, metadata: Any) -> Any:
        return _sdv("GaussianCopulaSynthesizer")(
            metadata, default_distribution=self.default_distribution
        )


class _Trained(_SDV):
    """SDV's networks, on the processor so that a seed gives the same rows."""

    sdv_name: ClassVar[str]

    def __init__(  # noqa: PLR0913 - parameters, as scikit-learn wants them
        self,
        columns: Columns | TableSchema | None = None,
        *,
        epochs: int = 300,
        batch_size: int = 500,
        min_class_size: int = 20,
        max_candidates: int | None = None,
        on_shortfall: Shortfall = "raise",
        seed: int = 0,
    ) -> None:
        self.columns = columns
        self.epochs = epochs
        self.batch_size = batch_size
        self.min_class_size = min_class_size
        self.max_candidates = max_candidates
        self.on_shortfall = on_shortfall
        self.seed = seed

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.epochs < 1:
            raise ConfigError(f"epochs: given {self.epochs}, expected 1 or more")
        if self.batch_size < 10 or self.batch_size % 10:
            raise ConfigError(
                f"batch_size: given {self.batch_size}, expected a multiple of 10, which CTGAN "
                "judges together"
            )

    def _new_model(self, metadata: Any) -> Any:
        return _sdv(self.sdv_name)(
            metadata, epochs=self.epochs, batch_size=self.batch_size, enable_gpu=False
        )


class SDVCTGAN(_Trained):
    """SDV's adversarial network (`CTGANSynthesizer`; Xu et al. 2019, arXiv:1907.00503).

    Args:
        columns: see `Synthesiser`, as for all that is not named here.
        epochs: of the training.
        batch_size: rows per step, a multiple of 10.
    """

    sdv_name: ClassVar[str] = "CTGANSynthesizer"


class SDVTVAE(_Trained):
    """SDV's variational autoencoder (`TVAESynthesizer`; Xu et al. 2019, arXiv:1907.00503).

    Args:
        columns: see `Synthesiser`, as for all that is not named here.
        epochs: of the training.
        batch_size: rows per step, a multiple of 10.
    """

    sdv_name: ClassVar[str] = "TVAESynthesizer"


def _sdv(name: str) -> Any:
    """Return a class of `sdv.single_table`.

    Raises:
        ConfigError: SDV is not installed.
    """
    try:
        from sdv import single_table
    except ImportError:
        raise ConfigError(
            f"{name} is part of SDV, which is not installed. Its licence, BUSL-1.1, is no "
            "open-source licence; read it first: https://github.com/sdv-dev/SDV/blob/main/LICENSE. "
            "Then: pip install 'fedward[synth]'"
        ) from None
    return getattr(single_table, name)


def _metadata(columns: Columns) -> Any:
    """Return what SDV is told of the table."""
    from sdv.metadata import Metadata

    metadata = Metadata()
    metadata.add_table(TABLE)
    for column in columns:
        kind = "numerical" if column.is_continuous else "categorical"
        metadata.add_column(table_name=TABLE, column_name=column.name, sdtype=kind)
    if columns.label is not None:
        metadata.add_column(table_name=TABLE, column_name=_LABEL, sdtype="categorical")
    return metadata


def _texts(cells: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return categories as text; missing ones stay missing."""
    return cells.astype(object).map(str, na_action="ignore")


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed numpy's and torch's global generators inside the block, and restore them: SDV draws there.

    Its advice, such as to save the metadata, is not for the users of this package.
    """
    before = np.random.get_state()  # noqa: NPY002 - SDV takes no generator
    with warnings.catch_warnings(), seeded_global_torch(seed):
        warnings.simplefilter("ignore")
        np.random.seed(seed)  # noqa: NPY002, TID251 - SDV takes no generator
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002 - SDV takes no generator
