"""Which patients are test patients. No patient is ever in both parts."""

import numpy as np
import numpy.typing as npt

from fedward.common.randomness import numpy_generator
from fedward.common.tables.table import Table
from fedward.common.task import Split


def steering_rows(
    training: Table, fraction: float, split: Split, *, site: str
) -> npt.NDArray[np.bool_] | None:
    """Return (N,) whether each training row steers training instead; None if none should.

    Args:
        training: rows that are not held out: test patients never steer.
        fraction: of the training patients, `data.validation_fraction`.
        split: whose seed it derives from.
        site: whose rows they are.
    """
    if not fraction:
        return None
    return held_out_rows(training, Split(split.seed + 1, fraction), site=site)


def held_out_rows(table: Table, split: Split, *, site: str) -> npt.NDArray[np.bool_]:
    """Return (N,) whether each row is a test row.

    Patients are stratified by their label (a patient with any positive row is positive), shuffled
    within each stratum by a generator of (seed, site), and the first of them are held out. It
    depends on nothing but this site's own patients.
    """
    patients, row_patient = np.unique(table.patient_id, return_inverse=True)
    label = np.zeros(len(patients), dtype=np.int64)
    np.maximum.at(label, row_patient, table.label)
    held_out = np.zeros(len(patients), dtype=bool)
    rng = numpy_generator(split.seed, purpose="split", site=site)
    dealt = 0
    for stratum in np.unique(label):
        members = rng.permutation(np.flatnonzero(label == stratum))
        if split.num_folds is None:
            held_out[members[: round(split.test_fraction * len(members))]] = True
        else:
            # Dealt like cards, going on where the last stratum ended, so that folds are even.
            fold = (np.arange(len(members)) + dealt) % split.num_folds
            held_out[members[fold == split.fold]] = True
            dealt += len(members)
    chosen: npt.NDArray[np.bool_] = held_out[row_patient]
    return chosen
