"""What a run keeps at a site from one round to the next, in the site's store."""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from fedward.client.site import Site
from fedward.common.records import Instruction

Arrays = Mapping[str, npt.NDArray[Any]]


def remember(site: Site, instruction: Instruction, name: str, arrays: Arrays) -> None:
    """Keep arrays as the state after the instruction's round.

    Raises:
        StorageError: the store cannot be written.
    """
    bound = instruction.binding
    site.store.put(
        bound.run_key, site.site_id, name, round_number=bound.round_number, arrays=arrays
    )


def recall(site: Site, instruction: Instruction, name: str) -> dict[str, npt.NDArray[Any]] | None:
    """Return what the site kept: training starts from before the round, evaluation after."""
    bound = instruction.binding
    before = bound.round_number + int(instruction.is_evaluation)
    return site.store.get(bound.run_key, site.site_id, name, before_round=before)
