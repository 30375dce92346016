"""`fedward data`: the public data sets that the shipped configurations know."""

import argparse
import json
import sys
from pathlib import Path

from fedward.deploy.commands.parsing import Commands, add_command, add_group


def add(commands: Commands) -> None:
    """Add the commands to the parser."""
    verbs = add_group(
        commands,
        "data",
        about="public data sets that the shipped configurations know",
        examples="  fedward data list\n  fedward data fetch heart-disease",
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


def _list(args: argparse.Namespace) -> int:
    from fedward.client.data.catalogue import list_data_sets

    found = list_data_sets()
    if args.json:
        print(json.dumps([entry.as_dict() for entry in found], indent=1))
        return 0
    for entry in found:
        where = entry.local_path or f"not here; fedward data fetch {entry.name}"
        print(f"{entry.name}\n  {entry.title}\n  licence: {entry.licence}\n  {where}")
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from fedward.client.data.catalogue import fetch

    path = fetch(args.name, to=args.to, progress=lambda text: print(text, file=sys.stderr))
    print(path)
    return 0
