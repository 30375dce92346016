"""What both kinds of picture are drawn with: a patient, smooth fields, and what a sensor adds.

Positions are in units of the picture, so that a patient is the same one at any size.

Legend: N pictures of a patient; Y, X rows and columns of one; L, M knots of a lattice.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, repr=False)
class Patient:
    """The pictures of one patient. It has no repr, as a real one has none."""

    pictures_NYX: Bytes
    masks_NYX: Bytes
    """0, or k for the k-th structure."""
    labels: tuple[int, ...]
    """Of each picture: the number of its class."""
    truth: dict[str, Any]
    """What was drawn, before any camera."""


def positions(size: int) -> tuple[Floats, Floats]:
    """Return (size, 1) and (1, size): y and x of the pixels' centres, -1 to 1."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    return axis[:, None], axis[None, :]


def smooth_field(rng: np.random.Generator, size: int, *, knots: int) -> Floats:
    """Return (size, size), a random function of position with bumps of 1/knots of the picture.

    Mean 0, standard deviation about 1; the same function at any size. Source: ours (value noise).
    """
    lattice_LM = rng.standard_normal((knots + 2, knots + 2))
    at = (np.arange(size) + 0.5) / size * knots + 0.5
    field_YX = ndimage.map_coordinates(lattice_LM, np.meshgrid(at, at, indexing="ij"), order=3)
    return np.asarray(field_YX / 0.7)


def step(distance: Floats, width: float) -> Floats:
    """Return 0 to 1: how far `distance` is above 0, in a soft step of about `width`."""
    steepness = np.clip(-4 * distance / width, -60, 60)
    return np.asarray(1 / (1 + np.exp(steepness)))


def as_bytes(values_YX: Floats) -> Bytes:
    """Return grey values, rounded and cut to 0 to 255."""
    return np.clip(np.rint(values_YX), 0, 255).astype(np.uint8)
