"""What a folder of scans holds, in figures for the people of a site: headers only, no identifiers.

Files that are not used are named, since somebody here must find them; patients are only counted.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedward.client.data.quarantine import relative
from fedward.client.data.read import spelled
from fedward.client.data.source import need_ct_packages
from fedward.client.data.volumes import MaskFile, Scan, scan_folder, structure_names
from fedward.common.errors import SiteDataError

Counts = dict[str, int]
TEXT_FACTS = ("modality", "manufacturer", "kernel")


@dataclass(frozen=True)
class ScanSummary:
    """A folder of scans."""

    patients: int
    series: Counts
    """By kind of file."""
    texts: dict[str, Counts]
    """Series by modality, manufacturer, kernel."""
    ranges: dict[str, tuple[float, float]]
    """Lowest and highest of each figure in the headers, such as slice_thickness_mm."""
    repairs: Counts
    """What reading will repair, and in how many series."""
    masks: Counts
    """By kind of file."""
    structures: Counts
    """What RTSTRUCT and SEG objects name: for `structures` and `aliases` of a schema."""
    quarantined: list[dict[str, str]] = field(default_factory=list)
    """File and reason."""

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)


def summarise(
    folder: Path, *, progress: Callable[[int, int], None] | None = None
) -> tuple[ScanSummary, Scan]:
    """Return what a folder holds, and the scan itself.

    Args:
        folder: DICOM or NIfTI in any arrangement.
        progress: called with the files that are done and their number.

    Raises:
        ConfigError: the packages that read scans are not installed.
        SiteDataError: there is no such folder.
    """
    need_ct_packages()
    scan = scan_folder(folder, progress=progress)
    facts = [series.facts for series in scan.series]
    names = sorted({name for one in facts for name, value in one.items() if _is_number(value)})
    ranges = {}
    for name in names:
        values = [float(one[name]) for one in facts if _is_number(one.get(name))]
        ranges[name] = (min(values), max(values))
    return ScanSummary(
        patients=len({spelled(series.patient) for series in scan.series}),
        series=_counts(series.kind for series in scan.series),
        texts={name: _counts(str(one[name]) for one in facts if one.get(name))
               for name in TEXT_FACTS},
        ranges=ranges,
        repairs=_counts(note for series in scan.series for note in series.notes),
        masks=_counts(mask.kind for mask in scan.masks),
        structures=_structures(scan.masks),
        quarantined=[
            {"file": relative(entry.path, folder), "reason": entry.reason}
            for entry in scan.quarantined
        ],
    ), scan  # fmt: skip


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _counts(found: Any) -> Counts:
    return dict(Counter(found).most_common())


def _structures(masks: Sequence[MaskFile]) -> Counts:
    names: Counter[str] = Counter()
    for mask in masks:
        try:
            names.update(set(structure_names(mask)))
        except SiteDataError:  # reading says so with the file's name
            continue
    return dict(names.most_common())
