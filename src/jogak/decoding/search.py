"""Greedy and beam search on cached state, for any model that decodes: what they do, they do for every mixer.

Diverse beam search is G such searches for each sentence, each kept away from what those before it have just taken
(Vijayakumar et al. 2016, 1610.02424, section 4.1, with the Hamming diversity). It ranks by the model's own
log-probabilities; the diversity only chooses.

Legend: M searches (G for each sentence), P prompt length, W beams of a search, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from jogak.decoding.processors import Chain, Forbidden
from jogak.decoding.sampling import Start
from jogak.errors import UserError
from jogak.mixers import EMPTY, Context
from jogak.models import Decoder, ModelState

COMPACT = 0.25  # a batch is made smaller once this share of its sentences is done
HELD = 12 << 20  # bytes of a block's state, of which a few at a time stay with C's allocator from step to step


class Decodes(Protocol):
    """What search asks of a model: logits [B T V] of the next unit, and the state after ids [B T]."""

    def decode(
        self, ids: Tensor, state: ModelState | None = None, context: Context = EMPTY
    ) -> tuple[Tensor, ModelState]: ...


@dataclass(frozen=True)
class Hypothesis:
    """One answer: its units without the prompt and the end mark; log_prob is their sum (the end mark's included)
    and score what answers are ranked by; ended is False where max_length cut it. scores: each unit's share of
    log_prob, the end mark's among them; only a beam search tells them. end: the mark that ended it."""

    ids: tuple[int, ...]
    log_prob: float
    score: float
    ended: bool
    scores: tuple[float, ...] = ()
    end: int | None = None


@dataclass(frozen=True)
class Settings:
    """end: the unit that ends an answer; ends: others that do. max_length: units at most, the end mark included.

    beam: answers kept in search (1: greedy), in `groups` groups of which each loses `diversity` for every beam of
    an earlier group that takes the same unit. length_penalty: alpha in score = log_prob / ((5 + length) / 6)^alpha
    (Wu et al. 2016, 1609.08144, equation 14), or with by_length log_prob / length^alpha. n_best: answers returned,
    best first.
    """

    end: int
    max_length: int = 256
    beam: int = 1
    length_penalty: float = 0.6
    n_best: int = 1
    by_length: bool = False
    ends: tuple[int, ...] = ()

    # For each sentence, units that its answer never holds.
    forbidden: tuple[tuple[int, ...], ...] | None = None
    groups: int = 1
    diversity: float = 0.0
    # What else changes the logits, a row for each sentence, and whether a sentence's answer so far ends in a stop text.
    chain: Chain | None = None
    stops: Callable[[int, Sequence[int]], bool] | None = None

    def __post_init__(self) -> None:
        for name in ("max_length", "beam", "n_best", "groups"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_best > self.beam:
            raise UserError(f"n_best ({self.n_best}) cannot be more than beam ({self.beam}); raise beam")
        if self.beam % self.groups:
            raise UserError(f"groups ({self.groups}) must divide beam ({self.beam})")

    def score(self, log_prob: float, length: int) -> float:
        return log_prob / (length if self.by_length else (5 + length) / 6) ** self.length_penalty


def together(model: Decoder, wanted: int, rows: int) -> int:
    """How many of `wanted` inputs, each of so many rows, to decode together: no more than are quick together.

    Every step makes a new state. On a CPU a large one is asked of the system each time, page by page, which can take
    longer than filling it; what grows with the answer is left out here, since it is not made anew.
    """
    if next(model.parameters()).device.type != "cpu":
        return wanted
    blocks = model.decoder.stack.blocks
    largest = max((block.mixer.init_state(1, device="meta").nbytes for block in blocks), default=0)
    return max(1, min(wanted, HELD // max(1, largest * rows)))


@torch.inference_mode()
def search(model: Decodes, prompt: Tensor, context: Context, settings: Settings) -> list[list[Hypothesis]]:
    """The best answers to each prompt [M P], best first; context.memory [M S D] where the model reads one."""
    if settings.beam == 1 and settings.chain is None and settings.stops is None and not settings.ends:
        return [[h] for h in _greedy(model, prompt, context, settings)]
    logits, state = model.decode(prompt, None, context)
    return beams(model, Start(logits[:, -1], state, prompt), settings)


@torch.inference_mode()
def beams(model: Decodes, start: Start, settings: Settings) -> list[list[Hypothesis]]:
    """Beam search from where the prompts have been read; the best answers to each, best first."""
    found = _Beams(model, start.repeat(settings.groups), settings).run()
    result: list[list[Hypothesis]] = []
    for first in range(0, len(found), settings.groups):
        together = {h.ids: h for group in found[first : first + settings.groups] for h in group}
        ranked = sorted(together.values(), key=lambda h: h.score, reverse=True)
        result.append(ranked[: settings.n_best])
    return result


def _greedy(model: Decodes, prompt: Tensor, context: Context, settings: Settings) -> list[Hypothesis]:
    """The likeliest unit at every step; once enough rows are done, the batch is made smaller."""
    logits, state = model.decode(prompt, None, context)
    device, sentences = logits.device, prompt.shape[0]
    forbidden = Forbidden(settings.forbidden or ((),) * sentences, device)
    units = torch.full((sentences, settings.max_length), settings.end, device=device)
    log_probs = torch.zeros(sentences, device=device, dtype=torch.float64)
    rows = torch.arange(sentences, device=device)  # the sentence of each row of the batch
    done = torch.zeros(sentences, device=device, dtype=torch.bool)
    for step in range(settings.max_length):
        best, unit = forbidden(logits[:, -1], rows).log_softmax(-1).max(-1)
        unit = unit.masked_fill(done, settings.end)
        units[rows, step] = unit
        log_probs[rows] += best.double().masked_fill(done, 0)
        done = done | (unit == settings.end)
        finished = int(done.sum())
        if finished == len(rows) or step + 1 == settings.max_length:
            break
        if finished >= COMPACT * len(rows):
            alive = (~done).nonzero().squeeze(1)
            rows, unit, done, state = rows[alive], unit[alive], done[alive], state.reorder(alive, alive)
        logits, state = model.decode(unit.unsqueeze(1), state, EMPTY)
    return [_cut(ids, p, settings) for ids, p in zip(units.tolist(), log_probs.tolist(), strict=True)]


def _cut(ids: list[int], log_prob: float, settings: Settings) -> Hypothesis:
    ended = settings.end in ids
    kept, end = (ids[: ids.index(settings.end)], settings.end) if ended else (ids, None)
    return Hypothesis(tuple(kept), log_prob, settings.score(log_prob, len(kept) + ended), ended, end=end)


class _Beams:
    """M searches at once: rows m * W ... m * W + W - 1 are the beams of the m-th that is alive."""

    def __init__(self, model: Decodes, start: Start, settings: Settings) -> None:
        self.model, self.settings, self.state, self.logits = model, settings, start.state, start.logits
        count, self.device = len(start.logits), start.logits.device
        self.wanted = settings.beam // settings.groups
        self.ended: list[list[Hypothesis]] = [[] for _ in range(count)]
        self.searches = list(range(count))  # number m * G + g is group g of sentence m
        self.forbidden = Forbidden(settings.forbidden or ((),) * (count // settings.groups), self.device)
        self.history, self.prompt = start.history, start.history.shape[1]  # prompt and units of each row
        self.steps = torch.empty(count, 0, device=self.device)  # log-probability of each unit
        self.scores = torch.zeros(count, 1, device=self.device)
        self.ends = torch.tensor([settings.end, *settings.ends], device=self.device)

    @property
    def beams(self) -> int:
        """Rows of each search: 1 at first, W then."""
        return self.history.shape[0] // len(self.searches)

    def run(self) -> list[list[Hypothesis]]:
        for length in range(1, self.settings.max_length + 1):
            unit = self._extend(length)
            if self.settings.stops is not None:
                self._stop(length)
            if length == self.settings.max_length:
                self._keep_alive(length)
                break
            unit = self._shrink(unit, length)
            if not self.searches:
                break
            logits, self.state = self.model.decode(unit.unsqueeze(1), self.state, EMPTY)
            self.logits = logits[:, -1]
        most = min(self.settings.n_best, self.wanted)
        return [sorted(found, key=lambda h: h.score, reverse=True)[:most] for found in self.ended]

    def _extend(self, length: int) -> Tensor:
        """Give every search its W best continuations; put those that end aside."""
        log_probs = self._log_probs()
        if self.settings.groups == 1:
            values, steps, flat = self._candidates(log_probs, self.scores)
        else:
            values, steps, flat = self._diverse(log_probs)
        parent, unit = flat // log_probs.shape[-1], flat % log_probs.shape[-1]
        is_end = torch.isin(unit, self.ends)
        self._put_aside(values, steps, parent, unit, length)
        order = self._going(unit)
        self.scores = values.gather(1, order).masked_fill(is_end.gather(1, order), -torch.inf)
        offset = torch.arange(len(self.searches), device=self.device).unsqueeze(1) * self.beams
        index = (parent.gather(1, order) + offset).flatten()
        unit = unit.gather(1, order).flatten()
        self.history = torch.cat([self.history[index], unit.unsqueeze(1)], dim=1)
        self.steps = torch.cat([self.steps[index], steps.gather(1, order).view(-1, 1)], dim=1)
        self.state = self.state.reorder(index)
        return unit

    def _going(self, unit: Tensor) -> Tensor:
        """Which W of 2 W candidates go on: at most W end, since each beam ends in one way, and the first others do."""
        return torch.isin(unit, self.ends).to(torch.int8).argsort(dim=1, stable=True)[:, : self.wanted]

    def _log_probs(self) -> Tensor:
        """Log-probabilities of every row's next unit: [M W V]."""
        sentences = [search // self.settings.groups for search in self.searches for _ in range(self.beams)]
        logits = self.forbidden(self.logits, torch.tensor(sentences, device=self.device))
        if self.settings.chain:
            lost = (self.scores.flatten() == -torch.inf).tolist()
            logits = self.settings.chain.select(sentences)(logits, self.history, self.prompt, lost)
        return logits.log_softmax(-1).view(len(self.searches), self.beams, -1)

    def _candidates(
        self, log_probs: Tensor, scores: Tensor, penalty: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best 2 W continuations of searches: sums of log-probabilities, each unit's own, beam * V + unit.

        log_probs [m w V], scores [m w]; penalty [m V] counts for choosing only.
        """
        width = log_probs.shape[-1]
        value = log_probs if penalty is None else log_probs - penalty.unsqueeze(1)
        # Best of each beam first: a search of V numbers a row is much cheaper than one of W V.
        values, unit = value.topk(min(2 * self.wanted, width), dim=-1)
        flat = (unit + torch.arange(unit.shape[1], device=self.device).view(1, -1, 1) * width).flatten(1)
        values, place = (values + scores.unsqueeze(-1)).flatten(1).topk(min(2 * self.wanted, flat.shape[1]), dim=1)
        flat = flat.gather(1, place)
        steps = log_probs.flatten(1).gather(1, flat)
        if penalty is not None:
            values = values + penalty.gather(1, flat % width)
        return values, steps, flat

    def _diverse(self, log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`_candidates` group by group, each penalised for the units that earlier groups of its sentence go on with."""
        groups, found = self.settings.groups, []
        sentence = torch.tensor([search // groups for search in self.searches], device=self.device)
        group = torch.tensor([search % groups for search in self.searches], device=self.device)
        taken = torch.zeros(int(sentence.max()) + 1, log_probs.shape[-1], device=self.device)
        result: tuple[Tensor, Tensor, Tensor] | None = None
        for number in range(groups):
            rows = (group == number).nonzero().squeeze(1)
            if not len(rows):
                continue
            penalty = self.settings.diversity * taken[sentence[rows]]
            found = self._candidates(log_probs[rows], self.scores[rows], penalty)
            if result is None:
                result = tuple(t.new_zeros(len(self.searches), t.shape[1]) for t in found)  # pyright: ignore[reportAssignmentType]  # three of them
            assert result is not None
            for whole, part in zip(result, found, strict=True):
                whole[rows] = part
            unit = found[2] % log_probs.shape[-1]
            chosen = unit.gather(1, self._going(unit))
            at = sentence[rows].unsqueeze(1).expand_as(chosen)
            taken.index_put_((at, chosen), torch.ones_like(chosen, dtype=taken.dtype), accumulate=True)
        assert result is not None
        return result

    def _answer(self, row: int) -> list[int]:
        return self.history[row, self.prompt :].tolist()

    def _put_aside(self, values: Tensor, steps: Tensor, parent: Tensor, unit: Tensor, length: int) -> None:
        """Keep the candidates that end, where they are among their search's first W."""
        beams, is_end = self.beams, torch.isin(unit, self.ends)
        for m, rank in is_end[:, : self.wanted].nonzero().tolist():
            log_prob = float(values[m, rank])
            if log_prob == -float("inf"):
                continue
            row = m * beams + int(parent[m, rank])
            score = self.settings.score(log_prob, length)
            told = (*self.steps[row].tolist(), float(steps[m, rank]))
            end, ids = int(unit[m, rank]), tuple(self._answer(row))
            self.ended[self.searches[m]].append(Hypothesis(ids, log_prob, score, True, told, end))

    def _stop(self, length: int) -> None:
        """Put beams aside in which a stop text has come up."""
        assert self.settings.stops is not None
        for row, log_prob in enumerate(self.scores.flatten().tolist()):
            search = self.searches[row // self.beams]
            answer = self._answer(row)
            if log_prob > -float("inf") and self.settings.stops(search // self.settings.groups, answer):
                self._add(row, search, log_prob, length, ended=True)
                self.scores[row // self.beams, row % self.beams] = -torch.inf

    def _add(self, row: int, search: int, log_prob: float, length: int, *, ended: bool) -> None:
        score, told = self.settings.score(log_prob, length), tuple(self.steps[row].tolist())
        self.ended[search].append(Hypothesis(tuple(self._answer(row)), log_prob, score, ended, told))

    def _shrink(self, unit: Tensor, length: int) -> Tensor:
        """Let searches that are done leave, once they are a good share of the batch or all of it."""
        best = self.scores.amax(1).tolist()
        alive = [m for m, search in enumerate(self.searches) if not self._done(search, best[m], length)]
        if len(alive) > (1 - COMPACT) * len(self.searches):
            return unit
        beams = self.beams
        self.searches = [self.searches[m] for m in alive]
        if not alive:
            return unit
        keep = torch.tensor(alive, device=self.device)
        rows = (keep.unsqueeze(1) * beams + torch.arange(beams, device=self.device)).flatten()
        self.scores, self.history, self.steps = self.scores[keep], self.history[rows], self.steps[rows]
        self.state = self.state.reorder(rows, keep)
        return unit[rows]

    def _done(self, search: int, best_alive: float, length: int) -> bool:
        """No answer to come can be among the n best; or W have ended and none alive is better now."""
        settings, ended = self.settings, self.ended[search]
        wanted = min(settings.n_best, self.wanted)
        if best_alive == -float("inf"):
            return True
        if len(ended) < wanted:
            return False
        worst = sorted((h.score for h in ended), reverse=True)[wanted - 1]
        # log_prob only falls, and dividing by more than any length to come only helps it: a true upper bound.
        if worst >= settings.score(best_alive, settings.max_length):
            return True
        return len(ended) >= self.wanted and worst >= settings.score(best_alive, length)

    def _keep_alive(self, length: int) -> None:
        """max_length cuts the beams that have not ended."""
        for row, log_prob in enumerate(self.scores.flatten().tolist()):
            if log_prob > -float("inf"):
                self._add(row, self.searches[row // self.beams], log_prob, length, ended=False)
