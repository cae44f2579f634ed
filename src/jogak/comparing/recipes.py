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
    """The recipe with the mixer `name` in every block (`models.with_mixer`), its run in a folder of that name below.

    Raises: UserError for an unknown mixer.
    """
    model = models.with_mixer(recipe.model, name)
    return recipe.model_copy(update={"model": model, "run": str(Path(recipe.run) / name)})


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
