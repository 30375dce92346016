"""Slices into series, by geometry: UIDs are believed only as far as the positions bear them out.

Legend: X is x, y, z in millimetres of LPS; N slices; I the index of slice, row, column.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.dicom_header import Slice
from fedward.client.data.volume_grid import Grid
from fedward.client.data.volumes import Quarantined, Series
from fedward.common.errors import SiteDataError

MIN_SLICES = 3
MAX_MISSING_SLICES = 3
# Positions are rounded to a tenth of a millimetre in many a header.
MAX_UNEVEN_MM, MAX_UNEVEN_SHARE = 0.11, 0.1
MAX_SIDEWAYS_MM = 0.5
SAME_PLACE_MM = 0.01
# Of doubled places: more than this, and the files are two series rather than one with duplicates.
MAX_DUPLICATES_SHARE = 0.25
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Stack:
    """Where the slices of a series lie."""

    grid: Grid
    """Slice, row, column; with the slices that are missing."""
    slots: tuple[int, ...]
    """Place of each slice along the first axis."""
    slices: tuple[Slice, ...]
    dropped: tuple[Slice, ...]
    """Others at the same places."""

    @property
    def num_missing(self) -> int:
        """Slots without a slice."""
        return self.grid.shape[0] - len(self.slots)


def group_slices(slices: Sequence[Slice]) -> tuple[list[Series], list[Quarantined]]:
    """Return the series that slices make, and the files that make none or are doubled.

    Source: ours.
    """
    series: list[Series] = []
    quarantined: list[Quarantined] = []
    for group, note in _groups(slices):
        for part in _parts(group):
            try:
                stack = lay_out(part)
            except SiteDataError as error:
                quarantined += _left_out(part, f"its series cannot be used: {error}")
                continue
            quarantined += _left_out(stack.dropped, "a duplicate of another slice")
            series.append(_series(stack, note))
    return series, quarantined


def lay_out(slices: Sequence[Slice]) -> Stack:
    """Return where slices of one orientation lie; of several at one place the first is kept.

    Raises:
        SiteDataError: they are too few, not on a line, not evenly apart, or too many are missing.
    """
    across, down = np.array(slices[0].directions).reshape(2, 3)
    normal_X = np.cross(across, down)
    ordered = sorted(slices, key=lambda s: (np.array(s.position_mm) @ normal_X, s.number))
    positions_NX = np.array([s.position_mm for s in ordered])
    along = positions_NX @ normal_X
    is_new = np.diff(along, prepend=-np.inf) > SAME_PLACE_MM
    kept = [s for s, new in zip(ordered, is_new, strict=True) if new]
    dropped = [s for s, new in zip(ordered, is_new, strict=True) if not new]
    if len(kept) < MIN_SLICES:
        raise SiteDataError(f"{len(kept)} slices are no volume")
    slots = _slots(along[is_new])
    if len({s.path for s in kept}) == 1 and dropped:
        raise SiteDataError("one file holds several images at the same place")
    step_X = _step(positions_NX[is_new], slots)
    row_mm, column_mm = slices[0].spacing_mm
    grid = Grid(
        np.column_stack([step_X, down * row_mm, across * column_mm]),
        positions_NX[is_new][0],
        (int(slots[-1]) + 1, *slices[0].size),
    )
    return Stack(grid, tuple(map(int, slots)), tuple(kept), tuple(dropped))


def _slots(along: Floats) -> NDArray[np.int64]:
    """Return the place of each slice, counted in slices, from ascending positions."""
    steps = np.diff(along)
    pitch_mm = float(np.median(steps))
    jumps = np.rint(steps / pitch_mm).astype(np.int64)
    tolerance_mm = max(MAX_UNEVEN_MM, MAX_UNEVEN_SHARE * pitch_mm)
    if (jumps < 1).any() or (np.abs(steps - jumps * pitch_mm) > tolerance_mm).any():
        raise SiteDataError(
            f"slices are not evenly apart ({steps.min():.2f} to {steps.max():.2f} mm)"
        )
    num_missing = int((jumps - 1).sum())
    if num_missing > MAX_MISSING_SLICES or num_missing * 4 > len(along):
        raise SiteDataError(
            f"{num_missing} slices are missing; at most {MAX_MISSING_SLICES}, and a fifth of all, "
            "are interpolated"
        )
    return np.concatenate([[0], np.cumsum(jumps)])


def _step(positions_NX: Floats, slots: NDArray[np.int64]) -> Floats:
    """Return the way from slice to slice, which a gantry tilt turns away from the normal."""
    step_X = (positions_NX[-1] - positions_NX[0]) / slots[-1]
    off_NX = positions_NX - positions_NX[0] - slots[:, None] * step_X
    if np.abs(off_NX).max() > max(MAX_SIDEWAYS_MM, MAX_UNEVEN_SHARE * np.linalg.norm(step_X)):
        raise SiteDataError("the positions of its slices are not on a line")
    return np.asarray(step_X)


def _groups(slices: Sequence[Slice]) -> list[tuple[list[Slice], str]]:
    """Return slices of one patient, UID, orientation and size, with a note on the UID."""
    groups: dict[tuple[object, ...], list[Slice]] = {}
    turns: list[tuple[float, ...]] = []
    for one in slices:
        groups.setdefault(_key(one, turns), []).append(one)
    merged: dict[tuple[object, ...], list[Slice]] = {}
    for key, group in groups.items():
        # A UID of its own for each slice is no UID; nor is an empty one.
        is_told = bool(group[0].series_uid) and (len(group) > 1 or group[0].num_frames > 1)
        place = key if is_told else ("", group[0].path.parent, *key[3:])
        merged.setdefault((group[0].patient, *place), []).extend(group)
    result = []
    for group in merged.values():
        uids = {one.series_uid for one in group}
        blank = "series UID is blank: grouped by geometry" if uids == {""} else ""
        wrong = "each slice has another series UID: grouped by geometry" if len(uids) > 1 else ""
        result.append((group, blank or wrong))
    return result


def _key(one: Slice, turns: list[tuple[float, ...]]) -> tuple[object, ...]:
    # One direction that jitters in its last digit would fall into two rounded ones.
    turn = next((known for known in turns if math.dist(known, one.directions) < 1e-3), None)
    if turn is None:
        turn = one.directions
        turns.append(turn)
    spacing = tuple(round(mm, 3) for mm in one.spacing_mm)
    many = one.path if one.num_frames > 1 else ""
    kernel = one.facts["kernel"]
    return (one.patient, one.study_uid, one.series_uid, turn, spacing, one.size, kernel, many)


def _parts(group: list[Slice]) -> list[list[Slice]]:
    """Return the group, or the series that share its UID: told apart by a header or by order."""
    if _num_doubled(group) <= MAX_DUPLICATES_SHARE * len(group) and _is_sound(group):
        return [group]
    copies = {(one.sop_uid or one.path, one.frame, one.position_mm): one for one in group}
    if len(copies) < len(group) and not _num_doubled(list(copies.values())) and _is_sound(group):
        return [group]
    told_by = [(*one.telling, one.facts["image_type"], one.path.parent) for one in group]
    for values in zip(*told_by, strict=True):
        parts = _split(group, values)
        if len(parts) > 1 and all(_is_sound(part) and not _num_doubled(part) for part in parts):
            return parts
    order = sorted(group, key=lambda one: one.number)
    seen: Counter[tuple[float, ...]] = Counter()
    times = []
    for one in order:
        seen[one.position_mm] += 1
        times.append(seen[one.position_mm])
    parts = _split(order, times)
    return parts if all(map(_is_sound, parts)) else [group]


def _split(group: Sequence[Slice], keys: Sequence[object]) -> list[list[Slice]]:
    parts: dict[object, list[Slice]] = {}
    for one, key in zip(group, keys, strict=True):
        parts.setdefault(key, []).append(one)
    return list(parts.values())


def _num_doubled(group: Sequence[Slice]) -> int:
    return len(group) - len({one.position_mm for one in group})


def _is_sound(group: Sequence[Slice]) -> bool:
    try:
        lay_out(group)
    except SiteDataError:
        return False
    return True


def _left_out(slices: Sequence[Slice], reason: str) -> list[Quarantined]:
    return [Quarantined(path, reason, slices[0].patient) for path in {s.path: 0 for s in slices}]


def _series(stack: Stack, note: str) -> Series:
    first = stack.slices[0]
    facts = {name: value for name, value in first.facts.items() if name != "rescale"}
    notes = [note, *_repairs(stack)]
    if "rescale" in first.facts:
        notes.append("RescaleSlope and RescaleIntercept are missing: values taken as HU")
    return Series(
        patient=first.patient,
        study_uid=first.study_uid,
        series_uid=first.series_uid,
        frame_uid=first.frame_uid,
        files=tuple({one.path: 0 for one in stack.slices}),
        kind="dicom",
        facts={**facts, "num_slices": float(stack.grid.shape[0])},
        notes=tuple(filter(None, notes)),
        stack=stack,
    )


def _repairs(stack: Stack) -> list[str]:
    notes = []
    if stack.dropped:
        notes.append(f"{_count(len(stack.dropped), 'duplicate slice')} dropped")
    if stack.num_missing:
        notes.append(f"{_count(stack.num_missing, 'missing slice')} interpolated")
    if not stack.grid.is_aligned():
        step_X, down_X, across_X = stack.grid.matrix_XI.T
        normal_X = np.cross(across_X, down_X)
        cosine = normal_X @ step_X / np.linalg.norm(normal_X) / np.linalg.norm(step_X)
        tilt = float(np.degrees(np.arccos(np.clip(abs(cosine), 0, 1))))
        if tilt > 0.1:
            notes.append(f"gantry tilt of {tilt:.1f} degrees corrected")
        else:
            notes.append("oblique slices resampled to the axes of the body")
    return notes


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
