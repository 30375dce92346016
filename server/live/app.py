"""The live page as a Dash application: what is filled in when, and from what.

A clock in the browser asks how the run gets on. Everything else is drawn again only once the answer
says that something changed.
"""

import base64
import hashlib
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from dash import Dash, Input, Output, State, ctx, html, no_update
from flask import Flask

from fedward.common.page.house import house_css
from fedward.server.live import draw, tables
from fedward.server.live.aria import aria
from fedward.server.live.guard import policy, protect
from fedward.server.live.page import DRAWN, SECTIONS, layout
from fedward.server.live.source import Snapshot, Source
from fedward.server.live.state import State as RunState
from fedward.server.report.monitoring import Monitoring

NEWEST = "newest"
MAX_MARKS, MAX_NARROW_MARKS = 12, 5
SCREEN = (
    "function (n, seen) {"
    " const now = window.innerWidth < 760 ? 'narrow' : 'wide';"
    " return now === seen ? window.dash_clientside.no_update : now; }"
)
MAX_DRAWING_S = 60.0
"""After so long the browser is not waited for: a request of it may have failed."""
Seen = dict[str, Any]


def make_app(source: Source, *, names: frozenset[str], interval_s: float = 2.0) -> Dash:
    """Return the application that shows `source`.

    Args:
        source: what is followed.
        names: by which browsers may ask for the page, beside any address.
        interval_s: seconds between two looks at the folder, > 0.
    """
    here = Path(__file__).parent
    # Told where it is: Flask cannot find a package whose parent is spread over folders.
    server: Any = Flask(__name__, static_folder=None, root_path=str(here), instance_path=str(here))
    app = Dash(
        __name__,
        server=server,
        title=f"{source.title} – fedward monitor",
        update_title="",
        assets_folder=str(here / "no-assets"),
        include_assets_files=False,
        use_pages=False,
        serve_locally=True,
        add_log_handler=False,
        enable_mcp=False,
    )
    script = _asset("live.js").replace("INTERVAL_S", f"{interval_s:g}")
    app.index_string = _index(script)
    app.layout = layout(source, interval_s=interval_s)
    _Callbacks(source).register(app)
    hashes = [*app.csp_hashes(), _hash(script)]
    protect(app.server, names=names, content_policy=policy(hashes))
    return app


