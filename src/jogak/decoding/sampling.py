"""Greedy decoding and sampling on cached state: one step of the model for one unit of every row.

A unit is drawn by inverting the cumulative distribution at a number that only the request's own seed decides, so that
what a request gets does not depend on who shares its batch (up to the rounding of the model's own sums).

Legend: B rows, V vocabulary, T units of history.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, Protocol

import torch
from torch import Tensor

from jogak.decoding.processors import Chain, Forbidden
from jogak.decoding.settings import Sampling
from jogak.decoding.streaming import Writing
from jogak.mixers import EMPTY, Context
from jogak.models import ModelState

COMPACT = 0.25  # a batch is made smaller once this share of its rows is done

Reason = Literal["end", "stop", "length"]


class Generates(Protocol):
    """What decoding asks of a model: hidden [B T D] of ids [B T], the state after them, and logits of hidden."""

    def hidden(
        self, ids: Tensor, state: ModelState | None = None, context: Context = EMPTY
    ) -> tuple[Tensor, ModelState]: ...

    def head(self, x: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Start:
    """Where answers begin: logits [B V] of their first unit, the state after the prompts, and the prompts' ids [B T],
    padded on the left with -1."""

    logits: Tensor
    state: ModelState
    history: Tensor

    def repeat(self, times: int) -> "Start":
        """Every row `times` times, one after another."""
        if times == 1:
            return self
        rows = torch.arange(len(self.logits), device=self.logits.device).repeat_interleave(times)
        return Start(self.logits[rows], self.state.reorder(rows, rows), self.history[rows])


@dataclass
class Row:
    """One answer in the making. choice: which of several answers of one request it is; writing: its text, where
    somebody follows it or a stop text may end it; ends: units that end it besides the end mark."""

    settings: Sampling
    seed: int = 0
    choice: int = 0
    writing: Writing | None = None
    ends: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Token:
    """One unit of row `row`: its log-probability under the model; top: the likeliest units there; reason: why the
    answer ends with it (None: it goes on). The unit of "end" is the end mark."""

    row: int
    id: int
    log_prob: float
    top: tuple[tuple[int, float], ...] = ()
    reason: Reason | None = None


def generator(seed: int, choice: int, purpose: str = "draw") -> torch.Generator:
    """The stream of chance of one answer: its own, whatever others there are."""
    digest = blake2b(f"{seed} {choice} {purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def draw(scores: Tensor, u: Tensor) -> Tensor:
    """The unit [B] at which the cumulative distribution of softmax(scores [B V]) passes u [B] in [0, 1)."""
    mass = scores.softmax(-1).cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(mass, (u * mass[:, -1]).unsqueeze(1), right=True).squeeze(1)


@dataclass
class _Chance:
    """Numbers in [0, 1) for every row and step [B steps], and which rows are greedy [B]; nothing where all are."""

    numbers: Tensor | None
    greedy: Tensor | None = field(default=None)

    @classmethod
    def of(cls, rows: Sequence[Row], steps: int, device: torch.device) -> "_Chance":
        if all(row.settings.heat == 0 for row in rows):
            return cls(None)
        # u times a sum must stay below the sum when it is rounded.
        drawn = [torch.rand(steps, generator=generator(r.seed, r.choice), dtype=torch.float64) for r in rows]
        greedy = torch.tensor([row.settings.heat == 0 for row in rows], device=device)
        return cls(torch.stack(drawn).clamp(max=1 - 1e-12).to(device), greedy if bool(greedy.any()) else None)

    def select(self, rows: Tensor) -> "_Chance":
        if self.numbers is None:
            return self
        return _Chance(self.numbers[rows], None if self.greedy is None else self.greedy[rows])

    def choose(self, scores: Tensor, step: int) -> Tensor:
        if self.numbers is None:
            return scores.argmax(-1)
        unit = draw(scores, self.numbers[:, step])
        return unit if self.greedy is None else torch.where(self.greedy, scores.argmax(-1), unit)


@torch.inference_mode()
def sample(
    model: Generates, start: Start, rows: Sequence[Row], chain: Chain, forbidden: Forbidden, end: int
) -> Iterator[list[Token]]:
    """The units of all rows, a step at a time; a row that has ended gives no more.

    Rows that are done leave the batch once they are a good share of it.
    """
    logits, state, width = start.logits, start.state, start.history.shape[1]
    device, longest = logits.device, max(row.settings.max_new_tokens for row in rows)
    chance = _Chance.of(rows, longest, device)
    history = torch.cat([start.history, start.history.new_full((len(rows), longest if chain else 0), -1)], dim=1)
    alive, done = list(range(len(rows))), [False] * len(rows)
    told = any(row.settings.logprobs for row in rows)
    for step in range(longest):
        logits = forbidden(logits)
        scores = chain(logits, history[:, : width + step], width, done) if chain else logits
        unit = chance.choose(scores, step)
        log_probs = logits.gather(1, unit.unsqueeze(1)).squeeze(1) - logits.logsumexp(-1)
        top = _likeliest(logits, [rows[row] for row in alive]) if told else None
        found: list[Token] = []
        for place, (number, log_prob) in enumerate(zip(unit.tolist(), log_probs.tolist(), strict=True)):
            if not done[place]:
                row = rows[alive[place]]
                reason = why(row, number, end, step + 1)
                found.append(Token(alive[place], number, log_prob, () if top is None else top[place], reason))
                done[place] = reason is not None
        yield found
        finished = sum(done)
        if finished == len(alive) or step + 1 == longest:
            return
        if chain:
            history[:, width + step] = unit
        if finished >= COMPACT * len(alive):
            kept = [place for place in range(len(alive)) if not done[place]]
            index = torch.tensor(kept, device=device)
            alive, done, unit, state = (
                [alive[p] for p in kept],
                [False] * len(kept),
                unit[index],
                state.reorder(index, index),
            )
            chain, forbidden, chance, history = (
                chain.select(kept),
                forbidden.select(index),
                chance.select(index),
                history[index],
            )
        x, state = model.hidden(unit.unsqueeze(1), state, EMPTY)
        logits = model.head(x)[:, -1]


def why(row: Row, unit: int, end: int, length: int) -> Reason | None:
    """Why the answer of `row` ends with `unit`, its `length`-th; None: it does not."""
    if unit == end or unit in row.ends:
        return "end"
    if row.writing is not None and row.writing.feed(unit):
        return "stop"
    return "length" if length >= row.settings.max_new_tokens else None


def _likeliest(logits: Tensor, rows: Sequence[Row]) -> list[tuple[tuple[int, float], ...]]:
    """For each row as many of the likeliest units as it asks for, with their log-probabilities."""
    wanted = [row.settings.logprobs for row in rows]
    values, units = logits.log_softmax(-1).topk(min(max(wanted), logits.shape[1]), dim=-1)
    return [
        tuple(zip(ids[:count], values_[:count], strict=True))
        for ids, values_, count in zip(units.tolist(), values.tolist(), wanted, strict=True)
    ]


def likeliest(logits: Tensor, row: Row) -> list[tuple[tuple[int, float], ...]]:
    """The same for several positions [n V] of one row."""
    return _likeliest(logits, [row] * len(logits)) if row.settings.logprobs else [()] * len(logits)
