"""The fault campaign: what is done to a real federation, and whether it holds.

python -m tests.faults [--case NAME ...] [--list]
python -m tests.faults --case campaign [--seed 1] [--minutes 20]
"""

# ruff: noqa: T201 - it prints its table

import argparse
import sys
import time

from tests.faults import (
    campaign,
    cases_bundles,
    cases_disk,
    cases_egress,
    cases_network,
    cases_processes,
    cases_replies,
    cases_size,
    cases_trust,
)
from tests.faults.figures import CASES, Figure

MODULES = (
    cases_bundles,
    cases_disk,
    cases_egress,
    cases_network,
    cases_processes,
    cases_replies,
    cases_size,
    cases_trust,
)
"""Imported for their cases."""


def main() -> int:
    """Print the table; return 1 if a rule is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", action="append", choices=[*CASES, "campaign"], help="only these")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--seed", type=int, default=1, help="of the campaign")
    parser.add_argument("--minutes", type=float, default=20, help="of the campaign")
    args = parser.parse_args()
    if args.list:
        for name, one in CASES.items():
            print(f"{name:18} {(one.__doc__ or '').splitlines()[0]}")
        print(f"{'campaign':18} {(campaign.__doc__ or '').splitlines()[0]}")
        return 0
    failed = 0
    for name in args.case or CASES:
        started = time.monotonic()
        print(f"\n{name}", flush=True)
        try:
            if name == "campaign":
                figures = campaign.campaign(seed=args.seed, minutes=args.minutes)
            else:
                figures = CASES[name]()
        except Exception as error:  # noqa: BLE001 - the other cases still count
            notes = "\n".join(getattr(error, "__notes__", []))
            print(f"  FAILED: {type(error).__name__}: {error}\n{notes}", flush=True)
            failed += 1
            continue
        failed += show(figures)
        print(f"  ({time.monotonic() - started:.0f} s)", flush=True)
    return min(failed, 1)


def show(figures: list[Figure]) -> int:
    """Print the figures, and return how many break their rule."""
    for figure in figures:
        print(f"  {figure.line()}", flush=True)
    return sum(not figure.holds for figure in figures)


if __name__ == "__main__":
    sys.exit(main())
