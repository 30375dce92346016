"""`fedward audit` and `fedward site purge`: what a site's log says, and the end of all it holds."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedward.deploy.commands.parsing import Commands, add_command, add_group

if TYPE_CHECKING:
    from fedward.common.chain import Anchor, Finding
    from fedward.common.config.site import LoadedSite

VERIFY_EXAMPLES = """\
  fedward audit verify --site site.yaml
  fedward audit verify --site site.yaml --anchors audit.jsonl    the coordinator's own notes
"""
PURGE_EXAMPLES = """\
  fedward site purge --site site.yaml          asks first
  fedward site purge --site site.yaml --all    the site's key too: it leaves the consortium
"""
DEFAULT_LAST = 50


def add(commands: Commands) -> None:
    """Add `fedward audit` to the parser."""
    verbs = add_group(
        commands,
        "audit",
        about="the site's log of what left and what was refused",
        examples=VERIFY_EXAMPLES,
    )
    verify = add_command(
        verbs,
        "verify",
        _verify,
        about="check that no entry was changed, removed or moved",
        examples=VERIFY_EXAMPLES,
    )
    add_site(verify)
    verify.add_argument(
        "--anchors",
        type=Path,
        metavar="FILE",
        help="a coordinator's audit.jsonl: what it saw of this log, which shows a cut end",
    )
    verify.add_argument("--json", action="store_true", help="for scripts")
    show = add_command(
        verbs,
        "show",
        _show,
        about="the newest entries",
        examples="  fedward audit show --site site.yaml --last 20",
    )
    add_site(show)
    show.add_argument("--last", type=int, default=DEFAULT_LAST, metavar="N", help="default: 50")
    show.add_argument("--json", action="store_true", help="one entry per line, as it was hashed")


def add_purge(verbs: Commands) -> None:
    """Add `purge` to the commands of `fedward site`."""
    purge = add_command(
        verbs,
        "purge",
        _purge,
        about="remove everything that the site holds for the consortium",
        examples=PURGE_EXAMPLES,
    )
    add_site(purge)
    purge.add_argument("--all", action="store_true", help="the site's key and salt as well")
    purge.add_argument("--yes", action="store_true", help="do not ask")
    purge.add_argument("--json", action="store_true", help="for scripts; needs --yes")


def add_site(parser: argparse.ArgumentParser) -> None:
    """Add `--site` to a command."""
    parser.add_argument(
        "--site", type=Path, required=True, metavar="FILE", help="the hospital's site.yaml"
    )


def existing_database(site: "LoadedSite") -> Path:
    """Return the path of the site's database.

    Raises:
        ConfigError: there is none; looking at a log must not make one.
    """
    from fedward.common.errors import ConfigError

    path = site.file(site.config.database)
    if not path.is_file():
        raise ConfigError(
            f"{site.where('database')}: database: {path}: there is no such file yet; the site "
            "makes it when it is first asked for something"
        )
    return path


def confirmed(question: str) -> bool:
    """Return whether a person answers yes; no where nobody can be asked."""
    try:
        return input(f"{question} [yes/no] ").strip().lower() == "yes"
    except EOFError:
        print()
        return False


def _verify(args: argparse.Namespace) -> int:
    from fedward.client.approvals import RosterPins
    from fedward.client.audit import AuditTrail
    from fedward.common.config.site import load_site_config
    from fedward.common.errors import TrustError

    site = load_site_config(args.site)
    database = existing_database(site)
    anchors = _anchors(args.anchors, site.config.site)
    roster = RosterPins(database).pinned()
    trail = AuditTrail(database)
    findings = trail.verify(anchors, model_key=roster.model_key if roster else None)
    head, num_kept = trail.head, len(trail.anchors())
    if args.json:
        facts: dict[str, Any] = {
            "site": site.config.site,
            "entries": head.seq,
            "head": head.hash,
            "anchors": len(anchors) + num_kept,
            "findings": [vars(finding) for finding in findings],
        }
        print(json.dumps(facts, indent=1))
    else:
        print(f"{site.config.site}: {head.seq} entries, head {head.hash[:16]}")
        print(f"compared with {num_kept} signed anchors kept here, {len(anchors)} from outside")
        for line in _lines(findings, has_anchors=bool(anchors or num_kept)):
            print(line)
    return TrustError.exit_code if findings else 0


def _anchors(path: Path | None, site: str) -> "list[Anchor]":
    from fedward.client.audit import read_anchors
    from fedward.common.errors import ConfigError

    if path is None:
        return []
    try:
        anchors = read_anchors(path, site)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__})") from error
    if not anchors:
        raise ConfigError(
            f"{path}: holds no anchor of {site}; expected lines with site, seq and hash, as in the "
            "audit.jsonl of a run's folder"
        )
    return anchors


def _lines(findings: "list[Finding]", *, has_anchors: bool) -> list[str]:
    if findings:
        told = [f"WRONG ({finding.kind}): {finding.text}" for finding in findings]
        return [*told, "The log was changed after it was written. Keep a copy of the database."]
    if has_anchors:
        return ["ok: every entry is as it was written, up to the newest anchor none is cut off"]
    return ["ok: every entry is as it was written", "without anchors a cut end cannot be seen"]


def _show(args: argparse.Namespace) -> int:
    from fedward.client.audit import AuditTrail
    from fedward.common.config.site import load_site_config

    database = existing_database(load_site_config(args.site))
    for entry in AuditTrail(database).entries(max(args.last, 0)):
        if args.json:
            print(json.dumps(entry, sort_keys=True))
            continue
        shown = {key: value for key, value in entry.items() if key not in _IN_FRONT}
        facts = ", ".join(f"{key} {_brief(value)}" for key, value in sorted(shown.items()))
        print(f"{entry.get('seq', '?'):>6}  {entry.get('time', '')}  {entry.get('event')}: {facts}")
    return 0


_IN_FRONT = frozenset({"seq", "time", "event"})


def _brief(value: Any) -> str:
    """Return one fact for people; of arrays their names and sizes."""
    if isinstance(value, list):
        return " ".join(
            f"{one['name']} ({one['bytes']} bytes)" if isinstance(one, dict) else str(one)
            for one in value
        )
    return str(value)


def _purge(args: argparse.Namespace) -> int:
    from fedward.client.retention import everything, is_running, purge
    from fedward.common.config.site import load_site_config
    from fedward.common.errors import ConfigError

    site = load_site_config(args.site)
    if is_running(site):
        raise ConfigError(f"{site.path}: the site is at work; stop `fedward client` first")
    if args.json and not args.yes:
        raise ConfigError("--json: give --yes too, as nobody can be asked")
    entries = everything(site, with_keys=args.all)
    if not args.json:
        for entry in entries:
            print(f"{entry.path}  ({entry.what})")
    if not entries and not args.json:
        print("nothing to remove")
    if entries and not args.yes and not confirmed("Remove all of this for ever?"):
        print("nothing was removed")
        return 0
    removed = [str(entry.path) for entry in purge(entries)]
    if args.json:
        print(json.dumps({"removed": removed}, indent=1))
    elif removed:
        kept = "" if args.all else "; the site's key and salt are still there"
        print(f"removed {len(removed)} files and folders{kept}. Backups of them are yours to find.")
    return 0
