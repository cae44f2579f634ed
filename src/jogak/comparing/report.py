"""What a comparison found, as a table and as one self-contained page."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jogak import __version__, config, storage

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c564b")  # Okabe & Ito 2008
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720, 300, 60, 40


@dataclass(frozen=True)
class Entry:
    """One mixer of a comparison.

    figures: of the final validation. state_bytes: what decoding carries after the recipe's longest example, None
    where nothing is decoded. judged: the records of every validation, with "seconds" and the figures.
    """

    name: str
    parameters: int
    state_bytes: int | None
    steps: int
    seconds: float
    tokens_per_second: float
    figures: dict[str, float]
    judged: Sequence[Mapping[str, Any]]


def ranked(entries: Sequence[Entry], metric: str) -> list[Entry]:
    """Best first; metric: a figure's name, with a minus before it where lower is better."""
    name = metric.removeprefix("-")
    return sorted(entries, key=lambda e: e.figures[name], reverse=name == metric)


def _cells(entries: Sequence[Entry], metric: str) -> tuple[list[str], list[list[str]]]:
    name = metric.removeprefix("-")
    others = [key for key in entries[0].figures if key != name]
    head = ["mixer", name, *others, "parameters", "state, bytes", "steps", "seconds", "tokens/s"]
    rows = [
        [
            e.name,
            *(f"{e.figures[key]:.4g}" for key in (name, *others)),
            f"{e.parameters:,}",
            "" if e.state_bytes is None else f"{e.state_bytes:,}",
            f"{e.steps:,}",
            f"{e.seconds:,.0f}",
            f"{e.tokens_per_second:,.0f}",
        ]
        for e in ranked(entries, metric)
    ]
    return head, rows


def table(entries: Sequence[Entry], metric: str) -> str:
    """A Markdown table, best first."""
    head, rows = _cells(entries, metric)
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def write(folder: Path, entries: Sequence[Entry], metric: str, recipe: config.Recipe) -> Path:
    """Write compare.md and compare.html, which needs nothing else, into `folder`; the page.

    Raises: StorageError if the disk refuses.
    """
    title = f"{Path(recipe.run).name}: {', '.join(e.name for e in entries)}"
    told = "The same data, seed, budget and model around every mixer; the figures are of the last validation."
    storage.write_text(folder / "compare.md", f"# {title}\n\n{told}\n\n{table(entries, metric)}\n")
    head, rows = _cells(entries, metric)
    body = [
        f"<h1>{html.escape(title)}</h1><p>{told}</p>",
        "<table><thead><tr>" + "".join(f"<th>{html.escape(c)}</th>" for c in head) + "</tr></thead><tbody>",
        *("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows),
        "</tbody></table>",
        _chart(entries, metric),
        f"<h2>Recipe</h2><pre>{html.escape(config.to_yaml(recipe))}</pre><p>jogak {__version__}</p>",
    ]
    page = folder / "compare.html"
    storage.write_text(page, _PAGE.replace("TITLE", html.escape(title)).replace("BODY", "\n".join(body)))
    return page


def _chart(entries: Sequence[Entry], metric: str) -> str:
    """The metric over seconds of training, a line for each mixer."""
    name = metric.removeprefix("-")
    curves = {e.name: [(float(r["seconds"]), float(r[name])) for r in e.judged] for e in entries}
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return ""
    right = max(x for x, _ in points) or 1.0
    low, high = min(y for _, y in points), max(y for _, y in points)
    spread = (high - low) or 1.0

    def place(x: float, y: float) -> str:
        across = _LEFT + (_WIDTH - _LEFT - 10) * x / right
        return f"{across:.1f},{10 + (_HEIGHT - _BOTTOM - 10) * (high - y) / spread:.1f}"

    lines, legend = [], []
    for number, entry in enumerate(entries):
        colour, drawn = _COLOURS[number % len(_COLOURS)], " ".join(place(*p) for p in curves[entry.name])
        dashes = "" if number < len(_COLOURS) else ' stroke-dasharray="5 3"'
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2"{dashes} points="{drawn}"/>')
        legend.append(f'<span style="color:{colour}">&#9632;</span> {html.escape(entry.name)}')
    bottom = _HEIGHT - _BOTTOM
    axes = (
        f'<path d="M{_LEFT} 10V{bottom}H{_WIDTH - 10}" fill="none" stroke="#888"/>'
        f'<text x="{_LEFT - 6}" y="18" text-anchor="end">{high:.3g}</text>'
        f'<text x="{_LEFT - 6}" y="{bottom}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{_WIDTH - 10}" y="{bottom + 18}" text-anchor="end">{right:,.0f} s</text>'
    )
    label = html.escape(f"{name} over seconds of training")
    picture = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{axes}{"".join(lines)}</svg>'
    return f"<h2>{label}</h2>{picture}<p>{'&ensp;'.join(legend)}</p>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
svg { width: 100%; height: auto; font-size: 12px; fill: #444; }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; }
</style></head><body>
BODY
</body></html>
"""
