"""`fedward data`: the public data sets that the shipped configurations know, and a site's scans."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedward.deploy.commands.parsing import Commands, add_command, add_group

if TYPE_CHECKING:
    from fedward.client.data.volumes import Scan
    from fedward.client.findings import Finding

SHOWN_FILES = 20


def add(commands: Commands) -> None:
    """Add the commands to the parser."""
    verbs = add_group(
        commands,
        "data",
        about="public data sets, and what a folder of CT scans holds",
        examples="  fedward data list\n  fedward data fetch heart-disease\n"
        "  fedward data scan /export/ct",
    )
    listing = add_command(
        verbs,
        "list",
        _list,
        about="names, licences, and whether a copy is here",
        examples="  fedward data list",
    )
    listing.add_argument("--json", action="store_true", help="for scripts")
    fetch = add_command(
        verbs,
        "fetch",
        _fetch,
        about="download from the public home, convert and verify",
        examples="  fedward data fetch heart-disease",
    )
    fetch.add_argument("name", metavar="NAME", help="as `fedward data list` shows it")
    fetch.add_argument(
        "--to", type=Path, metavar="DIR", help="default: $FEDWARD_DATA_DIR or ~/.cache/fedward"
    )
    scan = add_command(
        verbs,
        "scan",
        _scan,
        about="series, scanners, masks and unusable files of a folder of DICOM or NIfTI",
        examples="  fedward data scan /export/ct\n"
        "  fedward data scan /export/ct --schema stones.yaml --json",
    )
    scan.add_argument("path", type=Path, metavar="DIR", help="searched with all its sub-folders")
    scan.add_argument(
        "--schema", metavar="SCHEMA", help="shipped, or a file: does the data fit it?"
    )
    scan.add_argument("--json", action="store_true", help="for scripts")


def _list(args: argparse.Namespace) -> int:
    from fedward.client.data.catalogue import list_data_sets

    found = list_data_sets()
    if args.json:
        print(json.dumps([entry.as_dict() for entry in found], indent=1))
        return 0
    for entry in found:
        where = entry.local_path or (
            f"not here; {entry.by_hand}"
            if entry.by_hand
            else f"not here; fedward data fetch {entry.name}"
        )
        print(f"{entry.name}\n  {entry.title}\n  licence: {entry.licence}\n  {where}")
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from fedward.client.data.catalogue import fetch

    path = fetch(args.name, to=args.to, progress=lambda text: print(text, file=sys.stderr))
    print(path)
    return 0


def _scan(args: argparse.Namespace) -> int:
    from fedward.client.findings import exit_code
    from fedward.client.scan_summary import summarise

    found, scan = summarise(args.path, progress=None if args.json else _progress)
    findings = [] if args.schema is None else _findings(args, scan)
    if args.json:
        facts = found.as_dict()
        if findings:
            facts["findings"] = [one.as_dict() for one in findings]
        print(json.dumps(facts, indent=1))
        return exit_code(findings)
    print(f"patients: {found.patients}")
    for name, counts in (("series", found.series), *found.texts.items(), ("masks", found.masks)):
        print(f"{name}: {_listed(counts)}")
    for name, (low, high) in found.ranges.items():
        print(f"{name}: {low:g}" if low == high else f"{name}: {low:g} to {high:g}")
    print(f"structures named by the masks: {_listed(found.structures)}")
    print(f"repaired on reading: {_listed(found.repairs)}")
    print(f"files not used: {len(found.quarantined)}")
    reasons = _by_reason(found.quarantined)
    for text in reasons[:SHOWN_FILES]:
        print(f"  {text}")
    if len(reasons) < len(found.quarantined) or len(reasons) > SHOWN_FILES:
        print("  (file by file: --json)")
    for one in findings:
        print(f"{one.status:4}  {one.name}: {one.text}" + (f"; {one.advice}" if one.advice else ""))
    return exit_code(findings)


def _by_reason(quarantined: Sequence[Mapping[str, str]]) -> list[str]:
    """Return one line for the files of a folder that have one reason in common."""
    alike: dict[tuple[str, str], list[str]] = {}
    for entry in quarantined:
        folder, _, _ = entry["file"].rpartition("/")
        alike.setdefault((folder, entry["reason"]), []).append(entry["file"])
    return [
        f"{files[0]}: {reason}" if len(files) == 1 else f"{folder}: {len(files)} files: {reason}"
        for (folder, reason), files in alike.items()
    ]


def _findings(args: argparse.Namespace, scan: "Scan") -> "list[Finding]":
    from fedward.client.check_ct import check_folder
    from fedward.common.tables.schema import load_schema

    schema = load_schema(args.schema, Path())
    return list(check_folder(args.path, schema, scan=scan, k=schema.min_cohort))


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else "\r"
        print(f"{done} of {total} files", end=end, file=sys.stderr, flush=True)
