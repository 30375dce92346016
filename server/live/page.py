"""The frame of the live page: headings, controls, and places that are filled while it is open."""

from typing import Any

from dash import dcc, html

from fedward.server.live.aria import aria
from fedward.server.live.source import Source

ABOUT = {
    "run": "Follows a run by reading its folder. It changes nothing, and only this folder is read.",
    "site": (
        "The covariance maps that runs left at this hospital. They were computed here, lie beside "
        "the hospital's database, and never leave it."
    ),
}
DRAWN = ("maps-drawn", "layer-drawn")
"""What says up to which version the slower sections are drawn."""
SECTIONS = {
    "run": (
        ("learning", "Learning"),
        ("participation", "Participation"),
        ("maps", "Covariance maps"),
        ("layer", "Movement of the layer"),
        ("influence", "Influence"),
        ("cost", "Time and traffic"),
        ("configuration", "Configuration"),
    ),
    "site": (("maps", "Covariance maps"), ("layer", "Movement of the layer")),
}
"""What each kind of page has, in order; a section without anything to say is hidden."""


def layout(source: Source, *, interval_s: float) -> html.Div:
    """Return the whole page, empty."""
    sections = SECTIONS[source.kind]
    return html.Div(
        [
            dcc.Interval(id="clock", interval=round(interval_s * 1000)),
            dcc.Store(id="seen"),
            dcc.Store(id="filled"),
            *(dcc.Store(id=key) for key in DRAWN),
            dcc.Store(id="screen", data="wide"),
            _header(source, sections),
            html.Main([_section(key, title) for key, title in sections], id="main"),
            html.Footer(html.P("fedward monitor. Reads only; nothing is sent anywhere.")),
        ]
    )


def _header(source: Source, sections: tuple[tuple[str, str], ...]) -> html.Header:
    return html.Header(
        [
            html.A("Skip to the content", href="#main", className="skip"),
            html.P("Live run" if source.kind == "run" else "Hospital", className="eyebrow"),
            html.H1(source.title),
            html.P(ABOUT[source.kind], className="subtitle"),
            html.P("", id="lost", className="banner", role="alert", hidden=True),
            html.Div(
                [html.Span(id="word"), " ", html.Span(id="sentence")],
                id="state",
                role="status",
                **aria(live="polite"),
            ),
            html.Progress(id="progress", max="1", value="0", **aria(label="Rounds done")),
            html.P(id="since", className="note"),
            _choice("part", "Repetition" if source.kind == "run" else "Run", hidden=True),
            html.Dl(id="facts", className="facts"),
            html.Nav(
                html.Ul(
                    [html.Li(html.A(t, href=f"#{k}", id=f"to-{k}")) for k, t in sections],
                ),
                **aria(label="Sections"),
            ),
        ]
    )


def _section(key: str, title: str) -> html.Section:
    heading = html.H2(title, id=f"{key}-title")
    content: list[Any] = {
        "participation": [html.Div(id="sites"), html.Div(id="replies")],
        "maps": _maps(),
        "layer": [_acf()],
    }.get(key, [])
    body = [] if key == "maps" else [html.Div(id=f"{key}-body")]
    return html.Section([heading, *body, *content], id=key, **aria(labelledby=f"{key}-title"))


def _acf() -> html.Div:
    return html.Div(
        [
            html.H3("Lag-1 ACF by layer, as in the paper"),
            _choice("acf-site", "Site"),
            html.Div(id="acf-body"),
        ],
        id="acf",
        hidden=True,
    )


def _maps() -> list[Any]:
    return [
        _choice("layer-name", "Layer"),
        html.Div(
            [
                html.Div(
                    [
                        html.Span("Round", id="round-label", className="label"),
                        dcc.Slider(
                            id="round",
                            min=1,
                            max=2,
                            step=1,
                            value=1,
                            marks={},
                            included=False,
                            allow_direct_input=False,
                            updatemode="drag",
                        ),
                    ],
                    className="round",
                ),
                dcc.Checklist(
                    id="follow",
                    options=[{"label": "Follow the newest round", "value": "newest"}],
                    value=["newest"],
                ),
            ],
            id="map-controls",
            className="controls",
        ),
        html.P(id="round-words", className="note", role="status"),
        html.Div(id="maps-body"),
    ]


def _choice(key: str, label: str, *, hidden: bool = False) -> html.Fieldset:
    """Return buttons to choose one thing from, with the words that say what."""
    return html.Fieldset(
        [
            html.Legend(label, className="label"),
            dcc.RadioItems(id=key, options=[], inline=True),
        ],
        id=f"{key}-choice",
        className="choice",
        hidden=hidden,
    )
