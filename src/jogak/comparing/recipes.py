"""One recipe with other mixers in its blocks, and what is known of a run that came of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jogak import config, mixers, models
from jogak.comparing.report import Entry, table
from jogak.errors import UserError
from jogak.models import Decoder, EncoderDecoder

_ABOUT = ("step", "seconds")  # figures that are not of the validation


@dataclass(frozen=True)
class Comparison:
    """The entries, one a mixer; metric: what they are ranked by (see report.ranked); page: where the report is."""

    entries: Sequence[Entry]
    metric: str
    page: Path

    def table(self) -> str:
        return table(self.entries, self.metric)


def distinct(names: Sequence[str]) -> list[str]:
    """The names, each once.

    Raises: UserError where there is none.
    """
    found = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not found:
        raise UserError(
            f"there is nothing to compare; name mixers, for example --mixers {','.join(mixers.names()[:2])}"
        )
    return found


def with_mixer(recipe: config.Recipe, name: str) -> config.Recipe:
    """The recipe with the mixer `name` in every block, its run in a folder of that name below the recipe's.

    name: a mixer, or several that take turns, joined by "+". Options that the recipe gives to a mixer of that name
    are kept. In an encoder, a mixer that cannot look ahead is run both ways.

    Raises: UserError for an unknown mixer.
    """
    changes: dict[str, config.Stack] = {}
    for side in recipe.model.topology.split("-"):
        stack = getattr(recipe.model, side) or config.Stack()
        both_ways = side == "encoder" and not stack.causal and recipe.model.handover == "memory"
        pattern = tuple(_placed(part, stack.pattern, both_ways=both_ways) for part in name.split("+"))
        changes[side] = stack.model_copy(update={"pattern": pattern})
    model = recipe.model.model_copy(update=changes)
    return recipe.model_copy(update={"model": model, "run": str(Path(recipe.run) / name)})


def _placed(name: str, pattern: Sequence[config.Mixer], *, both_ways: bool) -> config.Mixer:
    given = next((m for m in pattern if m.name == name), None)
    if given is not None:
        return given
    if both_ways and mixers.kind(name).causal_only:
        return config.Mixer.model_validate({"name": "bidirectional", "inner": name})
    mixers.kind(name)
    return config.Mixer(name=name)


def entry(name: str, model: models.Model, recipe: config.Recipe, figures: Mapping[str, float], metrics: Path) -> Entry:
    """What came of a run: figures as training returned them, metrics as it wrote them."""
    records: list[dict[str, Any]] = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    judged = [r for r in records if r["kind"] == "validation"]
    speeds = [r["tokens_per_second"] for r in records if r["kind"] == "train"]
    shown = {key: value for key, value in figures.items() if key not in _ABOUT}
    return Entry(
        name,
        models.parameter_count(model),
        _state_bytes(model, recipe.data.max_length),
        int(figures["step"]),
        figures["seconds"],
        sum(speeds) / len(speeds) if speeds else 0.0,
        shown,
        judged,
    )


def _state_bytes(model: models.Model, length: int) -> int | None:
    """Bytes of the state of one sequence after `length` units, and as many of source where there is one."""
    if not isinstance(model, Decoder):
        return None
    device = next(model.parameters()).device
    ids = torch.zeros(1, length, dtype=torch.int64, device=device)
    model.eval()
    with torch.inference_mode():
        context = (model.read(ids),) if isinstance(model, EncoderDecoder) else ()
        return model.decode(ids, None, *context)[1].nbytes
