"""Measuring a translator on held-out pairs, beside copying and looking up."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from jogak.data.sources import Row
from jogak.errors import UserError
from jogak.tasks._scores import Nearest, Score, Scores, scores

LENGTHS = (10, 20, 40, 80, 160)  # characters of a source, at most, in the parts that are measured by themselves


@dataclass(frozen=True)
class Part:
    """The pairs whose source has `shortest` to `longest` characters (None: or more), and the model's chrF on them."""

    shortest: int
    longest: int | None
    pairs: int
    chrf: Score

    def __str__(self) -> str:
        span = f"{self.shortest} to {self.longest}" if self.longest else f"{self.shortest} or more"
        return f"{span + ' characters':<22} {self.chrf!s:<21} {self.pairs} pairs"


@dataclass(frozen=True)
class Evaluation:
    """Scores of the model and of both baselines on the same pairs; `nearest` is None where no training set is known.

    outputs: one for each row, in the rows' order. parts: the same by the length of the source, which shows whether
    long ones lose more. lost: sources of which an answer lacks a placeholder. too_long:
    pairs that were left out, since their source is longer than what the model was trained for.
    """

    rows: Sequence[Row]
    outputs: list[str]
    model: Scores
    copy: Scores
    nearest: Scores | None
    parts: Sequence[Part]
    lost: int
    too_long: int

    def to_dict(self) -> dict[str, object]:
        """The figures as plain data."""
        named = {"model": self.model, "nearest": self.nearest, "copy": self.copy}
        figures = {name: None if found is None else found.to_dict() for name, found in named.items()}
        counts = {"pairs": len(self.rows), "too_long": self.too_long, "lost_placeholders": self.lost}
        return {**counts, **figures, "by_source_length": [asdict(part) for part in self.parts]}

    def to_rows(self) -> list[dict[str, str]]:
        """What was asked, what was wanted, what came, and where each pair stands."""
        pairs = zip(self.rows, self.outputs, strict=True)
        return [{"source": r.source, "reference": r.target, "output": o, "where": r.where} for r, o in pairs]

    def shown(self, count: int) -> str:
        """`count` of the pairs with their answers, evenly spaced over the corpus, as lines to read."""
        rows = self.to_rows()
        chosen = [rows[n * len(rows) // count] for n in range(min(count, len(rows)))]
        return "".join(
            f"\n\n  source     {r['source']}\n  reference  {r['reference']}\n  output     {r['output']}" for r in chosen
        )

    def table(self) -> str:
        """The figures as lines to read: 95% bootstrap intervals in brackets."""
        lines = [f"{len(self.rows)} held-out pairs       chrF                  BLEU"]
        names = (("model", self.model), ("nearest neighbour", self.nearest), ("copy of the source", self.copy))
        for name, found in names:
            if found is not None:
                lines.append(f"  {name:<22} {found.chrf!s:<21} {found.bleu!s}")
        if self.nearest is None:
            lines.append("  nearest neighbour      not measured: the training set is not to be had")
        lines += ["the model by the length of the source", *(f"  {part}" for part in self.parts)]
        if self.too_long:
            lines.append(f"  {self.too_long} pairs left out: longer than the model was trained for")
        if self.lost:
            lines.append(f"  {self.lost} answers lack a placeholder of their source")
        return "\n".join(lines)


class Answers(Protocol):
    """An answer, and the placeholders of its source that it lacks."""

    @property
    def text(self) -> str: ...

    @property
    def lost(self) -> Sequence[str]: ...


class Translates(Protocol):
    """What is measured: see tasks.contract.Predictor. max_source: tokens of a source that it was trained for."""

    @property
    def max_source(self) -> int | None: ...

    def __call__(
        self, texts: Sequence[str], where: Sequence[str] = (), *, done: Callable[[int], None] = ...
    ) -> Sequence[Sequence[Answers]]: ...

    def fits(self, text: str) -> bool: ...


def evaluate(
    translator: Translates,
    rows: Sequence[Row],
    training: Sequence[Row],
    *,
    done: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Translate the sources of `rows` and score them against the targets; `training` is what Nearest searches.

    Raises: UserError if there are no rows, or none that is short enough.
    """
    given, rows = len(rows), [r for r in rows if translator.fits(r.source)]
    if given and not rows:
        raise UserError(
            f"all {given} pairs are longer than the {translator.max_source} tokens the model was trained for"
        )
    if not rows:
        raise UserError("there are no pairs to measure on; give sources, or hold some out with data.test")
    sources, references = [r.source for r in rows], [r.target for r in rows]
    answers = [found[0] for found in translator(sources, [r.where for r in rows], done=done)]
    nearest = Nearest([r.source for r in training], [r.target for r in training]) if training else None
    outputs = [a.text for a in answers]
    return Evaluation(
        rows,
        outputs,
        model=scores(outputs, references),
        copy=scores(sources, references),
        nearest=None if nearest is None else scores([nearest(s) for s in sources], references),
        parts=_parts(sources, outputs, references),
        lost=sum(bool(a.lost) for a in answers),
        too_long=given - len(rows),
    )


def _parts(sources: Sequence[str], outputs: Sequence[str], references: Sequence[str]) -> list[Part]:
    """The pairs by the length of their source, shortest first; lengths that no source has are left out."""
    members: dict[int, list[int]] = {}
    for index, source in enumerate(sources):
        members.setdefault(bisect_left(LENGTHS, len(source)), []).append(index)
    ends = (0, *LENGTHS, None)
    return [
        Part(
            (ends[at] or 0) + 1,
            ends[at + 1],
            len(chosen),
            scores([outputs[i] for i in chosen], [references[i] for i in chosen]).chrf,
        )
        for at, chosen in sorted(members.items())
    ]
