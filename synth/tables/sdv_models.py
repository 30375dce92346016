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
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from fedward.common.errors import ConfigError, ShortfallError
from fedward.common.randomness import seeded_global_torch
from fedward.common.tables.schema import TableSchema
from fedward.synth.tables.base import Synthesiser
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.encoder import Form, categories_of
from fedward.synth.tables.rows import Bools, Candidates, Ints, Rows
from fedward.synth.tables.sampling import Shortfall

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
    sdv_name: ClassVar[str]
    advice: ClassVar[str] = "training rows of which more are in the class, more epochs, or 'warn'"

    @property
    def form(self) -> Form:
        """How tables are encoded: SDV has transforms of its own."""
        return Form(transform="none")

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Return what SDV's constructor is given."""

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.on_shortfall == "fill":
            raise ConfigError(
                "on_shortfall: 'fill' would add rows that came out with another class; use 'raise' "
                "or 'warn'"
            )
        _part_of_sdv("single_table", self.sdv_name)

    def _fit_rows(self, rows: Rows, code_N: Ints, rng: np.random.Generator) -> None:
        frame = self.encoder_.decode(rows)
        num_values = rows.values_NF.shape[1]
        for place, column in enumerate(self.columns_.categorical):
            # As text, whatever they are, so that SDV never takes them for numbers.
            code = pd.Series(rows.codes_NC[:, place]).astype(str)
            frame[column.name] = code.mask(rows.absent_NM[:, num_values + place])
        if self.columns_.label is not None:
            frame[_LABEL] = pd.Series(code_N).astype(str)
        with _own_randomness(int(rng.integers(2**31))):
            new_model = _part_of_sdv("single_table", self.sdv_name)
            self.model_ = new_model(_metadata(self.columns_), **self._settings())
            self.model_.fit({TABLE: frame})

    def _draw(self, code: int, size: int, rng: np.random.Generator) -> Candidates:
        frame = self._sampled(size, rng)
        is_class_N: Bools = np.ones(size, dtype=bool)
        if self.columns_.label is not None:
            is_class_N = (frame.pop(_LABEL) == str(code)).to_numpy(dtype=bool)
        for column in self.columns_.categorical:
            absent_N = frame[column.name].isna().to_numpy()
            code_N: Ints = frame[column.name].fillna("0").to_numpy().astype(np.int64)
            frame[column.name] = categories_of(column, code_N, absent_N)
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

    sdv_name: ClassVar[str] = "GaussianCopulaSynthesizer"

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

    def _settings(self) -> dict[str, Any]:
        return {"default_distribution": self.default_distribution}


class _Trained(_SDV):
    """SDV's networks, on the processor so that a seed gives the same rows."""

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
        if self.epochs < 1:
            raise ConfigError(f"epochs: given {self.epochs}, expected 1 or more")
        if self.batch_size < 10 or self.batch_size % 10:
            raise ConfigError(
                f"batch_size: given {self.batch_size}, expected a multiple of 10, since CTGAN "
                "judges ten rows together"
            )
        super()._check_parameters()

    def _settings(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "batch_size": self.batch_size, "enable_gpu": False}


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


def _part_of_sdv(module: str, name: str) -> Any:
    """Return a class of SDV.

    Raises:
        ConfigError: SDV is not installed.
    """
    try:
        return getattr(import_module(f"sdv.{module}"), name)
    except ImportError:
        raise ConfigError(
            f"{name} is part of SDV, which is not installed. Its licence, BUSL-1.1, is no "
            "open-source licence; read it first: https://github.com/sdv-dev/SDV/blob/main/LICENSE. "
            "Then: pip install 'fedward[synth]'"
        ) from None


def _metadata(columns: Columns) -> Any:
    """Return what SDV is told of the table."""
    metadata = _part_of_sdv("metadata", "Metadata")()
    metadata.add_table(TABLE)
    for column in columns:
        kind = "numerical" if column.is_continuous else "categorical"
        metadata.add_column(table_name=TABLE, column_name=column.name, sdtype=kind)
    if columns.label is not None:
        metadata.add_column(table_name=TABLE, column_name=_LABEL, sdtype="categorical")
    return metadata


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed numpy's and torch's global generators inside the block, and restore them: SDV uses them.

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
