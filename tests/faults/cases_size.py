"""Large models: half a gigabyte passes once, and what is above the agreed size is refused early."""

import time

from tests.faults.federation import Federation, Site
from tests.faults.figures import Figure, at_most, case, is_true, none_of
from tests.faults.run_folder import RunFolder, broken_rules

ONE_STEP = {"steps": 1, "batch_size": 16}
LARGE = {"name": "mlp", "hidden": [11_170, 11_170]}
"""125 million parameters, 500 MB in float32."""


@case("large-model")
def large_model() -> list[Figure]:
    """Half a gigabyte to two sites and back, once."""
    with Federation(["bern", "cork"]) as federation:
        started = time.monotonic()
        sampling = {"deadline_s": 1200.0}
        run = federation.submit(rounds=1, model=LARGE, local=ONE_STEP, sampling=sampling)
        status = run.wait_end(within_s=1500)
        size = sum(array.nbytes for array in run.checkpoint().values())
        return [
            is_true("the run finishes", status["state"] == "finished", str(status.get("message"))),
            is_true("the model has 500 MB", size > 495e6, f"{size / 1e6:.0f} MB"),
            at_most("seconds in all", time.monotonic() - started, 1500),
            none_of("broken rules", broken_rules(run)),
        ]


@case("too-large-model")
def too_large_model() -> list[Figure]:
    """A model above the sites' limit: refused before anything is trained, with both sizes told."""
    limit = 1_000_000

    def agree(site: Site) -> None:
        site.settings["limits"]["payload_bytes"] = limit

    with Federation(adjust=agree) as federation:
        started = time.monotonic()
        model = {"name": "mlp", "hidden": [1000, 1000]}
        run = federation.submit(
            rounds=2, model=model, local=ONE_STEP, sampling={"max_skipped_rounds": 0}
        )
        status = run.wait_end(within_s=300)
        seconds = time.monotonic() - started
        told = reasons(run)
        begun = [site.name for site in federation.sites.values() if site.num_started()]
        small = federation.submit(rounds=1, local=ONE_STEP)
        return [
            is_true("the run ends as failed", status["state"] == "failed"),
            is_true("the reason names the limit", f"{limit}" in told or "1e+06" in told),
            none_of("sites that began to train", begun),
            at_most("refused after, s", seconds, 90),
            is_true("a small model passes", small.wait_end(120)["state"] == "finished"),
        ]


def reasons(run: RunFolder) -> str:
    """Return all reasons of the history and the status, in one text without thousands marks."""
    lines = [str(line.get("reason", "")) for line in run.history()]
    text = " ".join([*lines, str(run.status.get("message", ""))])
    return text.replace(",", "").replace("_", "")
