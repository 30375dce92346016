"""The same study under Flower's own launcher: `flwr run deploy/flower_app`, for trying out only.

Flower starts this from the bundle and gives each node a number; node k stands for the k-th site of
a shipped configuration. None of a hospital's checks apply here: no request, no approval, no limits.
Hospitals are reached with `fedward submit`, and they never run what is in a bundle.
"""

import logging
from functools import cache

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedward.common.config.loader import load_run_config
from fedward.common.errors import ConfigError
from fedward.common.records import PARAMETERS
from fedward.common.task import Split
from fedward.common.wording import number
from fedward.server.checkpoint import Progress
from fedward.server.plan import make_plan
from fedward.server.rounds import RoundLoop, RoundReport
from fedward.server.strategies import build_strategy
from fedward.simulations.cli import find_config
from fedward.simulations.federation import Federation, build_worker
from fedward.simulations.worker import SiteWorker

SITE_QUERY = "query.site"
TIMEOUT_S = 600.0
log = logging.getLogger("flwr")


def server_app() -> ServerApp:
    """Return the app of the coordinator: the round loop over the nodes that Flower gives it."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        name = str(context.run_config.get("config", "quickstart"))
        rounds = int(context.run_config.get("rounds", 0))
        study = _federation(name)
        nodes = _nodes(grid, name)
        missing = sorted(set(study.sites.site_ids) - set(nodes))
        if missing:
            raise ConfigError(
                f"{name} has {len(study.sites.site_ids)} sites and Flower started "
                f"{len(nodes)} nodes; give it as many: --federation-config num-supernodes="
            )
        shared, vector = study.initial
        plan = make_plan(
            study,
            shared,
            nodes=nodes,
            cohort_bounds={site: study.sites.registered_cohort(site) for site in nodes},
            num_rounds=rounds or study.config.rounds,
        )
        strategy = build_strategy(study.strategy.name, study.strategy.own, num_sites=len(nodes))
        RoundLoop(grid, strategy, plan, on_round=_say).run(Progress(0, {PARAMETERS: vector}))

    return app


def client_app() -> ClientApp:
    """Return the app of a node: the same client app as in a simulation."""
    app = ClientApp()

    @app.query("site")
    def site(message: Message, context: Context) -> Message:
        config = str(message.content.config_records["study"]["config"])
        names = _federation(config).sites.site_ids
        place = int(context.node_config["partition-id"])
        name = names[place] if place < len(names) else ""
        # Flower keeps a node's state for the whole run, also where each message is a new process.
        context.state["study"] = ConfigRecord({"config": config, "site": name})
        return Message(RecordDict({"site": ConfigRecord({"name": name})}), reply_to=message)

    @app.query("statistics")
    def statistics(message: Message, context: Context) -> Message:
        return _answer(message, context)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return _answer(message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return _answer(message, context)

    return app


def _answer(message: Message, context: Context) -> Message:
    known = context.state.config_records["study"]
    place = Context(
        run_id=context.run_id,
        node_id=context.node_id,
        node_config={"site": str(known["site"])},
        state=RecordDict(),
        run_config={},
    )
    return _worker(str(known["config"])).app(message, place)


def _nodes(grid: Grid, config: str) -> dict[str, int]:
    """Return the node of each site, as the nodes themselves say it."""
    queries = [
        Message(
            RecordDict({"study": ConfigRecord({"config": config})}),
            message_type=SITE_QUERY,
            dst_node_id=node,
        )
        for node in grid.get_node_ids()
    ]
    answers = grid.send_and_receive(queries, timeout=TIMEOUT_S)
    found = {
        str(answer.content.config_records["site"]["name"]): answer.metadata.src_node_id
        for answer in answers
        if not answer.has_error()
    }
    found.pop("", None)
    return found


@cache
def _federation(name: str) -> Federation:
    path = find_config(name)
    config = load_run_config(path).config
    split = Split(config.seed, config.data.test_fraction)
    return Federation(config, "federated", split, path.parent)


@cache
def _worker(name: str) -> SiteWorker:
    return build_worker(_federation(name))


def _say(report: RoundReport) -> None:
    figures = ", ".join(f"{key} {number(value)}" for key, value in sorted(report.metrics.items()))
    log.info("round %d/%d: %s", report.number, report.num_rounds, figures or "skipped")
