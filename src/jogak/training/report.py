"""report.html: one page without network that shows how a run went: curves, samples, configuration, final figures."""

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jogak import __version__, config, storage
from jogak.training.progress import clock

_POINTS = 800  # a curve with more is drawn as means over equal stretches
_WHY = {"steps": "all steps done", "minutes": "time used up", "patience": "no longer improving", "": "under way"}

Record = Mapping[str, Any]
Point = tuple[float, float]


def write(
    path: Path,
    recipe: config.Recipe,
    records: Sequence[Record],
    samples: Sequence[Mapping[str, str]],
    status: Mapping[str, Any],
) -> None:
    """Write the page from the lines of metrics.jsonl; status: why, step, best_step, metric.

    Raises: StorageError if the disk refuses.
    """
    page = {
        "title": Path(recipe.run).name,
        "task": recipe.task,
        "status": _WHY[status["why"]],
        "tiles": _tiles(recipe, records, status),
        "charts": _charts(records, status["metric"], status["best_step"]),
        "samples": list(samples),
        "sampled_at": status["step"],
        "config": config.to_yaml(recipe),
        "version": __version__,
    }
    template = (resources.files("jogak") / "training" / "report.html").read_text(encoding="utf-8")
    # HTML ends a script at "</", and begins a comment at "<!--", wherever they stand.
    data = json.dumps(page, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    storage.write_text(path, template.replace("/*DATA*/null", data))


def _tiles(recipe: config.Recipe, records: Sequence[Record], status: Mapping[str, Any]) -> list[dict[str, str]]:
    """The few figures that a person looks for first."""
    trained = [r for r in records if r["kind"] == "train"]
    judged = [r for r in records if r["kind"] == "validation"]
    metric = status["metric"].removeprefix("-")
    tiles: list[dict[str, str]] = []
    if judged:
        best = next((r for r in judged if r["step"] == status["best_step"]), judged[-1])
        tiles.append(
            {"name": f"{metric}, last", "value": _short(judged[-1][metric]), "note": f"step {judged[-1]['step']:,}"}
        )
        tiles.append({"name": f"{metric}, best", "value": _short(best[metric]), "note": f"step {best['step']:,}"})
        tiles.append({"name": "validation loss", "value": _short(judged[-1]["loss"]), "note": "per target, in nats"})
    if trained:
        tiles.append({"name": "training loss", "value": _short(trained[-1]["loss"]), "note": "with label smoothing"})
        speed = sum(r["tokens_per_second"] for r in trained) / len(trained)
        share = sum(r["share_of_peak"] for r in trained) / len(trained)
        note = f"{100 * share:.0f}% of measured peak"
        tiles.append({"name": "tokens/s", "value": f"{speed:,.0f}", "note": note})
    seconds = records[-1]["seconds"] if records else 0.0
    tiles.append({"name": "steps", "value": f"{status['step']:,}", "note": f"of {recipe.train.steps:,}"})
    tiles.append({"name": "time", "value": clock(seconds), "note": "validation and saving included"})
    return tiles


def _charts(records: Sequence[Record], metric: str, best_step: int) -> list[dict[str, Any]]:
    def series(kind: str, key: str) -> list[Point]:
        found = ((r["step"], r.get(key)) for r in records if r["kind"] == kind)
        return _thin([(float(x), float(y)) for x, y in found if isinstance(y, int | float) and math.isfinite(y)])

    def chart(title: str, unit: str, *curves: tuple[str, str, str]) -> dict[str, Any]:
        drawn = [{"name": name, "points": series(kind, key)} for name, kind, key in curves]
        return {"title": title, "unit": unit, "series": [c for c in drawn if c["points"]]}

    plain = ("training, without smoothing", "train", "nll")
    better, metric = "lower" if metric.startswith("-") else "higher", metric.removeprefix("-")
    held_out = chart(metric, f"held-out validation, {better} is better", (metric, "validation", metric))
    charts = [
        chart("Loss", "nats per target", plain, ("validation", "validation", "loss")),
        {**held_out, "best": best_step},
        chart("Learning rate", "", ("rate", "train", "rate")),
        chart("Speed", "real source and target tokens per second", ("tokens/s", "train", "tokens_per_second")),
    ]
    return [c for c in charts if c["series"]]


def _thin(points: Sequence[Point]) -> list[Point]:
    """At most `_POINTS` points: means over stretches of equal count, the last point kept."""
    if len(points) <= _POINTS:
        return list(points)
    size = math.ceil(len(points) / _POINTS)
    stretches = [points[i : i + size] for i in range(0, len(points), size)]
    means = [(s[-1][0], sum(y for _, y in s) / len(s)) for s in stretches]
    return [*means[:-1], points[-1]]


def _short(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"
