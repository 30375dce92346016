"""What the live page says in words and tables: the newest figures, sites, and replies not taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dash import html

from fedward.common.wording import duration, number, size, title
from fedward.server.live.aria import aria
from fedward.server.live.source import Snapshot
from fedward.server.report.series import Floats

MAX_SITES = 200
MAX_REPLIES = 100
REFUSED = ("rejected", "failed")


@dataclass
class SiteRow:
    """What one site did so far."""

    last_round: int = 0
    last_status: str = ""
    num_accepted: int = 0
    num_refused: int = 0
    num_rests: int = 0
    num_examples: int | None = None
    train_loss: float | None = None
    is_saturated: bool | None = None
    epsilon: float | None = None
    num_bytes: int = 0

    def add(self, line: Mapping[str, Any]) -> None:
        """Take in a line of the history; later lines replace earlier ones."""
        self.num_bytes += int(line.get("bytes_sent") or 0) + int(line.get("bytes_received") or 0)
        if isinstance(line.get("epsilon"), (int, float)):
            self.epsilon = float(line["epsilon"])
        if line.get("phase") != "train":
            self.num_refused += line.get("status") in REFUSED
            return
        self.last_round, self.last_status = line["round"], str(line.get("status", "ok"))
        self.num_accepted += self.last_status == "ok"
        self.num_refused += self.last_status in REFUSED
        self.num_rests += self.last_status == "skipped"
        self.num_examples = line.get("num_examples", self.num_examples)
        if isinstance(line.get("saturated"), bool):
            self.is_saturated = line["saturated"]
        loss = (line.get("metrics") or {}).get("train_loss")
        if isinstance(loss, (int, float)) and np.isfinite(loss):
            self.train_loss = float(loss)


def site_rows(lines: Sequence[Mapping[str, Any]]) -> dict[str, SiteRow]:
    """Return what each site did, by name; preparations (round 0) count as bytes only."""
    rows: dict[str, SiteRow] = {}
    for line in lines:
        if line.get("site") is not None:
            rows.setdefault(str(line["site"]), SiteRow()).add(line)
    return dict(sorted(rows.items()))


def facts(snapshot: Snapshot, headline: Sequence[str]) -> list[html.Div]:
    """Return the newest figures, each with the round that it is of."""
    rounds = snapshot.rounds
    if not rounds.numbers:
        return []
    found = [
        (title(name), *_newest(rounds.numbers, rounds.curve(name)))
        for name in dict.fromkeys([*headline, "eval_loss", "validation_loss", "train_loss"])
        if name in rounds.figures
    ]
    shown = [(name, f"{number(value)} (round {at})") for name, value, at in found if at]
    seconds = rounds.seconds
    shown += [
        ("Sites in the newest round", _replies(snapshot)),
        ("Time in rounds", f"{duration(float(seconds.sum()))}, {_median(seconds)} each"),
        ("To the sites", size(float(rounds.bytes_sent.sum()))),
        ("From the sites", size(float(rounds.bytes_received.sum()))),
    ]
    rows = site_rows(snapshot.lines)
    judged = [row.is_saturated for row in rows.values() if row.is_saturated is not None]
    if judged:
        shown.append(("Saturated (advisory)", f"{sum(judged)} of {len(rows)} sites"))
    spent = [row.epsilon for row in rows.values() if row.epsilon is not None]
    if spent:
        shown.append(("Largest \N{GREEK SMALL LETTER EPSILON} of a site", number(max(spent))))
    return [html.Div([html.Dt(name), html.Dd(value)]) for name, value in shown]


def sites_table(snapshot: Snapshot) -> html.Div | None:
    """Return what each site did so far; None before any did."""
    rows = site_rows(snapshot.lines)
    if not rows:
        return None
    columns = _columns(list(rows.values()))
    body = [
        html.Tr([html.Th(site, scope="row"), *(html.Td(row_text(row, c)) for c in columns)])
        for site, row in list(rows.items())[:MAX_SITES]
    ]
    cut = f" The first {MAX_SITES} of {len(rows):,} sites." if len(rows) > MAX_SITES else ""
    return _table(
        "Sites",
        f"What each site did so far, over all rounds.{cut}",
        ["Site", *(COLUMNS[column] for column in columns)],
        body,
    )


COLUMNS = {
    "last": "Last reply",
    "accepted": "Accepted",
    "refused": "Refused",
    "rests": "Rests",
    "examples": "Training rows",
    "loss": "Training loss",
    "saturated": "Saturated",
    "epsilon": "\N{GREEK SMALL LETTER EPSILON} spent",
    "bytes": "Traffic",
}


def row_text(row: SiteRow, column: str) -> str:
    """Return what a cell says."""
    last = {"ok": "accepted", "skipped": "rests"}.get(row.last_status, row.last_status)
    known: dict[str, str] = {
        "last": f"{last}, round {row.last_round}" if row.last_status else "–",
        "accepted": f"{row.num_accepted:,}",
        "refused": f"{row.num_refused:,}",
        "rests": f"{row.num_rests:,}",
        "examples": "–" if row.num_examples is None else f"{row.num_examples:,}",
        "loss": number(row.train_loss),
        "saturated": {True: "yes", False: "no", None: "–"}[row.is_saturated],
        "epsilon": number(row.epsilon),
        "bytes": size(float(row.num_bytes)),
    }
    return known[column]


def replies_table(snapshot: Snapshot) -> html.Div | None:
    """Return the replies that were not taken and the rests, newest first; None without any."""
    told = [
        line
        for line in snapshot.lines
        if line.get("site") is not None and line.get("status", "ok") != "ok"
    ]
    if not told:
        return None
    body = [
        html.Tr(
            [
                html.Td(str(line["round"]) if line["round"] else "before the first"),
                html.Th(str(line["site"]), scope="row"),
                html.Td("rests" if line["status"] == "skipped" else str(line["status"])),
                html.Td(str(line.get("reason") or "no reason recorded"), className="text"),
            ]
        )
        for line in told[: -MAX_REPLIES - 1 : -1]
    ]
    cut = f" The newest {MAX_REPLIES} of {len(told):,}." if len(told) > MAX_REPLIES else ""
    return _table(
        "Replies not taken, and rests",
        f"Newest first.{cut}",
        ["Round", "Site", "What", "Reason"],
        body,
        kind="log",
    )


def _table(
    heading: str, caption: str, columns: Sequence[str], body: list[html.Tr], *, kind: str = ""
) -> html.Div:
    tall = " tall" if len(body) > 12 else ""
    table = html.Table(
        [
            html.Caption(html.Span(caption)),
            html.Thead(html.Tr([html.Th(name, scope="col") for name in columns])),
            html.Tbody(body),
        ],
        className=kind or "figures",
    )
    return html.Div(
        [
            html.H3(heading),
            html.Div(
                table,
                className=f"scroll{tall}",
                role="region",
                tabIndex="0",
                **aria(label=heading),
            ),
        ]
    )


def _columns(rows: Sequence[SiteRow]) -> list[str]:
    """Return the columns in which some site has something to say."""
    left_out = {
        "rests": not any(row.num_rests for row in rows),
        "saturated": all(row.is_saturated is None for row in rows),
        "epsilon": all(row.epsilon is None for row in rows),
        "loss": all(row.train_loss is None for row in rows),
        "examples": all(row.num_examples is None for row in rows),
    }
    return [column for column in COLUMNS if not left_out.get(column)]


def _newest(numbers: Sequence[int], curve: Floats) -> tuple[float, int]:
    there = np.flatnonzero(np.isfinite(curve))
    return (float(curve[there[-1]]), numbers[there[-1]]) if len(there) else (np.nan, 0)


def _median(seconds: Floats) -> str:
    return duration(float(np.median(seconds)))


def _replies(snapshot: Snapshot) -> str:
    """Return how the sites' replies of the newest round ended."""
    newest = snapshot.rounds.numbers[-1]
    found = [
        str(line.get("status", "ok"))
        for line in snapshot.lines
        if line["round"] == newest and line.get("site") is not None and line.get("phase") == "train"
    ]
    words = (("ok", "accepted"), ("rejected", "rejected"), ("failed", "failed"))
    counts = [f"{found.count(status)} {word}" for status, word in words if found.count(status)]
    rests = found.count("skipped")
    return ", ".join([*counts, *([f"{rests} at rest"] if rests else [])]) or "–"
