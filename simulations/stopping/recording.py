"""What is written down of one run to its full budget: all that any stop rule may look at.

A recording holds no weights and no patients, so that rules are replayed on it in no time, and
anew when a rule is changed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from fedward.common.errors import StorageError
from fedward.server.checkpoint import write_atomically

Layers = Mapping[str, Mapping[str, float]]
VALIDATION_LOSS = "validation_loss"


@dataclass(frozen=True)
class RecordedRound:
    """One round; what is not defined in it is None, or absent."""

    number: int
    num_trained: int
    """Sites whose updates were aggregated."""
    figures: Mapping[str, float]
    """Of the evaluation, mean over sites: losses, and the figures of the task."""
    cme: Mapping[str, Layers] = field(default_factory=dict)
    """By site and layer, rounded as they leave a site."""
    norm_ratio: float | None = None
    """Norm of the federation's update over that of the model."""
    cosine_of_sites: float | None = None
    """Between a site's update and the federation's, mean over sites."""
    cosine_to_last: float | None = None
    """Between the federation's updates of this round and of the one before."""
    pflug: float | None = None
    """Sum of the inner products of successive updates up to now."""
    left_out: Mapping[str, float] = field(default_factory=dict)
    """By site: rise of the validation loss if its update is left out of this round."""


@dataclass(frozen=True)
class Recording:
    """One seed, trained to its full budget."""

    seed: int
    primary_metric: str
    other_metrics: Sequence[str]
    """Reported as well."""
    optimizer: str
    """Row of the table of thresholds."""
    form: str
    """Of the memory elements."""
    epochs_per_round: int
    """Local ones; a round of a fixed number of steps counts as one."""
    config_hash: str
    rounds: tuple[RecordedRound, ...]

    @property
    def num_rounds(self) -> int:
        """Rounds that were recorded."""
        return len(self.rounds)

    def client_epochs(self, num_rounds: int) -> int:
        """Return the local epochs of all sites in the first so many rounds."""
        trained = sum(this.num_trained for this in self.rounds[:num_rounds])
        return trained * self.epochs_per_round

    def figure(self, name: str, num_rounds: int) -> float | None:
        """Return a figure of the model after so many rounds."""
        return self.rounds[num_rounds - 1].figures.get(name)

    def best_round(self) -> int:
        """Return the round with the lowest validation loss; the first of several."""
        losses = [this.figures.get(VALIDATION_LOSS) for this in self.rounds]
        known = [(loss, number) for number, loss in enumerate(losses, start=1) if loss is not None]
        return min(known)[1]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `from_json` reads them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the recording that `to_json` wrote."""
        rounds = tuple(RecordedRound(**this) for this in values["rounds"])
        return cls(**{**values, "rounds": rounds})

    def write(self, path: Path) -> None:
        """Write the recording to a file.

        Raises:
            StorageError: the disk is full or not writable.
        """
        write_atomically(path, json.dumps(self.to_json(), allow_nan=False).encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the recording in a file.

        Raises:
            StorageError: it is not one.
        """
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StorageError(
                f"{path}: not a recording of this version; delete it, and its seed is trained anew"
            ) from error
