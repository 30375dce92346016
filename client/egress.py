"""The one way out of a site: an update becomes the records of a reply, or is refused."""

from collections.abc import Callable

import numpy as np
from flwr.app import RecordDict

from fedward.common.errors import SiteDataError
from fedward.common.records import Instruction, Update, Vectors, reply_records

Mask = Callable[[Vectors], Vectors]


def egress(
    update: Update, instruction: Instruction, *, loss_name: str, mask: Mask | None = None
) -> RecordDict:
    """Return the records that leave the site.

    Args:
        update: what was trained or measured.
        instruction: what was asked; the reply may hold exactly the arrays that came with it.
        loss_name: the metric that is sent beside the number of examples.
        mask: the last step, for secure aggregation; after it values mean nothing alone.

    Raises:
        SiteDataError: an array was not asked for, has another form, or is not finite.
    """
    for name, vector in update.vectors.items():
        asked = instruction.vectors.get(name)
        if asked is None:
            raise SiteDataError(f"{name} is not on the list of what may leave")
        if vector.shape != asked.shape or vector.dtype != asked.dtype:
            raise SiteDataError(f"{name} has another form than what was received")
        if not np.isfinite(vector).all():
            raise SiteDataError(
                f"training gave NaN or infinite values in {name}; nothing is sent. "
                "Try a smaller local.learning_rate"
            )
    if not np.isfinite(update.loss):
        raise SiteDataError(f"{loss_name} is not finite; nothing is sent")
    vectors = update.vectors if mask is None else mask(update.vectors)
    masked = Update(update.num_examples, update.loss, vectors, update.report)
    return reply_records(masked, instruction.binding, loss_name=loss_name)
