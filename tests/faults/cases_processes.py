"""Processes that die or stand still in the middle of a round, at a site and at the coordinator."""

import signal
import time

import numpy as np

from tests.faults.federation import SLOW_LOCAL, Federation
from tests.faults.figures import Figure, at_most, case, is_true, none_of
from tests.faults.processes import wait_for
from tests.faults.run_folder import RunFolder, broken_rules

ROUND_LIMIT_S = 75
BACK_LIMIT_S = 120
VICTIM = "bern"


@case("site-killed")
def site_killed() -> list[Figure]:
    """Kill each part of a site in mid-round; its supervisor, or we, start it again at once."""
    figures: list[Figure] = []
    with Federation() as federation:
        run = federation.submit(rounds=400, local=SLOW_LOCAL)
        run.wait_round(1)
        for part in ("worker", "runner", "supernode", None):
            figures += kill_once(federation, run, part)
        figures.append(none_of("broken rules", broken_rules(run)))
        others = set(federation.names) - {VICTIM}
        figures.append(none_of("other sites' replies lost", lost_replies(run, others)))
        federation.stop_run(run)
    return figures


def kill_once(federation: Federation, run: RunFolder, part: str | None) -> list[Figure]:
    """Kill `part` of the victim while it trains; None: the whole client."""
    name = part or "client"
    site = federation.site(VICTIM)
    run.wait_reply(VICTIM, after=run.round_number, within_s=BACK_LIMIT_S + 60)
    site.wait_training()
    number = run.round_number + 1
    killed_at = time.monotonic()
    site.kill(part)
    if part is None:
        site.stop()
        site.start()
    run.wait_round(number, within_s=ROUND_LIMIT_S + 60)
    round_s = time.monotonic() - killed_at
    back_in, _ = run.wait_reply(VICTIM, after=number - 1, within_s=BACK_LIMIT_S + 120)
    back_s = time.monotonic() - killed_at
    missed = f" ({back_in - number} rounds missed)"
    return [
        at_most(f"{name} killed: round ends after, s", round_s, ROUND_LIMIT_S),
        at_most(f"{name} killed: site counts again after, s{missed}", back_s, BACK_LIMIT_S),
    ]


def lost_replies(run: RunFolder, sites: set[str]) -> list[str]:
    """Return the rounds in which one of `sites` did not count."""
    return [
        f"{site} round {number}: {why}"
        for site in sorted(sites)
        for number, why in sorted(run.reasons(site).items())
    ]


@case("quorum")
def quorum() -> list[Figure]:
    """Two of three sites are gone: nothing is aggregated, and then the run heals."""
    with Federation() as federation:
        run = federation.submit(rounds=400, sampling={"deadline_s": 15.0})
        run.wait_round(2)
        gone = [federation.site("bern"), federation.site("cork")]
        for site in gone:
            site.stop()
        number = run.round_number
        time.sleep(60)
        alone = {x["round"] for x in run.closed() if x["round"] > number + 1}
        alone = {one for one in alone if len(run.replies(one)) < 2}
        committed = [x for x in run.closed() if x["round"] in alone and x["status"] == "ok"]
        for site in gone:
            site.start()
        started = time.monotonic()
        back_in, _ = run.wait_reply("bern", after=number, within_s=300)
        run.wait_round(back_in)
        return [
            none_of("rounds aggregated from one reply", committed),
            at_most("sites count again after, s", time.monotonic() - started, BACK_LIMIT_S),
            none_of("broken rules", broken_rules(run)),
        ]


@case("straggler")
def straggler() -> list[Figure]:
    """A worker stands still for longer than the deadline; its late reply is not used."""
    deadline_s = 15.0
    with Federation() as federation:
        local = SLOW_LOCAL
        run = federation.submit(rounds=400, local=local, sampling={"deadline_s": deadline_s})
        run.wait_round(2)
        site = federation.site("cork")
        site.wait_training()
        number = run.round_number + 1
        begun_at = time.monotonic()
        worker = site.part("worker")
        worker.send_signal(signal.SIGSTOP)
        wait_for(lambda: run.replies(number), f"round {number}'s replies", within_s=120)
        training_s = time.monotonic() - begun_at
        worker.send_signal(signal.SIGCONT)
        back_in, _ = run.wait_reply("cork", after=number, within_s=180)
        return [
            at_most("training phase ends after, s", training_s, deadline_s + 5),
            is_true("the straggler did not count", "cork" not in run.replies(number)),
            is_true("the others did", {"aachen", "bern"} <= run.replies(number)),
            at_most("rounds until it counts again", float(back_in - number), 4),
            none_of("broken rules", broken_rules(run)),
        ]


@case("server-killed")
def server_killed() -> list[Figure]:
    """Kill parts of the coordinator in mid-run: the run goes on by itself to the same weights."""
    figures: list[Figure] = []
    with Federation() as federation:
        plan = {"name": "same", "rounds": 6, "local": SLOW_LOCAL}
        undisturbed = federation.submit(**plan)
        undisturbed.wait_end(within_s=300)
        figures.append(is_true("undisturbed run finishes", finished(undisturbed)))
        for part in ("superlink", "front", "run", None):
            run = federation.submit(**plan)
            figures += kill_server_once(federation, run, part)
            same = finished(run) and np.array_equal(run.model(), undisturbed.model())
            figures.append(is_true(f"{part or 'server'} killed: same final weights", same))
            figures.append(none_of(f"{part or 'server'} killed: broken rules", broken_rules(run)))
    return figures


def kill_server_once(federation: Federation, run: RunFolder, part: str | None) -> list[Figure]:
    """Kill `part` of the server in round 3; None: all of it, and start it again."""
    name = part or "server"
    run.wait_round(2, within_s=240)
    site = federation.site("aachen")
    site.wait_training()
    begun = site.num_started()
    number = run.round_number + 1
    killed_at = time.monotonic()
    federation.kill_server(part)
    if part is None:
        federation.stop_server()
        federation.start_server()
    run.wait_round(number, within_s=400)
    back_s = time.monotonic() - killed_at
    run.wait_end(within_s=400)
    # What a kill costs is training that has to be done again.
    repeated = site.num_started() - begun - (run.config["rounds"] - number)
    skipped = sum(line["status"] == "skipped" for line in run.closed())
    return [
        at_most(f"{name} killed: next round ends after, s", back_s, 2 * BACK_LIMIT_S),
        at_most(f"{name} killed: rounds lost", float(repeated + skipped), 1),
    ]


def finished(run: RunFolder) -> bool:
    """Return whether the run came to its last round."""
    return run.status.get("state") == "finished" and run.round_number == run.config["rounds"]
