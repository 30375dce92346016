"""`fedward check` and `fedward site`: can this hospital join, and what it holds of a patient."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fedward.deploy.commands.audit import add_purge, add_site, existing_database
from fedward.deploy.commands.parsing import Commands, add_command, add_group

if TYPE_CHECKING:
    from fedward.client.retention import KeptScans

CHECK_EXAMPLES = """\
  fedward check site.yaml                              data, key, disk, memory, GPU
  fedward check site.yaml --kit KIT                    and roster, connection, certificate, clock
  fedward check site.yaml --kit KIT --run run.yaml     and whether the site would let a run start

exit codes: 0 the site can join (also with warnings), 3 data, 4 network or trust, 7 storage,
2 anything else
"""
PATIENT_EXAMPLES = """\
  fedward site patient --site site.yaml       then type the identifier: it is in no shell history
"""
_MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def add(commands: Commands) -> None:
    """Add the commands to the parser."""
    check = add_command(
        commands,
        "check",
        _check,
        about="can this site join? data, key, connection, clock, disk, GPU",
        examples=CHECK_EXAMPLES,
    )
    check.add_argument("site", type=Path, metavar="SITE", help="the hospital's site.yaml")
    check.add_argument("--kit", type=Path, metavar="KIT", help="the folder from the coordinator")
    check.add_argument("--run", type=Path, metavar="RUN", help="a run.yaml that is proposed")
    check.add_argument("--json", action="store_true", help="for scripts")
    verbs = add_group(
        commands,
        "site",
        about="what the hospital holds, of a patient and at all",
        examples="  fedward site patient --site site.yaml\n  fedward site purge --site site.yaml",
    )
    patient = add_command(
        verbs,
        "patient",
        _patient,
        about="which runs used a patient; the identifier is read from standard input",
        examples=PATIENT_EXAMPLES,
    )
    add_site(patient)
    patient.add_argument("--json", action="store_true", help="for scripts")
    add_purge(verbs)


def _check(args: argparse.Namespace) -> int:
    from fedward.client.check import check_site
    from fedward.client.findings import exit_code
    from fedward.common.config.loader import load_run_config
    from fedward.common.config.site import load_site_config
    from fedward.common.deployment import make_request
    from fedward.common.kit import load_kit

    site = load_site_config(args.site)
    kit = None if args.kit is None else load_kit(args.kit, "site")
    run = None
    if args.run is not None:
        config = load_run_config(args.run).config
        run = make_request(config, "check", base_dir=args.run.parent)
    findings = check_site(site, kit, run)
    if args.json:
        print(json.dumps([one.as_dict() for one in findings], indent=1))
        return exit_code(findings)
    for one in findings:
        print(f"{_MARKS[one.status]}  {one.name:<20} {one.text}")
        if one.status != "ok" and one.advice:
            print(f"{'':28}-> {one.advice}")
    print(_verdict([one.status for one in findings], with_kit=kit is not None))
    return exit_code(findings)


def _verdict(statuses: list[str], *, with_kit: bool) -> str:
    failed = statuses.count("fail")
    if failed:
        return f"{failed} of {len(statuses)} checks failed; this site cannot join yet"
    looked = "this site can join" if with_kit else "all is well so far; with --kit more is checked"
    warned = statuses.count("warn")
    return f"{looked}, with {warned} warnings" if warned else looked


def _patient(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from fedward.client.cohort import read_salt, runs_of
    from fedward.client.retention import kept_of
    from fedward.common.config.site import load_site_config

    site = load_site_config(args.site)
    database = existing_database(site)
    salt = read_salt(site.file(site.config.id_salt_file))
    if sys.stdin.isatty():
        print("patient identifier: ", end="", file=sys.stderr, flush=True)
    patient = sys.stdin.readline().strip()
    found = runs_of(database, patient, salt)
    kept = kept_of(site, patient)
    if args.json:
        shown = {"runs": [asdict(one) for one in found], **asdict(kept)}
        print(json.dumps(shown, indent=1))
        return 0
    for line in _kept_lines(kept):
        print(line)
    if not found:
        print("no run has used this patient")
        return 0
    for one in found:
        print(f"{one.recorded}  {one.run_key}")
    print(
        f"used in {len(found)} runs; name the patient in the file of data.exclude to keep them out "
        "of all that follow. A model that was trained already is not changed by that"
    )
    return 0


def _kept_lines(kept: "KeptScans") -> Iterator[str]:
    if kept.num_scans or kept.num_quarantined:
        yield (
            f"in the cache of scans: {kept.num_scans} of this patient, and "
            f"{kept.num_quarantined} files on the quarantine list; they go when data.exclude names "
            "the patient and the worker starts again"
        )
