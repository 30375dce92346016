"""`fedward privacy audit`: is a claim of privacy kept by the code that makes it?"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fedward.deploy.commands.parsing import Commands, add_command
from fedward.simulations.cli import A_BUG

if TYPE_CHECKING:
    from fedward.common.task import Metric
    from fedward.simulations.federation import Federation
    from fedward.simulations.privacy_audit.membership import Membership
    from fedward.simulations.privacy_audit.one_run import SiteAudit

EXAMPLES = """\
  fedward privacy audit private_heart                         four hospitals, about two minutes
  fedward privacy audit run.yaml --seeds 3 --shadows 0        without the attack on the model
  fedward privacy audit run.yaml --set privacy.epsilon=10 --site va --json

exit codes: 0 every bound is below its claim, 70 one is above it: the implementation is broken,
2 configuration
"""
BELOW = "below its claim"
OUT_OF_REACH = "below its claim, which this audit cannot reach: try --set privacy.epsilon=1"
ABOVE = "ABOVE ITS CLAIM: the implementation is broken"
CANNOT_SHOW = (
    "a bound below its claim does not prove the claim: it says that this attack saw no more",
    "the attack sees all updates of a site and may send it any model; it does not see single steps",
    "faults that add little: noise of half the size or one step without it is left to exact tests "
    "(tests/client/test_dp_step.py)",
    "the noise of a simulation follows from its seed; that of a hospital is tested on its own",
)


def add(verbs: Commands) -> None:
    """Add the command to the group `fedward privacy`."""
    parser = add_command(
        verbs,
        "audit",
        _audit,
        about="attack a simulated run's own training, and compare with what it claims",
        examples=EXAMPLES,
    )
    add_config(parser)
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="audits (default: 1)")
    parser.add_argument("--site", action="append", metavar="SITE", help="default: every site")
    parser.add_argument("--canaries", type=int, metavar="M", help="default: as delta allows")
    parser.add_argument(
        "--shadows", type=int, default=32, metavar="S",
        help="shadow models of the attack on the released model; 0: no such attack (default: 32)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="for scripts")


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the configuration and its overrides, as `fedward simulate` takes them."""
    parser.add_argument("config", metavar="CONFIG", help="a run.yaml, or a shipped one")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override one key; may be given several times",
    )  # fmt: skip


@dataclass(frozen=True, repr=False)
class Findings:
    """What the attacks found."""

    audits: "Sequence[SiteAudit]"
    reach: "Sequence[SiteAudit]"
    """Of the same audits without noise."""
    attacks: "Sequence[Membership]" = ()
    plain: "Sequence[Membership]" = ()
    """Of the same attacks on training without privacy."""


def _audit(args: argparse.Namespace) -> int:
    from fedward.common.errors import ConfigError

    if args.seeds < 1:
        raise ConfigError(f"--seeds: given {args.seeds}, expected at least 1")
    federation = opened(args.config, args.overrides)
    with _without_warnings():
        found = _found(federation, args)
    if args.json:
        print(json.dumps(_facts(federation, found), indent=1))
    else:
        for line in _lines(federation, found):
            print(line)
    return A_BUG if any(audit.is_refuted for audit in found.audits) else 0


def _found(federation: "Federation", args: argparse.Namespace) -> Findings:
    from fedward.simulations.privacy_audit.membership import attack_membership
    from fedward.simulations.privacy_audit.one_run import audit_run, without_noise

    seeds = range(federation.seed, federation.seed + args.seeds)
    say = teller()
    audits, reach = (
        audit_run(one, seeds=seeds, sites=args.site, num_canaries=args.canaries, say=say)
        for one in (federation, without_noise(federation))
    )
    if not args.shadows:
        return Findings(audits, reach)
    plain = replace(federation, config=federation.config.model_copy(update={"privacy": None}))
    attacks = [
        attack_membership(one, seeds=seeds, num_shadows=args.shadows, say=say)
        for one in (federation, plain)
    ]
    return Findings(audits, reach, *attacks)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Hold back what a site says of its noise: each shadow model would say it again."""
    log = logging.getLogger("fedward.privacy")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def opened(name: str, overrides: Sequence[str]) -> "Federation":
    """Return the federation of a configuration, on this machine and in this process.

    Raises:
        ConfigError: there is none of that name, or it does not hold together.
    """
    import torch

    from fedward.common.config.loader import load_run_config
    from fedward.common.task import Split
    from fedward.simulations.cli import find_config
    from fedward.simulations.federation import Federation

    torch.set_num_threads(1)  # more make small models slower
    path = find_config(name)
    config = load_run_config(path, list(overrides)).config
    split = Split(config.seed, config.data.test_fraction)
    return Federation(config, "federated", split, path.parent)


def teller() -> Callable[[str], None]:
    """Return what shows progress in one line of a terminal, and says nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda text: None
    return lambda text: print(f"\r\x1b[K{text} ", end="", file=sys.stderr, flush=True)


def _facts(federation: "Federation", found: Findings) -> dict[str, Any]:
    return {
        "name": federation.config.name,
        "audits": [audit.to_dict() for audit in found.audits],
        "without_noise": [audit.to_dict() for audit in found.reach],
        "membership": [attack.to_dict() for attack in found.attacks],
        "membership_without_privacy": [attack.to_dict() for attack in found.plain],
        "cannot_show": list(CANNOT_SHOW),
    }


def _lines(federation: "Federation", found: Findings) -> Iterator[str]:
    from fedward.simulations.privacy_audit.one_run import CONFIDENCE

    bound = found.audits[0].bound
    yield (
        f"{federation.config.name}: {bound.num_canaries} canaries at each site, their gradients "
        f"{found.audits[0].loudness:.2g} times as long as the bound"
    )
    yield ""
    yield (
        f"{'site':<16}{'seed':>6}{'patients':>10}  {'lower bound':>11}  {'claim':>7}"
        f"  {'without noise':>13}  verdict"
    )
    for audit, off in zip(found.audits, found.reach, strict=True):
        in_reach = off.bound.epsilon_low > audit.claim
        verdict = ABOVE if audit.is_refuted else BELOW if in_reach else OUT_OF_REACH
        yield (
            f"{audit.site:<16}{audit.seed:>6}{audit.num_patients:>10}"
            f"  {audit.bound.epsilon_low:>11.2f}  {audit.claim:>7.3g}"
            f"  {off.bound.epsilon_low:>13.2f}  {verdict}"
        )
    yield (
        f"epsilon at delta {bound.delta:g}; the bounds of a column hold together with "
        f"{CONFIDENCE:.0%} confidence"
    )
    if found.attacks:
        yield from _of_membership(found)
    yield ""
    for text in CANNOT_SHOW:
        yield f"not shown       {text}"


def _of_membership(found: Findings) -> Iterator[str]:
    first = found.attacks[0]
    yield ""
    yield (
        f"who was trained on? {first.num_members} members and {first.num_others} others, told "
        "apart by the released model"
    )
    yield f"{'':<16}{'seed':>6}  {'AUC (0.5: guessing)':<24}  found at 1 % false (0.01: guessing)"
    for name, attacks in (("as configured", found.attacks), ("without privacy", found.plain)):
        for attack in attacks:
            auc, tpr = _with_interval(attack.auc), _with_interval(attack.tpr)
            yield f"{name:<16}{attack.seed:>6}  {auc:<24}  {tpr}"


def _with_interval(metric: "Metric") -> str:
    return f"{metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f})"
