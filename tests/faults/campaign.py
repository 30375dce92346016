"""Random kills, cuts and delays for many minutes, from one seed, and what must hold meanwhile.

python -m tests.faults --case campaign [--seed 1] [--minutes 20]
"""

import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.cases_network import way
from tests.faults.federation import Federation
from tests.faults.figures import Figure, at_least, is_true, none_of
from tests.faults.processes import TooLateError
from tests.faults.run_folder import RunFolder, broken_rules

SITES = ("aachen", "bern", "cork", "delft")
UNDISTURBED_S = 120.0
COMMITTED_SHARE = 0.6
LOCAL = {"epochs": 60, "batch_size": 4}


@dataclass
class Watch:
    """Looks at a run again and again; what it saw must never be taken back."""

    run: RunFolder
    broken: list[str] = field(default_factory=list)
    last_checkpoint: int = 0

    def look(self) -> None:
        """Note what is committed now, and what contradicts what was seen before."""
        files = sorted(self.run.path.rglob("round-*.safetensors"))
        newest = int(files[-1].stem.removeprefix("round-")) if files else 0
        if newest < self.last_checkpoint:
            self.broken.append(f"checkpoint {newest} after {self.last_checkpoint}")
        self.last_checkpoint = max(newest, self.last_checkpoint)

    def num_committed(self) -> int:
        """Return the rounds that were aggregated."""
        return sum(line["status"] == "ok" for line in self.run.closed())


def campaign(*, seed: int, minutes: float) -> list[Figure]:
    """Run the campaign and return its figures."""
    rng = random.Random(seed)
    with Federation(SITES) as federation:
        calm = federation.submit(rounds=10_000, local=LOCAL)
        calm.wait_round(1)
        begun = calm.round_number
        time.sleep(min(UNDISTURBED_S, minutes * 60))
        rate = (calm.round_number - begun) / min(UNDISTURBED_S, minutes * 60)
        federation.stop_run(calm)
        run = federation.submit(rounds=10_000, local=LOCAL)
        run.wait_round(1)
        watch, done = Watch(run), []
        before = watch.num_committed()
        ends = time.monotonic() + minutes * 60
        while time.monotonic() < ends:
            done.append(one_fault(federation, rng, watch, ends))
        heal(federation)
        num_committed = watch.num_committed() - before
        wanted = rate * minutes * 60
        stood_still = [] if goes_on(run) else [f"round {run.round_number}"]
        federation.stop_run(run)
        chains = audit_findings(federation)
        return [
            is_true(f"faults: {tally(done)}", bool(done), str(len(done))),
            is_true("undisturbed rounds per minute", rate > 0, f"{rate * 60:.1f}"),
            at_least(
                "committed share of an undisturbed run, %",
                100 * num_committed / wanted,
                100 * COMMITTED_SHARE,
            ),
            none_of("rounds that went back", watch.broken),
            none_of("broken rules", broken_rules(run)),
            none_of("audit logs that are not valid", chains),
            none_of("runs that stood still at the end", stood_still),
        ]


def one_fault(federation: Federation, rng: random.Random, watch: Watch, ends: float) -> str:
    """Do one random thing, let some time pass while looking, and return what it was."""
    site = federation.site(rng.choice(SITES))
    kinds = {
        "kill worker": 3,
        "kill runner": 2,
        "kill supernode": 3,
        "kill run": 1,
        "kill superlink": 1,
        "kill front": 1,
        "cut": 3,
        "silence": 2,
        "drop": 2,
        "hang_up": 2,
        "slow": 3,
        "narrow": 2,
    }
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    lasts_s = rng.uniform(3, 30)
    verb, _, part = kind.partition(" ")
    try:
        if verb == "kill":
            (federation.kill_server if part in {"run", "superlink", "front"} else site.kill)(part)
        elif kind == "slow":
            way(site).line.latency_s = rng.uniform(0.05, 1.0)
        elif kind == "narrow":
            way(site).line.bytes_per_s = rng.uniform(20e3, 2e6)
        else:
            getattr(way(site), kind)()
    except TooLateError:  # the part is just being started again
        kind = f"nothing to {verb}"
    pause(watch, min(lasts_s, ends - time.monotonic()))
    way(site).heal()
    pause(watch, min(rng.uniform(10, 40), ends - time.monotonic()))
    return kind


def pause(watch: Watch, seconds: float) -> None:
    """Look at the run once a second."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        watch.look()
        time.sleep(1)


def heal(federation: Federation) -> None:
    """Take every disturbance away."""
    for site in federation.sites.values():
        way(site).heal()


def goes_on(run: RunFolder) -> bool:
    """Return whether the run commits two more rounds once all is quiet."""
    try:
        run.wait_round(run.round_number + 2, within_s=240)
    except TooLateError:
        return False
    return True


def audit_findings(federation: Federation) -> list[str]:
    """Return what `fedward audit verify` finds at the sites, against all anchors."""
    anchors = federation.folder / "anchors.jsonl"
    lines = [line for path in federation.run_folders() for line in anchor_lines(path)]
    anchors.write_text("".join(lines), encoding="utf-8")
    found: list[str] = []
    for site in federation.sites.values():
        arguments = ["--site", str(site.file), "--anchors", str(anchors), "--json"]
        try:
            federation.fedward("audit", "verify", *arguments)
        except AssertionError as error:
            found.append(f"{site.name}: {str(error)[-200:]}")
    return found


def anchor_lines(folder: Path) -> list[str]:
    """Return the lines of a run's audit log that hold the head of a site's log."""
    text = (folder / "audit.jsonl").read_text(encoding="utf-8")
    return [line + "\n" for line in text.splitlines() if "hash" in json.loads(line)]


def tally(done: list[str]) -> str:
    """Return how often each fault was done."""
    return ", ".join(f"{done.count(kind)} {kind}" for kind in sorted(set(done)))
