"""Speculative decoding: guess several units, let the model judge them in one call, keep what it would have said.

Guess i is kept with probability min(1, p(x) / q(x)), p the model's distribution and q the guesser's, both after the
processors; at the first that is not, a unit is drawn from max(0, p - q), normalised. What comes has then exactly the
model's distribution, and greedy decoding stays greedy decoding. Source: Leviathan et al. 2023 (2211.17192), section
2.3; guesses looked up in the text so far: Saxena 2023, "Prompt lookup decoding".

Rolling back needs nothing of a mixer: the state before the guesses is kept, as every state may be, and units that were
kept since are read again together with the next guesses, until there are so many that they are read once alone.

Legend: V vocabulary, k guesses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from jogak.decoding.processors import Chain, Forbidden
from jogak.decoding.sampling import Generates, Row, Start, Token, draw, generator, likeliest, why
from jogak.mixers import EMPTY
from jogak.models import ModelState

READ_AGAIN = 8  # units since the kept state that are read again with new guesses


@dataclass(frozen=True)
class Guess:
    """ids: units guessed; mass [k V]: what each was drawn from, None: it was certain."""

    ids: list[int]
    mass: Tensor | None = None


class Guesser(Protocol):
    def guess(self, answer: Sequence[int], count: int) -> Guess:
        """At most `count` units that may follow the prompt and `answer`."""
        ...


class Lookup:
    """What followed the last few units where they stood before, in the prompt, in `also`, or in the answer."""

    def __init__(self, prompt: Sequence[int], also: Sequence[int] = (), longest: int = 3) -> None:
        self.longest = longest
        self._text: list[int] = []
        self._known: dict[tuple[int, ...], int] = {}  # run -> where what followed it stands
        self._read(also)
        self._prompt = len(also) + len(prompt)
        self._read(prompt)

    def _read(self, ids: Sequence[int]) -> None:
        for unit in ids:
            self._text.append(unit)
            end = len(self._text) - 1
            for n in range(1, min(self.longest, end) + 1):  # runs that end before this unit, which follows them
                self._known[tuple(self._text[end - n : end])] = end

    def guess(self, answer: Sequence[int], count: int) -> Guess:
        self._read(answer[len(self._text) - self._prompt :])
        for n in range(min(self.longest, len(self._text)), 0, -1):
            at = self._known.get(tuple(self._text[-n:]))
            if at is not None:
                return Guess(self._text[at : at + count])
        return Guess([])


class Draft:
    """Units of a smaller model with the same vocabulary, drawn or taken as the large one does, up to the end mark."""

    def __init__(self, model: Generates, start: Start, row: Row, chain: Chain, forbidden: Forbidden, end: int) -> None:
        self.model, self.row, self.chain, self.forbidden, self.end = model, row, chain, forbidden, end
        self.history, self.width = start.history, start.history.shape[1]
        self._read_to = 0  # units of the answer that are behind us for good
        self._after: list[tuple[ModelState, Tensor]] = [(start.state, start.logits)]  # after them and each unit ahead
        self._ahead: list[int] = []
        self._chance = generator(row.seed, row.choice, "draft")

    def guess(self, answer: Sequence[int], count: int) -> Guess:
        self._catch_up(answer)
        ids: list[int] = []
        masses: list[Tensor] = []
        for number in range(count):
            scores = self.forbidden(self._after[-1][1].clone())
            if self.chain:
                so_far = torch.tensor([[*answer, *ids]], dtype=torch.int64, device=scores.device)
                scores = self.chain(scores, torch.cat([self.history, so_far], dim=1), self.width)
            if self.row.settings.heat == 0:
                unit = int(scores.argmax(-1))
            else:
                u = torch.rand(1, generator=self._chance, dtype=torch.float64).clamp(max=1 - 1e-12)
                unit = int(draw(scores, u.to(scores.device)))
                masses.append(scores.softmax(-1)[0])
            ids.append(unit)
            if unit == self.end:
                break
            if number + 1 < count:
                self._read(unit)
        return Guess(ids, torch.stack(masses) if masses else None)

    def _catch_up(self, answer: Sequence[int]) -> None:
        """Go back to where the answer and our guesses part, read the rest, and forget the states before."""
        new, same = answer[self._read_to :], 0
        while same < min(len(self._ahead), len(new)) and self._ahead[same] == new[same]:
            same += 1
        del self._ahead[same:], self._after[same + 1 :]
        for unit in new[same:]:
            self._read(unit)
        self._read_to, self._ahead, self._after = len(answer), [], self._after[-1:]

    def _read(self, unit: int) -> None:
        state, logits = self._after[-1]
        x, state = self.model.hidden(torch.tensor([[unit]], device=logits.device), state, EMPTY)
        self._after.append((state, self.model.head(x)[:, -1]))
        self._ahead.append(unit)


@dataclass
class Counts:
    """How many units were guessed, how many of them kept, and how often the model was called."""

    drafted: int = 0
    accepted: int = 0
    calls: int = 0


class Speculation:
    """One answer of `model` with guesses of `guesser`; `run` gives its units, several at a time."""

    def __init__(
        self,
        model: Generates,
        start: Start,
        row: Row,
        chain: Chain,
        forbidden: Forbidden,
        end: int,
        guesser: Guesser,
        number: int = 0,
    ) -> None:
        self.model, self.row, self.chain, self.forbidden, self.end = model, row, chain, forbidden, end
        self.guesser, self.number = guesser, number
        self.counts = Counts()
        self.history, self.width = start.history, start.history.shape[1]
        self._state, self._logits = start.state, start.logits
        self._unread: list[int] = []  # units of the answer that the kept state has not seen
        self._answer: list[int] = []
        self._chance = generator(row.seed, row.choice, "verify")

    @torch.inference_mode()
    def run(self) -> Iterator[list[Token]]:
        scores, logits = self._scores(self._logits, [])
        found = [self._tell(self._draw(scores), logits)]
        yield found
        most = self.row.settings.max_new_tokens
        while found[-1].reason is None:
            count = min(self.row.settings.draft_tokens, most - len(self._answer) - 1)
            guess = self.guesser.guess(self._answer, count) if count > 0 else Guess([])
            found = self._judge(guess)
            yield found

    def _judge(self, guess: Guess) -> list[Token]:
        """The units that one call of the model settles: the guesses that are kept, and one of its own."""
        if guess.ids and len(self._unread) > READ_AGAIN:
            _, self._state = self._call(self._unread[:-1])
            self._unread = self._unread[-1:]
        x, state = self._call([*self._unread, *guess.ids])
        logits = self.model.head(x[:, -len(guess.ids) - 1 :])[0]
        self.counts.drafted += len(guess.ids)
        found: list[Token] = []
        for place in range(len(guess.ids) + 1):
            scores, ours = self._scores(logits[place : place + 1], self._answer)
            unit, kept = self._settle(scores, guess, place)
            self.counts.accepted += kept
            found.append(self._tell(unit, ours))
            if not kept or found[-1].reason is not None:
                break
        if len(found) == len(guess.ids) + 1:
            self._state, self._unread = state, [found[-1].id]
        return found

    def _call(self, units: Sequence[int]) -> tuple[Tensor, ModelState]:
        """hidden [1 n D] of units after the kept state, and the state after them."""
        self.counts.calls += 1
        return self.model.hidden(torch.tensor([list(units)], device=self._logits.device), self._state, EMPTY)

    def _scores(self, logits: Tensor, answer: Sequence[int]) -> tuple[Tensor, Tensor]:
        """logits [1 V] after the processors, and before them."""
        logits = self.forbidden(logits)
        if not self.chain:
            return logits, logits
        so_far = torch.tensor([list(answer)], dtype=torch.int64, device=logits.device)
        return self.chain(logits, torch.cat([self.history, so_far], dim=1), self.width), logits

    def _settle(self, scores: Tensor, guess: Guess, place: int) -> tuple[int, bool]:
        """The unit that comes at `place`, and whether it is the guess, kept."""
        if place == len(guess.ids):
            return self._draw(scores), False
        x = guess.ids[place]
        if self.row.settings.heat == 0:
            unit = int(scores.argmax(-1))
            return unit, unit == x
        p = scores.softmax(-1)[0]
        if guess.mass is None:
            q = torch.zeros_like(p)
            q[x] = 1.0
        else:
            q = guess.mass[place]
        if self._number() * float(q[x]) < float(p[x]):
            return x, True
        left = (p - q).clamp(min=0)
        if not bool(left.any()):  # p and q differ by rounding only
            left = p
        return int(draw(left.log().unsqueeze(0), torch.tensor([self._number()], device=p.device))), False

    def _draw(self, scores: Tensor) -> int:
        if self.row.settings.heat == 0:
            return int(scores.argmax(-1))
        return int(draw(scores, torch.tensor([self._number()], device=scores.device, dtype=torch.float64)))

    def _number(self) -> float:
        return min(float(torch.rand(1, generator=self._chance, dtype=torch.float64)), 1 - 1e-12)

    def _tell(self, unit: int, logits: Tensor) -> Token:
        log_prob = float(logits[0, unit] - logits[0].logsumexp(-1))
        top = likeliest(logits, self.row)[0]
        self._answer.append(unit)
        self._unread.append(unit)
        return Token(self.number, unit, log_prob, top, why(self.row, unit, self.end, len(self._answer)))
