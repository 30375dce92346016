"""A registered site that lies in every way that the protocol leaves to it."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.federation import Federation, Site, free_port
from tests.faults.figures import Figure, case, is_true, none_of
from tests.faults.lies import DUPLICATE, LIES
from tests.faults.processes import Tree, wait_for
from tests.faults.run_folder import RunFolder, broken_rules

LIAR = "cork"
ROOT = Path(__file__).parents[2]


@case("lies")
def lies() -> list[Figure]:
    """One lie a round beside two honest sites: every lie is rejected, no honest reply is."""
    with Federation() as federation:
        site = federation.site(LIAR)
        site.stop()
        with hostile(site) as told:
            run = federation.submit(rounds=len(LIES) + 3, sampling={"deadline_s": 60.0})
            run.wait_end(within_s=900)
            return judge(run, told, set(federation.names) - {LIAR})


@contextmanager
def hostile(site: Site, *arguments: str) -> Iterator[Path]:
    """Let the site's SuperNode serve a liar instead of runner and worker; yield what it told."""
    from fedward.client.resident.commands import site_processes
    from fedward.common.config.site import load_site_config
    from fedward.common.kit import load_kit

    port, told = free_port(), site.folder / "told.jsonl"
    loaded, kit = load_site_config(site.file), load_kit(site.kit, "site")
    supernode = site_processes(loaded, kit, accept="0" * 64, port=port)[-1]
    env = {**site.env, **supernode.env}
    command = [sys.executable, "-m", "tests.faults.hostile_site", "--site", str(site.file)]
    command += ["--kit", str(site.kit), "--port", str(port), "--told", str(told), *arguments]
    found = {**site.env, "PYTHONPATH": str(ROOT)}
    trees = [
        Tree([*site.prefix, *supernode.argv], site.folder / "hostile-supernode.log", env).start(),
        Tree([*site.prefix, *command], site.folder / "hostile.log", found).start(),
    ]
    try:
        wait_for(lambda: "ready" in trees[1].text(), "the hostile site", within_s=60)
        yield told
    finally:
        for tree in trees:
            tree.stop()


def judge(run: RunFolder, told: Path, honest: set[str]) -> list[Figure]:
    """Compare what was told with what the coordinator wrote down."""
    lines = [json.loads(line) for line in told.read_text(encoding="utf-8").splitlines()]
    by_round = {line["round"]: line["lie"] for line in lines if line["lie"] != DUPLICATE}
    believed = [lie for number, lie in by_round.items() if LIAR in run.replies(number)]
    rejected = [lie for number, lie in by_round.items() if LIAR in run.replies(number, "rejected")]
    elsewhere = [lie for lie in by_round.values() if lie not in [*rejected, *believed]]
    lost = [f"{site}: {run.reasons(site)}" for site in sorted(honest) if run.reasons(site)]
    return [
        is_true("all lies were told", set(by_round.values()) == set(LIES), str(len(by_round))),
        none_of("lies believed", believed),
        none_of("lies that failed without a reason of the coordinator's", elsewhere),
        none_of("honest replies rejected", lost),
        is_true("the run finishes", run.status.get("state") == "finished"),
        none_of("broken rules", broken_rules(run)),
    ]
