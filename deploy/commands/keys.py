"""`fedward enroll` and `fedward provision`: who makes which key, and who gets which kit."""

import argparse
import json
from pathlib import Path

from fedward.deploy.commands.parsing import Commands, add_command

ENROLL_EXAMPLES = """\
  fedward enroll --site site.yaml                      at the hospital
  fedward enroll --operator anna --key anna.key        who asks for runs
"""
PROVISION_EXAMPLES = """\
  fedward provision consortium.yaml --out kits
  fedward provision consortium.yaml --out kits --renew              before the certificate ends
  fedward provision consortium.yaml --out kits --revoke hospital-a  its key was stolen
"""


def add(commands: Commands) -> None:
    """Add the commands to the parser."""
    enroll = add_command(
        commands,
        "enroll",
        _enroll,
        about="make a key that never leaves this machine; show what the coordinator needs",
        examples=ENROLL_EXAMPLES,
    )
    who = enroll.add_mutually_exclusive_group(required=True)
    who.add_argument("--site", type=Path, metavar="FILE", help="the hospital's site.yaml")
    who.add_argument("--operator", metavar="NAME", help="a person or service that asks for runs")
    enroll.add_argument(
        "--key", type=Path, metavar="FILE", help="with --operator: where the private key is kept"
    )
    enroll.add_argument("--json", action="store_true", help="for scripts")
    provision = add_command(
        commands,
        "provision",
        _provision,
        about="make authority, server certificate, signed roster, and a kit for each",
        examples=PROVISION_EXAMPLES,
    )
    provision.add_argument("consortium", type=Path, metavar="CONSORTIUM", help="consortium.yaml")
    provision.add_argument(
        "--out", type=Path, required=True, metavar="KITS", help="kept between calls; holds ca.key"
    )
    provision.add_argument(
        "--renew", action="store_true", help="new key and certificate for the server"
    )
    provision.add_argument(
        "--revoke", metavar="NAME", help="never trust the key of this site or operator again"
    )
    provision.add_argument("--json", action="store_true", help="for scripts")


def _enroll(args: argparse.Namespace) -> int:
    from fedward.common.errors import ConfigError
    from fedward.deploy.enroll import enroll_operator, enroll_site

    if args.site is not None:
        if args.key is not None:
            raise ConfigError("--key: the key of a site is where its site.yaml says (key_file)")
        enrolled = enroll_site(args.site)
    elif args.key is None:
        raise ConfigError("--operator: give --key FILE too, where the private key is to be kept")
    else:
        enrolled = enroll_operator(args.operator, args.key)
    if args.json:
        print(json.dumps(enrolled.as_dict(), indent=1))
        return 0
    print(f"{'made' if enrolled.is_new else 'already here'}: {enrolled.key_file}")
    print(f"public key:  {enrolled.public_key}")
    print(f"fingerprint: {enrolled.fingerprint}")
    print("\nSend the coordinator these lines for consortium.yaml; nothing in them is secret:\n")
    print(enrolled.entry)
    print("Then compare the fingerprint by phone. The private key stays here: keep a backup of it")
    print("that is as safe as this machine, and never send it to anyone.")
    return 0


def _provision(args: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from fedward.common.config.consortium import load_consortium
    from fedward.common.kit import expiry_warning, load_kit
    from fedward.deploy.provision import provision

    now = datetime.now(UTC)
    made = provision(
        load_consortium(args.consortium), args.out, now=now, renew=args.renew, revoke=args.revoke
    )
    roster = made.roster
    warning = expiry_warning(load_kit(made.kits[0], "server"), now)
    if args.json:
        answer = {
            "serial": roster.serial,
            "fingerprint": roster.fingerprint,
            "expires": roster.expires,
            "kits": [str(kit) for kit in made.kits],
            "changes": list(made.changes),
            "left_out": list(made.left_out),
            "warning": warning,
        }
        print(json.dumps(answer, indent=1))
        return 0
    for kit in made.kits:
        print(kit)
    for line in made.changes:
        print(f"changed: {line}")
    for who in made.left_out:
        print(f"left out: {who}: its key was revoked; take it out of {args.consortium}, or")
        print("          replace its public_key by that of a new key")
    print(f"\nroster {roster.serial} of {roster.consortium}, until {roster.expires}")
    print(f"fingerprint: {roster.fingerprint}")
    print(
        "\nHand each folder to its owner; only `server` holds secrets. Read the fingerprint out by"
    )
    print("phone: a site accepts the roster when both say the same.")
    print(f"{args.out / 'ca'} signs for the consortium: keep it off the network, with a backup.")
    if warning:
        print(f"\nwarning: {warning}")
    return 0
