"""`fedward approve`: what a person at the hospital agrees to, by comparing fingerprints."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from fedward.deploy.commands.audit import add_site, confirmed
from fedward.deploy.commands.parsing import Command, Commands, add_command, add_group

if TYPE_CHECKING:
    from fedward.client.approvals import Approval, Approvals
    from fedward.common.config.site import LoadedSite
    from fedward.common.roster import Roster

EXAMPLES = """\
  fedward approve roster --site site.yaml --kit kits/site-a    who is in the consortium
  fedward approve list --site site.yaml                        what was asked for
  fedward approve run 3fa1c09d --site site.yaml                let it start
"""


def add(commands: Commands) -> None:
    """Add the commands to the parser."""
    verbs = add_group(
        commands, "approve", about="agree to a roster or a run, at the hospital", examples=EXAMPLES
    )
    roster = add_command(
        verbs,
        "roster",
        _roster,
        about="trust the roster of a kit, once its fingerprint was compared by phone",
        examples="  fedward approve roster --site site.yaml --kit kits/site-a",
    )
    add_site(roster)
    roster.add_argument("--kit", type=Path, required=True, metavar="DIR", help="of this site")
    roster.add_argument(
        "--fingerprint", metavar="F", help="as it was read out by phone; nothing is asked then"
    )
    roster.add_argument("--yes", action="store_true", help="trust it without comparing")
    _add_listing(verbs)
    run = _add_decision(verbs, "run", "let a run start", _run)
    run.add_argument("--yes", action="store_true", help="do not ask")
    _add_decision(verbs, "withdraw", "let a run not start, nor go on", _withdraw)


def _add_listing(verbs: Commands) -> None:
    listing = add_command(
        verbs,
        "list",
        _list,
        about="the runs that were asked for, and what was decided",
        examples="  fedward approve list --site site.yaml",
    )
    add_site(listing)
    listing.add_argument("--json", action="store_true", help="for scripts")


def _add_decision(verbs: Commands, name: str, about: str, run: Command) -> argparse.ArgumentParser:
    parser = add_command(
        verbs,
        name,
        run,
        about=about,
        examples=f"  fedward approve {name} 3fa1c09d --site site.yaml",
    )
    parser.add_argument("hash", metavar="HASH", help="of the request, or its first 8 digits")
    add_site(parser)
    return parser


def _roster(args: argparse.Namespace) -> int:
    from fedward.client.approvals import RosterPins
    from fedward.client.audit import AuditTrail
    from fedward.common.config.site import load_site_config
    from fedward.common.errors import ConfigError
    from fedward.common.kit import load_kit

    site = load_site_config(args.site)
    kit = load_kit(args.kit, "site")
    if kit.name != site.config.site:
        raise ConfigError(
            f"{args.kit}: the kit of {kit.name}, but {site.where('site')} is about "
            f"{site.config.site}"
        )
    pins = RosterPins(site.file(site.config.database))
    known = pins.pinned()
    if known is not None and known.fingerprint == kit.roster.fingerprint:
        print(f"roster {known.serial} is the one that this site trusts: {known.fingerprint}")
        return 0
    for line in _told(known, kit.roster):
        print(line)
    if not _is_right(args, kit.roster):
        print("nothing was changed")
        return 0
    pins.pin_roster(kit.roster)
    facts = {"serial": kit.roster.serial, "fingerprint": kit.roster.fingerprint}
    AuditTrail(site.file(site.config.database)).append("roster pinned", **facts)
    print(f"this site now trusts roster {kit.roster.serial}")
    return 0


def _told(known: "Roster | None", roster: "Roster") -> list[str]:
    """Return what the person is about to agree to."""
    from fedward.common.roster import differences

    if known is not None:
        return [f"roster {known.serial} -> {roster.serial}", *differences(known, roster)]
    from fedward.common.keys import fingerprint

    return [
        f"consortium:  {roster.consortium}, roster {roster.serial}, until {roster.expires}",
        f"server:      {roster.address}",
        *(f"site:        {one.name}  {fingerprint(one.public_key)}" for one in roster.sites),
        *(f"operator:    {one.name}  {fingerprint(one.public_key)}" for one in roster.operators),
    ]


def _is_right(args: argparse.Namespace, roster: "Roster") -> bool:
    from fedward.common.errors import TrustError

    print(f"fingerprint: {roster.fingerprint}")
    if args.fingerprint is not None:
        if args.fingerprint.strip() != roster.fingerprint:
            raise TrustError(
                f"{args.kit}: the roster has another fingerprint than the one that was given; do "
                "not use this kit, and ask the coordinator by phone"
            )
        return True
    question = "Did the coordinator read out exactly this fingerprint by phone?"
    return bool(args.yes) or confirmed(question)


def _list(args: argparse.Namespace) -> int:
    _, approvals = _open(args.site)
    found = approvals.listing()
    if args.json:
        print(json.dumps([vars(entry) for entry in found], indent=1))
        return 0
    if not found:
        print("no run was asked for yet")
    for entry in found:
        print(_line(entry))
    return 0


def _run(args: argparse.Namespace) -> int:
    site, approvals = _open(args.site)
    text = approvals.request_text(args.hash)
    print(text or "nobody has asked for this run yet")
    if not args.yes and not confirmed("Let this run start?"):
        print("nothing was changed")
        return 0
    return _note(site, "run approved", approvals.approve(args.hash))


def _withdraw(args: argparse.Namespace) -> int:
    site, approvals = _open(args.site)
    return _note(site, "run withdrawn", approvals.withdraw(args.hash))


def _note(site: "LoadedSite", event: str, decided: "Approval") -> int:
    from fedward.client.audit import AuditTrail

    AuditTrail(site.file(site.config.database)).append(event, request=decided.hash)
    print(_line(decided))
    return 0


def _open(path: Path) -> "tuple[LoadedSite, Approvals]":
    from fedward.client.approvals import Approvals
    from fedward.common.config.site import load_site_config

    site = load_site_config(path)
    return site, Approvals(site.file(site.config.database), site.config.approve)


def _line(entry: "Approval") -> str:
    who = f"{entry.name} by {entry.operator}, {entry.asked}" if entry.asked else "not asked for yet"
    return f"{entry.state:<10} {entry.hash}  {who}"
