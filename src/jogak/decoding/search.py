"""Greedy and beam search on cached state, for any model that decodes: what they do, they do for every mixer.

Legend: M sentences, P prompt length, W beams, V vocabulary.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from jogak.errors import UserError
from jogak.mixers import EMPTY, Context
from jogak.models import ModelState

COMPACT = 0.25  # a batch is made smaller once this share of its sentences is done


class Decodes(Protocol):
    """What search asks of a model: logits [B T V] of the next unit, and the state after ids [B T]."""

    def decode(
        self, ids: Tensor, state: ModelState | None = None, context: Context = EMPTY
    ) -> tuple[Tensor, ModelState]: ...


@dataclass(frozen=True)
class Hypothesis:
    """One answer: its units without the prompt and the end mark; log_prob is their sum (the end mark's included)
    and score what answers are ranked by; ended is False where max_length cut it."""

    ids: tuple[int, ...]
    log_prob: float
    score: float
    ended: bool


@dataclass(frozen=True)
class Settings:
    """end: the unit that ends an answer. max_length: units at most, the end mark included.

    beam: answers kept in search (1: greedy). length_penalty: alpha in score = log_prob / ((5 + length) / 6)^alpha
    (Wu et al. 2016, 1609.08144, equation 14), or with by_length log_prob / length^alpha. n_best: answers returned,
    best first.
    """

    end: int
    max_length: int = 256
    beam: int = 1
    length_penalty: float = 0.6
    n_best: int = 1
    by_length: bool = False

    # For each sentence, units that its answer never holds.
    forbidden: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        for name in ("max_length", "beam", "n_best"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_best > self.beam:
            raise UserError(f"n_best ({self.n_best}) cannot be more than beam ({self.beam}); raise beam")

    def score(self, log_prob: float, length: int) -> float:
        return log_prob / (length if self.by_length else (5 + length) / 6) ** self.length_penalty


class _Forbidden:
    """-inf on the units that a sentence's answer never holds, added to the few columns of logits that it concerns."""

    def __init__(self, forbidden: tuple[tuple[int, ...], ...] | None, device: torch.device) -> None:
        units = sorted({u for row in forbidden or () for u in row})
        self.columns = torch.tensor(units, device=device, dtype=torch.int64)
        place = {u: i for i, u in enumerate(units)}
        self.added = torch.zeros(len(forbidden or ()), len(units), device=device)
        for m, row in enumerate(forbidden or ()):
            self.added[m, [place[u] for u in row]] = -torch.inf

    def log_probs(self, logits: Tensor, sentences: Tensor) -> Tensor:
        """Log-probabilities over what is allowed: logits [B V] of `sentences` [B]."""
        logits = logits.float()
        if len(self.columns):
            logits[:, self.columns] += self.added[sentences].to(logits.device)
        return logits.log_softmax(-1)


@torch.inference_mode()
def search(model: Decodes, prompt: Tensor, context: Context, settings: Settings) -> list[list[Hypothesis]]:
    """The best answers to each prompt [M P], best first; context.memory [M S D] where the model reads one."""
    if settings.beam == 1:
        return [[h] for h in _greedy(model, prompt, context, settings)]
    return _Beams(model, prompt, context, settings).run()


def _greedy(model: Decodes, prompt: Tensor, context: Context, settings: Settings) -> list[Hypothesis]:
    """The likeliest unit at every step; once enough rows are done, the batch is made smaller."""
    logits, state = model.decode(prompt, None, context)
    device, sentences = logits.device, prompt.shape[0]
    forbidden = _Forbidden(settings.forbidden, device)
    units = torch.full((sentences, settings.max_length), settings.end, device=device)
    log_probs = torch.zeros(sentences, device=device, dtype=torch.float64)
    rows = torch.arange(sentences, device=device)  # the sentence of each row of the batch
    done = torch.zeros(sentences, device=device, dtype=torch.bool)
    for step in range(settings.max_length):
        best, unit = forbidden.log_probs(logits[:, -1], rows).max(-1)
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
    kept = ids[: ids.index(settings.end)] if ended else ids
    return Hypothesis(tuple(kept), log_prob, settings.score(log_prob, len(kept) + ended), ended)


class _Beams:
    """Beam search over M sentences at once: rows m * W ... m * W + W - 1 are the beams of the m-th alive sentence."""

    def __init__(self, model: Decodes, prompt: Tensor, context: Context, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.ended: list[list[Hypothesis]] = [[] for _ in range(prompt.shape[0])]
        self.sentences = list(range(prompt.shape[0]))
        logits, self.state = model.decode(prompt, None, context)
        self.device = logits.device
        self.forbidden = _Forbidden(settings.forbidden, self.device)
        self.units = torch.empty(prompt.shape[0], 0, dtype=torch.int64, device=self.device)
        self.scores = torch.zeros(prompt.shape[0], 1, device=self.device)
        self.logits = logits[:, -1]

    def run(self) -> list[list[Hypothesis]]:
        for length in range(1, self.settings.max_length + 1):
            unit = self._extend(length)
            if length == self.settings.max_length:
                self._keep_alive(length)
                break
            unit = self._shrink(unit, length)
            if not self.sentences:
                break
            logits, self.state = self.model.decode(unit.unsqueeze(1), self.state, EMPTY)
            self.logits = logits[:, -1]
        return [sorted(found, key=lambda h: h.score, reverse=True)[: self.settings.n_best] for found in self.ended]

    def _extend(self, length: int) -> Tensor:
        """Give every alive sentence its W best continuations; put those that end aside."""
        wanted, sentences = self.settings.beam, len(self.sentences)
        values, flat, width = self._candidates(2 * wanted)
        parent, unit = flat // width, flat % width
        is_end = unit == self.settings.end
        self._put_aside(values, parent, is_end, length)
        # Of 2 W candidates at most W end, since each beam ends in one way: the first W others go on.
        order = is_end.to(torch.int8).argsort(dim=1, stable=True)[:, :wanted]
        self.scores = values.gather(1, order).masked_fill(is_end.gather(1, order), -torch.inf)
        beams = self.units.shape[0] // sentences
        index = (parent.gather(1, order) + torch.arange(sentences, device=self.device).unsqueeze(1) * beams).flatten()
        unit = unit.gather(1, order).flatten()
        self.units = torch.cat([self.units[index], unit.unsqueeze(1)], dim=1)
        self.state = self.state.reorder(index)
        return unit

    def _candidates(self, count: int) -> tuple[Tensor, Tensor, int]:
        """The best `count` continuations of each sentence: log-probabilities, beam * V + unit, V."""
        sentences = len(self.sentences)
        rows = torch.tensor(self.sentences, device=self.device)
        log_probs = self.forbidden.log_probs(self.logits, rows.repeat_interleave(self.logits.shape[0] // sentences))
        width = log_probs.shape[-1]
        # Best of each beam first: a search of V numbers a row is much cheaper than one of W V.
        values, unit = log_probs.topk(min(count, width), dim=-1)
        values = (values + self.scores.view(-1, 1)).view(sentences, -1)
        flat = unit.view(sentences, -1, unit.shape[1])
        flat = (flat + torch.arange(flat.shape[1], device=self.device).view(1, -1, 1) * width).flatten(1)
        values, place = values.topk(min(count, values.shape[1]), dim=1)
        return values, flat.gather(1, place), width

    def _put_aside(self, values: Tensor, parent: Tensor, is_end: Tensor, length: int) -> None:
        """Keep the candidates that end, where they are among their sentence's first W."""
        beams = self.units.shape[0] // len(self.sentences)
        for m, rank in is_end[:, : self.settings.beam].nonzero().tolist():
            log_prob = float(values[m, rank])
            if log_prob == -float("inf"):
                continue
            ids = tuple(self.units[m * beams + int(parent[m, rank])].tolist())
            score = self.settings.score(log_prob, length)
            self.ended[self.sentences[m]].append(Hypothesis(ids, log_prob, score, ended=True))

    def _shrink(self, unit: Tensor, length: int) -> Tensor:
        """Let sentences that are done leave, once they are a good share of the batch or all of it."""
        best = self.scores.amax(1).tolist()
        alive = [m for m, sentence in enumerate(self.sentences) if not self._done(sentence, best[m], length)]
        if len(alive) > (1 - COMPACT) * len(self.sentences):
            return unit
        self.sentences = [self.sentences[m] for m in alive]
        if not alive:
            return unit
        keep = torch.tensor(alive, device=self.device)
        beams = self.settings.beam
        rows = (keep.unsqueeze(1) * beams + torch.arange(beams, device=self.device)).flatten()
        self.scores, self.units = self.scores[keep], self.units[rows]
        self.state = self.state.reorder(rows, keep)
        return unit[rows]

    def _done(self, sentence: int, best_alive: float, length: int) -> bool:
        """No answer to come can be among the n best; or W have ended and none alive is better now."""
        settings, ended = self.settings, self.ended[sentence]
        if len(ended) < settings.n_best:
            return False
        worst = sorted((h.score for h in ended), reverse=True)[settings.n_best - 1]
        # log_prob only falls, and dividing by more than any length to come only helps it: a true upper bound.
        if worst >= settings.score(best_alive, settings.max_length):
            return True
        return len(ended) >= settings.beam and worst >= settings.score(best_alive, length)

    def _keep_alive(self, length: int) -> None:
        """max_length cuts the beams that have not ended."""
        for row, log_prob in enumerate(self.scores.flatten().tolist()):
            if log_prob > -float("inf"):
                sentence = self.sentences[row // self.settings.beam]
                score = self.settings.score(log_prob, length)
                ids = tuple(self.units[row].tolist())
                self.ended[sentence].append(Hypothesis(ids, log_prob, score, ended=False))
