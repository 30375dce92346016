"""Bad networks between the sites and the coordinator."""

import time

from tests.faults.federation import SLOW_LOCAL, Federation, Site
from tests.faults.figures import Figure, at_most, case, is_true, none_of
from tests.faults.run_folder import RunFolder, broken_rules
from tests.faults.tcp_proxy import TcpProxy

HEALS_WITHIN_S = 60
WIDE = {"name": "mlp", "hidden": [512, 512]}
"""About 1.1 MB, so that a narrow line is felt."""


@case("network")
def network() -> list[Figure]:
    """Cut one site off, swallow its traffic, cut off everybody; then a slow and a narrow line."""
    figures: list[Figure] = []
    with Federation() as federation:
        run = federation.submit(rounds=400, local=SLOW_LOCAL, sampling={"deadline_s": 45.0})
        run.wait_round(1)
        bern, everybody = [federation.site("bern")], list(federation.sites.values())
        figures += disturb(run, bern, "cut", 20)
        figures += disturb(run, bern, "cut", 90)
        figures += disturb(run, bern, "silence", 40)
        figures += disturb(run, bern, "hang_up", 10)
        figures += disturb(run, everybody, "cut", 30)
        figures.append(none_of("broken rules", broken_rules(run)))
        federation.stop_run(run)
    return figures


def disturb(run: RunFolder, sites: list[Site], how: str, seconds: float) -> list[Figure]:
    """Disturb the sites' lines for a while, and measure until they count again."""
    sites[0].wait_training(within_s=180)
    for site in sites:
        getattr(way(site), how)()
    time.sleep(seconds)
    for site in sites:
        way(site).heal()
    healed_at = time.monotonic()
    number = run.round_number
    for site in sites:
        run.wait_reply(site.name, after=number, within_s=240)
    what = f"{how} of {len(sites)} for {seconds:.0f} s: counts again after, s"
    return [at_most(what, time.monotonic() - healed_at, HEALS_WITHIN_S)]


def way(site: Site) -> TcpProxy:
    """Return the proxy through which the site reaches the server."""
    assert site.way is not None
    return site.way


@case("slow-network")
def slow_network() -> list[Figure]:
    """100 ms each way and 2 MB/s: slower, and nothing else."""
    figures: list[Figure] = []
    with Federation() as federation:
        for name, latency_s, rate in (("plain", 0.0, None), ("slow", 0.1, None), ("2MB", 0.0, 2e6)):
            for site in federation.sites.values():
                way(site).line.latency_s, way(site).line.bytes_per_s = latency_s, rate
            run = federation.submit(rounds=3, model=WIDE)
            status = run.wait_end(within_s=300)
            seconds = [float(line["seconds"]) for line in run.closed()]
            figures += [
                is_true(f"{name}: run finishes", status["state"] == "finished"),
                at_most(f"{name}: longest round, s", max(seconds, default=999.0), 60),
                none_of(f"{name}: replies that did not count", refused(run)),
            ]
    return figures


def refused(run: RunFolder) -> list[str]:
    """Return every reply that did not count."""
    return [f"{x['site']}: {x.get('reason')}" for x in run.history() if x["status"] != "ok"]
