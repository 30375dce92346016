"""The one gate for statistics of patients that steer a run: means, best models, plateaus.

Without differential privacy they pass; with it they must be noised and accounted, or refused.
Whatever depends on patients' data beside the gradients asks here first.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


class PrivateStatistic(Protocol):
    """Decides what may be released, and how."""

    def release(self, name: str, values: Values) -> Values:
        """Return the values as they may be used.

        Args:
            name: what it is, for the ledger: `normalisation`, `best-model` ...
            values: the exact statistic.

        Raises:
            FedwardError: it may not be released.
        """


class Unprotected:
    """Lets everything pass and remembers what: for runs without differential privacy."""

    def __init__(self) -> None:
        self.released: set[str] = set()

    def release(self, name: str, values: Values) -> Values:
        """Return the values as they are."""
        self.released.add(name)
        return values
