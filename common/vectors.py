"""The wire form of a model's shared tensors: one flat float32 vector. Imports no torch."""

import hashlib

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]


def vector_hash(vector: npt.NDArray[np.generic]) -> str:
    """Return the SHA-256 of a vector's bytes: which model a reply was trained from."""
    return hashlib.sha256(np.ascontiguousarray(vector).data).hexdigest()
