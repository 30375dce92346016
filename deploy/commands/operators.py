"""`fedward submit`, `runs`, `stop` and `logs`: what operators do, from their own machine."""

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedward.common.errors import TrustError
from fedward.deploy.commands.parsing import Commands, add_command

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from fedward.common.config.loader import LoadedConfig
    from fedward.common.kit import Kit
    from fedward.deploy.submissions import Submission

_SUBMIT = """\
  fedward submit run.yaml --kit kits/operator-anna --key anna.key --wait
  fedward submit run.yaml --kit kits/operator-anna --key anna.key --set rounds=20
"""


def add(commands: Commands) -> None:
    """Add the commands to the parser."""
    submit = add_command(
        commands, "submit", _submit, about="sign a run and ask the sites for it", examples=_SUBMIT
    )
    submit.add_argument("config", metavar="CONFIG", help="a run.yaml, or a shipped configuration")
    _add_kit_and_key(submit)
    submit.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one key, such as rounds=20; may be given several times",
    )
    submit.add_argument("--wait", action="store_true", help="show the log until the run is over")
    submit.add_argument("--json", action="store_true", help="for scripts")
    runs = add_command(
        commands,
        "runs",
        _runs,
        about="the coordinator's newest runs",
        examples="  fedward runs --kit kits/operator-anna --key anna.key",
    )
    _add_kit_and_key(runs)
    runs.add_argument("--json", action="store_true", help="for scripts")
    stop = add_command(
        commands,
        "stop",
        _stop,
        about="end a run for good",
        examples="  fedward stop 3f2a91c0 --kit kits/operator-anna --key anna.key",
    )
    stop.add_argument("run", metavar="RUN", help="as `fedward runs` shows it")
    _add_kit_and_key(stop)
    logs = add_command(
        commands,
        "logs",
        _logs,
        about="what a run has said so far",
        examples="  fedward logs 3f2a91c0 --kit kits/operator-anna --key anna.key --follow",
    )
    logs.add_argument("run", metavar="RUN", help="as `fedward runs` shows it")
    _add_kit_and_key(logs)
    logs.add_argument("--follow", action="store_true", help="wait for more until the run is over")


def _add_kit_and_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kit", type=Path, required=True, metavar="KIT", help="the operator's folder"
    )
    parser.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help="the operator's private key"
    )


def _submit(args: argparse.Namespace) -> int:
    from fedward.common.config.loader import load_run_config
    from fedward.common.deployment import make_request
    from fedward.common.request import sign_request
    from fedward.deploy.bundle import bundle
    from fedward.deploy.submissions import control_of
    from fedward.simulations.cli import find_config

    kit, key = _kit_and_key(args)
    path = find_config(args.config)
    loaded = load_run_config(path, args.overrides)
    _check_synthesis(loaded)
    request = make_request(loaded.config, kit.name, base_dir=path.parent, consortium=kit.consortium)
    with control_of(kit, key) as control:
        run_id = control.start_run(bundle(), sign_request(request, key))
    if args.wait:
        print(f"run {request.hash[:8]} submitted", file=sys.stderr)
        return _follow(kit, key, name=request.hash, as_json=args.json)
    submitted = {"run": request.hash[:8], "request": request.hash, "flower_run": run_id}
    if args.json:
        print(json.dumps(submitted))
    else:
        more = f"fedward logs {request.hash[:8]} --kit {args.kit} --key {args.key} --follow"
        print(f"{request.hash[:8]}\nfollow it: {more}")
    return 0


def _check_synthesis(loaded: "LoadedConfig") -> None:
    """Refuse here, not at each site, a synthesiser whose rows no site lets out."""
    from fedward.common.config.loader import errors_point_to

    if loaded.config.synthesis is not None:
        from fedward.client.synthetic_rows import check_method  # scikit-learn: seconds

        with errors_point_to(loaded, "synthesis"):
            check_method(loaded.config.synthesis)


def _runs(args: argparse.Namespace) -> int:
    from fedward.deploy.submissions import control_of, submissions

    kit, key = _kit_and_key(args)
    with control_of(kit, key) as control:
        found = submissions(control, kit)
    if args.json:
        print(json.dumps([one.as_dict() for one in found], indent=1))
        return 0
    for one in found:
        print(_line(one))
    if not found:
        print("no runs yet; ask for one: fedward submit run.yaml", file=sys.stderr)
    return 0


def _stop(args: argparse.Namespace) -> int:
    from fedward.deploy.submissions import control_of, stop

    kit, key = _kit_and_key(args)
    with control_of(kit, key) as control:
        print(_line(stop(control, kit, args.run)))
    return 0


def _logs(args: argparse.Namespace) -> int:
    from fedward.deploy.submissions import control_of, find

    kit, key = _kit_and_key(args)
    if args.follow:
        return _follow(kit, key, name=args.run, as_json=False)
    with control_of(kit, key) as control:
        for run in reversed(find(control, kit, args.run).flower_runs):
            if run.status in {"running", "finished"}:
                for piece in control.logs(run.run_id):
                    print(piece, end="")
    return 0


def _follow(kit: "Kit", key: "ec.EllipticCurvePrivateKey", *, name: str, as_json: bool) -> int:
    from fedward.deploy.submissions import Follower

    shown = sys.stderr if as_json else sys.stdout
    follower = Follower(
        kit, key, name=name, say=lambda text: print(text, end="", file=shown, flush=True)
    )
    over = follower.until_over()
    code, message = over.outcome
    if as_json:
        print(json.dumps(over.as_dict(), indent=1))
    print(f"run {over.short} {over.state}{message and ': '}{message}", file=sys.stderr)
    return code


def _line(one: "Submission") -> str:
    when = datetime.datetime.fromisoformat(one.request.submitted)
    name, message = one.request.config.get("name", ""), one.outcome[1]
    tail = f"  {message}" if message else ""
    return (
        f"{one.short}  {one.state:<11}  {when:%Y-%m-%d %H:%M}  {one.request.operator}  {name}{tail}"
    )


def _kit_and_key(args: argparse.Namespace) -> tuple["Kit", "ec.EllipticCurvePrivateKey"]:
    from fedward.common.keys import load_key
    from fedward.common.kit import expiry_warning, load_kit

    kit, key = load_kit(args.kit.absolute(), "operator"), load_key(args.key)
    _check_key(kit, key, args.key)
    warning = expiry_warning(kit, datetime.datetime.now(datetime.UTC))
    if warning is not None:
        print(f"warning: {warning}", file=sys.stderr)
    return kit, key


def _check_key(kit: "Kit", key: "ec.EllipticCurvePrivateKey", path: Path) -> None:
    """Say here, not in each site's log, that this is another operator's key."""
    from fedward.common.keys import public_text

    if public_text(key) != kit.roster.operator(kit.name).public_key:
        raise TrustError(
            f"{path}: not the key of operator {kit.name} in the roster; give the key that "
            "`fedward enroll` made, or ask the coordinator for a new kit"
        )