class _Callbacks:
    """What the page asks for while it is open."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def register(self, app: Dash) -> None:
        app.clientside_callback(  # type: ignore[no-untyped-call]
            SCREEN, Output("screen", "data"), Input("clock", "n_intervals"), State("screen", "data")
        )
        app.callback(
            {
                "word": Output("word", "children"),
                "kind": Output("word", "className"),
                "sentence": Output("sentence", "children"),
                "since": Output("since", "children"),
                "done": Output("progress", "value"),
                "total": Output("progress", "max"),
                "no_total": Output("progress", "hidden"),
                "parts": Output("part", "options"),
                "part": Output("part", "value"),
                "one_part": Output("part-choice", "hidden"),
                "seen": Output("seen", "data"),
            },
            Input("clock", "n_intervals"),
            Input("part", "value"),
            State("seen", "data"),
            *(State(key, "data") for key in DRAWN),
            # Dash drops an answer once it has asked again: a slow machine would never get one.
            running=[(Output("clock", "disabled"), True, False)],
        )(self.tick)
        names = [key for key, _ in SECTIONS[self.source.kind]]
        outputs = {"facts": Output("facts", "children"), "filled": Output("filled", "data")}
        outputs |= {f"{key}-hidden": Output(key, "hidden") for key in names}
        outputs |= {f"{key}-link": Output(f"to-{key}", "hidden") for key in names}
        drawn = [key for key in names if key not in {"maps", "layer"}]
        outputs |= {key: Output(f"{key}-body", "children") for key in drawn}
        if "participation" in names:
            outputs |= {key: Output(key, "children") for key in ("sites", "replies")}
        app.callback(outputs, Input("seen", "data"), Input("screen", "data"))(self.fill)
        self._register_maps(app)

    def _register_maps(self, app: Dash) -> None:
        # After the sections: plotly measures a chart's place, and a hidden one has no width.
        app.callback(
            Output("layer-name", "options"),
            Output("layer-name", "value"),
            Output("acf-site", "options"),
            Output("acf-site", "value"),
            Output("acf", "hidden"),
            Input("filled", "data"),
            State("layer-name", "value"),
            State("acf-site", "value"),
        )(self.choices)
        app.callback(
            {
                "min": Output("round", "min"),
                "max": Output("round", "max"),
                "marks": Output("round", "marks"),
                "value": Output("round", "value"),
                "follow": Output("follow", "value"),
                "hidden": Output("map-controls", "hidden"),
            },
            Input("filled", "data"),
            Input("screen", "data"),
            Input("round", "value"),
            Input("follow", "value"),
            State("round", "max"),
        )(self.slide)
        app.callback(
            Output("maps-body", "children"),
            Output("round-words", "children"),
            Output(DRAWN[0], "data"),
            Input("round", "value"),
            Input("layer-name", "value"),
            Input("filled", "data"),
            Input("screen", "data"),
        )(self.maps)
        app.callback(
            Output("layer-body", "children"),
            Output("acf-body", "children"),
            Output(DRAWN[1], "data"),
            Input("layer-name", "value"),
            Input("acf-site", "value"),
            Input("filled", "data"),
            Input("screen", "data"),
        )(self.layer)

    def tick(
        self, _: int | None, chosen: str | None, seen: Seen | None, *drawn: str | None
    ) -> dict[str, Any]:
        """Say how it gets on, and whether there is anything new to draw.

        Nothing is new while the browser still draws what was new before.
        """
        parts = self.source.parts()
        part = chosen if chosen in parts else parts[-1]
        snapshot = self.source.snapshot(part)
        state = self.source.state(part, snapshot)
        now = {"part": part, "version": snapshot.version, "at_s": time.time()}
        is_new = seen is None or (seen["part"], seen["version"]) != (part, snapshot.version)
        waits = is_new and _still_draws(seen, part, drawn)
        newest = {"label": f"newest ({parts[-1]})" if parts[-1] else "newest", "value": NEWEST}
        return {
            "word": state.word,
            "kind": f"word {state.word}",
            "sentence": _sentence(state, snapshot),
            "since": state.since,
            "done": str(state.done),
            "total": str(state.total or 1),
            "no_total": state.total is None,
            "parts": [newest, *({"label": name, "value": name} for name in parts if name)],
            "part": chosen if chosen in parts else NEWEST,
            "one_part": len(parts) == 1,
            "seen": now if is_new and not waits else no_update,
        }

    def fill(self, seen: Seen | None, screen: str) -> dict[str, Any]:
        """Fill the sections, and hide those that have nothing to say."""
        snapshot, narrow = self._snapshot(seen), screen == "narrow"
        first = draw.headline(snapshot.rounds)
        content: dict[str, Any] = {
            "learning": draw.learning(snapshot, narrow=narrow),
            "participation": draw.participation(snapshot, narrow=narrow),
            "influence": draw.influence(snapshot, narrow=narrow),
            "cost": draw.cost(snapshot, narrow=narrow),
            "configuration": self._configuration(),
        }
        found = snapshot.monitoring
        there = {key: bool(value) for key, value in content.items()}
        there["maps"] = there["layer"] = found is not None and bool(found.layers)
        if self.source.kind == "site":
            content = {}
        else:
            content["sites"] = tables.sites_table(snapshot)
            content["replies"] = tables.replies_table(snapshot)
        names = [key for key, _ in SECTIONS[self.source.kind]]
        hidden = {f"{key}-hidden": not there[key] for key in names}
        links = {f"{key}-link": not there[key] for key in names}
        shown = {"facts": tables.facts(snapshot, first), "filled": seen}
        return {**shown, **hidden, **links, **content}

    def choices(self, seen: Seen | None, layer: str | None, site: str | None) -> tuple[Any, ...]:
        """Return the layers and sites to choose from; the choice stays while it is there."""
        found = self._snapshot(seen).monitoring
        layers = found.layers if found is not None else []
        sites = _sites_with_acf(found)
        # What comes last often has two neurons, whose map is four squares.
        usual = layers[-2:][0] if layers else None
        chosen = layer if layer in layers else usual
        acf = site if site in sites else (sites[0] if sites else None)
        return layers, chosen, sites, acf, not sites

    def slide(
        self,
        seen: Seen | None,
        screen: str,
        value: int | None,
        follow: Sequence[str],
        shown_last: int,
    ) -> dict[str, Any]:
        """Move the slider along with the rounds, until somebody moves it to another one."""
        numbers = _rounds_with_maps(self._snapshot(seen).monitoring)
        if not numbers:
            kept: dict[str, Any] = dict.fromkeys(("min", "max", "marks", "value", "follow"))
            return {**dict.fromkeys(kept, no_update), "hidden": True}
        first, last = numbers[0], numbers[-1]
        asked = {entry["prop_id"].split(".")[0] for entry in ctx.triggered}
        follows = bool(follow)
        if "round" in asked and "follow" not in asked and value is not None:
            # What was moved counts, also where a round came at the same time.
            follows = value >= min(shown_last, last)
        at = last if follows or value is None else min(max(value, first), last)
        most = MAX_NARROW_MARKS if screen == "narrow" else MAX_MARKS
        return {
            "min": first,
            "max": max(last, first + 1),
            "marks": _marks(first, last, most),
            "value": no_update if at == value else at,
            "follow": no_update if follows == bool(follow) else ([NEWEST] if follows else []),
            "hidden": len(numbers) < 2,
        }

    def maps(
        self, number: int | None, layer: str | None, seen: Seen | None, screen: str
    ) -> tuple[Any, str, str | None]:
        """Return the maps of the round on the slider, which round that is, and the version."""
        return *self._maps(number, layer, seen, screen), (seen or {}).get("version")

    def _maps(
        self, number: int | None, layer: str | None, seen: Seen | None, screen: str
    ) -> tuple[Any, str]:
        found = self._snapshot(seen).monitoring
        numbers = _rounds_with_maps(found)
        if found is None or layer is None:
            return [], ""
        if not numbers:
            return [], (
                "No maps are kept: a simulation keeps them with monitor.cme.maps, a hospital shows "
                "its own with fedward monitor site.yaml."
            )
        at = number if number in numbers else min(numbers, key=lambda n: abs(n - (number or n)))
        newest = ", the newest" if at == numbers[-1] else f"; the newest is round {numbers[-1]}"
        return draw.maps(found, layer, at, narrow=screen == "narrow"), f"Round {at}{newest}."

    def layer(
        self, layer: str | None, site: str | None, seen: Seen | None, screen: str
    ) -> tuple[list[Any], list[Any], str | None]:
        """Return the curves of the layer, the ACF where maps are kept, and the version."""
        version = (seen or {}).get("version")
        found, narrow = self._snapshot(seen).monitoring, screen == "narrow"
        if found is None or layer not in found.layers:
            return [], [], version
        words = html.P(_layer_words(found, self.source.kind), className="note")
        curves = [words, *draw.layer_figures(found, layer, narrow=narrow)]
        if site is None or site not in _sites_with_acf(found):
            return curves, [], version
        return curves, draw.acf(found, site, narrow=narrow), version

    def _snapshot(self, seen: Seen | None) -> Snapshot:
        parts = self.source.parts()
        part = (seen or {}).get("part", parts[-1])
        version = (seen or {}).get("version")
        return self.source.snapshot(part if part in parts else parts[-1], version)

    def _configuration(self) -> list[Any]:
        text = self.source.config_text
        if not text:
            return []
        shown = html.Pre(text, tabIndex="0", **aria(label="config.yaml"))
        return [html.Details([html.Summary("config.yaml"), shown])]


def _still_draws(seen: Seen | None, part: str, drawn: Sequence[str | None]) -> bool:
    """Return whether the browser is about to draw an earlier version of the same part."""
    if seen is None or seen["part"] != part or time.time() - seen["at_s"] > MAX_DRAWING_S:
        return False
    return any(version != seen["version"] for version in drawn)


def _sentence(state: RunState, snapshot: Snapshot) -> str:
    of = f"{state.done} of {state.total} rounds are done. " if state.done and state.total else ""
    bad = snapshot.num_unreadable
    lines = f" {bad} line{'s' * (bad > 1)} of the history could not be read." if bad else ""
    return f"{of}{state.sentence}{lines}"


def _layer_words(found: Monitoring, kind: str) -> str:
    if kind == "site":
        return "How the weights of the layer moved within each round that this hospital trained."
    rounded = (
        " Unprotected telemetry: the figures are computed from unprotected weights, and rounded."
        if found.is_quantised
        else ""
    )
    return (
        "How the weights of the layer moved within each round. A ring marks rounds after which a "
        f"site was saturated, which is advice and not a verdict.{rounded}"
    )


def _rounds_with_maps(found: Monitoring | None) -> list[int]:
    return sorted({n for files in found.maps.values() for n in files}) if found is not None else []


def _sites_with_acf(found: Monitoring | None) -> list[str]:
    if found is None:
        return []
    return [
        name for name, site in found.sites.items() if any("acf" in f for f in site.layers.values())
    ]


def _marks(first: int, last: int, most: int) -> dict[str, str]:
    """Return the rounds that are written below the slider, the first and the last among them."""
    step = max(1, -(-(last - first) // max(1, most - 1)))
    shown = [number for number in range(first, last + 1, step) if last - number >= step]
    return {str(number): str(number) for number in [*shown, last]}


def _index(script: str) -> str:
    sheets = (house_css(), _asset("report.css", "fedward.server.report"), _asset("live.css"))
    style = "".join(sheets)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
{{%metas%}}
<title>{{%title%}}</title>
<link rel="icon" href="data:,">
{{%css%}}
<style>{style}</style>
</head>
<body>
{{%app_entry%}}
{{%config%}}
{{%scripts%}}
{{%renderer%}}
<script>{script}</script>
<noscript>This page needs JavaScript.</noscript>
</body>
</html>"""


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _asset(name: str, package: str = "fedward.server.live") -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
