"""A run folder that grows as a test says, and a client that asks what a browser asks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedward.common.monitoring.map_files import write_maps
from fedward.common.monitoring.stream import LayerFigures, LayerRound
from fedward.server.history import Entry, History
from fedward.server.live.app import make_app
from fedward.server.live.source import Source

SITES = ("north", "south")
LAYERS = ("body.0.weight", "head.weight")
CONFIG = "version: 1\nname: watched\nseed: 1\ntask: ehr-classification\nrounds: {rounds}\n"


class GrowingRun:
    """A run of two sites that keeps its maps."""

    def __init__(self, folder: Path, *, num_rounds: int = 10) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.history = History(folder / "history.jsonl")
        (folder / "config.yaml").write_text(CONFIG.format(rounds=num_rounds), encoding="utf-8")

    def round(self, number: int, *, refused: str | None = None, rests: str | None = None) -> None:
        """Write what one round leaves behind."""
        lines = [self._trained(number, site) for site in SITES if site not in (refused, rests)]
        if refused is not None:
            lines.append(Entry(number, "train", refused, "rejected", reason="<b>too large</b>"))
        if rests is not None:
            lines.append(Entry(number, "train", rests, "skipped", reason="saturated: rests"))
        lines.append(Entry(number, "train", metrics={"train_loss": 1 / number}, seconds=0.5))
        figures = {"eval_loss": 1.1 / number, "auroc": 0.9 - 0.3 / number}
        self.history.add([*lines, Entry(number, "evaluate", metrics=figures)])

    def _trained(self, number: int, site: str) -> Entry:
        layers = {name: layer_round(number, site) for name in LAYERS}
        write_maps(self.folder / "cme", site, number, layers)
        return Entry(
            number,
            "train",
            site,
            num_examples=40,
            metrics={"train_loss": 1 / number},
            bytes_sent=2_000,
            bytes_received=1_000,
            cme={name: found.figures.to_json() for name, found in layers.items()},
            update={"influence": 0.5, "cosine": 0.9, "norm_ratio": 0.1},
            saturated=site == SITES[0] and number > 2,
        )


def layer_round(number: int, site: str) -> LayerRound:
    """Return what a layer of 12 neurons leaves behind."""
    generator = np.random.default_rng([number, len(site)])
    steps_PQ = generator.normal(size=(12, 30)) * 0.5**number
    map_PP = (steps_PQ @ steps_PQ.T).astype(np.float32)
    figures = LayerFigures(-1 - 0.25 * number, 0.5, None if number == 1 else 0.9, 0.2)
    return LayerRound(figures, map_PP, 1e-4 / number, 10, is_sketched=False)


class Page:
    """Asks the application what a browser asks it."""

    def __init__(self, source: Source) -> None:
        app = make_app(source, names=frozenset({"localhost"}))
        self.client = app.server.test_client()
        self._callbacks = self.client.get("/_dash-dependencies").get_json()
        self.props: dict[str, Any] = {"screen.data": "wide", "follow.value": ["newest"]}
        self.texts: list[str] = []

    def open(self) -> None:
        """Fill the page, as it is when it was just opened."""
        self.changed("clock.n_intervals", 1)

    def changed(self, prop: str, value: Any) -> None:
        """Change a property, and run what depends on it until nothing changes any more."""
        self.props[prop] = value
        changed = {prop}
        while changed:
            new: set[str] = set()
            for callback in self._callbacks:
                now = sorted(changed & set(_names(callback["inputs"])))
                if now and callback["clientside_function"] is None:
                    new |= self.run(callback, now)
            changed = new

    def callbacks(self, output: str) -> list[Any]:
        """Return the callbacks that set a property."""
        return [one for one in self._callbacks if output in one["output"].strip(".").split("...")]

    def run(self, callback: Any, changed: list[str]) -> set[str]:
        """Ask for one callback, and return the properties that it changed."""
        outputs = [
            {"id": name, "property": prop}
            for name, _, prop in (
                part.rpartition(".") for part in callback["output"].strip(".").split("...")
            )
        ]
        answer = self.client.post(
            "/_dash-update-component",
            json={
                "output": callback["output"],
                "outputs": outputs if callback["output"].startswith("..") else outputs[0],
                "inputs": self._values(callback["inputs"]),
                "state": self._values(callback["state"]),
                "changedPropIds": changed,
            },
        )
        assert answer.status_code in {200, 204}, answer.text
        self.texts.append(answer.text)
        if answer.status_code == 204:
            return set()
        found = {
            f"{name}.{prop}": value
            for name, props in answer.get_json()["response"].items()
            for prop, value in props.items()
        }
        new = {name for name, value in found.items() if self.props.get(name) != value}
        self.props |= found
        return new - set(changed)

    def _values(self, wanted: Sequence[Any]) -> list[dict[str, Any]]:
        return [
            {"id": one["id"], "property": one["property"], "value": self.props.get(name)}
            for one, name in zip(wanted, _names(wanted), strict=True)
        ]

    def text(self, prop: str) -> str:
        """Return the words in a component."""
        return _words(self.props[prop])

    def charts(self, prop: str) -> dict[str, Any]:
        """Return the figures in a component by the ids of their charts."""
        return dict(_charts(self.props[prop]))


def _names(wanted: Sequence[Any]) -> list[str]:
    return [f"{one['id']}.{one['property']}" for one in wanted]


def _words(component: Any) -> str:
    if isinstance(component, list):
        return " ".join(_words(one) for one in component)
    if isinstance(component, dict):
        return _words(component["props"].get("children"))
    return "" if component is None else str(component)


def _charts(component: Any) -> list[tuple[str, Any]]:
    if isinstance(component, list):
        return [found for one in component for found in _charts(one)]
    if not isinstance(component, dict):
        return []
    props = component["props"]
    if component["type"] == "Graph":
        return [(props["id"].removeprefix("chart-"), props["figure"])]
    return _charts(props.get("children"))
