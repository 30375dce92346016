"""The one gate for statistics of patients that steer a run: means, best models, plateaus.

Without differential privacy they pass; with it they must be noised and accounted, or refused.
Whatever depends on patients' data beside the gradients asks here first.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedward.common.errors import ConfigError

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


NORMALISATION = "normalisation"


class FromSchema(Unprotected):
    """Answers for means and deviations with those of nobody, so that the schema's ranges scale.

    Everything else passes.
    """

    def release(self, name: str, values: Values) -> Values:
        """Return zeros for the sums of no patient; other values as they are."""
        if name == NORMALISATION:
            return np.zeros_like(values)
        return super().release(name, values)


class Accounted(FromSchema):
    """For runs with differential privacy: what is neither public nor accounted is refused."""

    def release(self, name: str, values: Values) -> Values:
        """Return zeros for the sums of no patient.

        Raises:
            ConfigError: it is another statistic of patients.
        """
        if name != NORMALISATION:
            raise ConfigError(
                f"privacy.mode: dp-sgd: {name} is a statistic of patients that is not accounted "
                "(for loss.weights: use fixed)"
            )
        return super().release(name, values)
