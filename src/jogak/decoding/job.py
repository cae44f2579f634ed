"""Requests that are decoded together: what each of them asks for, made ready, and its answers put together."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from time import perf_counter
from typing import NoReturn

import torch

from jogak.codecs.text import Slots, Spelling, nfc
from jogak.decoding import risk, search
from jogak.decoding.answers import Codec, Generation, Piece, Timings
from jogak.decoding.constrain import Constraint
from jogak.decoding.processors import Chain, Forbidden, Rule
from jogak.decoding.sampling import Reason, Row, Start, Token
from jogak.decoding.settings import Sampling
from jogak.decoding.speculative import Counts
from jogak.decoding.streaming import Writing
from jogak.decoding.words import Words
from jogak.errors import UserError
from jogak.mixers import Context


@dataclass
class Job:
    """Requests that are decoded together, one for each prompt, and what was prepared for them."""

    prompts: list[list[int]]
    asked: list[Sampling]
    seeds: list[int]
    sources: list[list[int]] | None
    start: Start
    context: Context
    cached: list[int]
    began: float
    ready: float
    spellings: list[Spelling]
    forbidden: list[list[int]]
    constraints: list[Constraint | None]
    slots: Sequence[Slots]
    codec: Codec
    ends: frozenset[int]
    device: torch.device
    numbers: Sequence[int]  # what the caller's inputs are called, from 0
    counts: dict[int, Counts] = field(default_factory=dict)

    @cached_property
    def first_rules(self) -> list[Rule]:
        """The rules of the first prompt, made once."""
        return self.rules(0)

    def rules(self, number: int) -> list[Rule]:
        """What the answer to a prompt must be, as text."""
        rules: list[Rule] = []
        given = self.asked[number]
        if given.bad_words:
            rules.append(Words([nfc(word) for word in given.bad_words], self.spellings[number], self.prompts[number]))
        constraint = self.constraints[number]
        return [*rules, constraint] if constraint is not None else rules

    def chain(self, repeat: int = 1) -> Chain:
        """repeat: rows for each prompt."""
        numbers = [number for number in range(len(self.prompts)) for _ in range(repeat)]
        rules = [self.rules(number) for number in range(len(self.prompts))]
        asked = [self.asked[number] for number in numbers]
        return Chain.of(
            asked, [self.codec.eos_id, *self.ends], self.device, rules=[rules[number] for number in numbers]
        )

    def put_off(self, repeat: int = 1) -> Forbidden:
        return Forbidden([ids for ids in self.forbidden for _ in range(repeat)], self.device)

    def writing(self, number: int) -> Writing:
        stop = [nfc(text) for text in self.asked[number].stop]
        return Writing(self.spellings[number], stop, self.prompts[number])

    def rows(self, repeat: int, *, follow: bool, first: int = 0) -> list[Row]:
        """A row for each answer; follow: whether somebody reads its text while it comes."""
        return [
            Row(one, seed, first + choice, self.writing(number) if follow or one.stop else None, self.ends)
            for number, (one, seed) in enumerate(zip(self.asked, self.seeds, strict=True))
            for choice in range(repeat)
        ]

    def by_utility(self, prompt: int, searched: list[Generation], drawn: list[Generation]) -> list[Generation]:
        """The answers of the beam and samples of a prompt, each text once, by its expected utility."""
        searched, drawn = self.complete(prompt, searched), self.complete(prompt, drawn)
        if not searched and not drawn:
            self.refuse(prompt, "length")
        place = {(one.ids, one.reason): number for number, one in enumerate(searched)}
        same = [place.get((one.ids, one.reason)) for one in drawn]
        ours, theirs = risk.weights([one.log_prob for one in searched], same)
        every = [*searched, *drawn]
        utility = risk.expected([one.text for one in every], [*ours, *theirs])
        scored = [replace(one, score=value) for one, value in zip(every, utility, strict=True)]
        different = {one.text: one for one in reversed(scored)}  # the first of each text, which a search found if any
        return self.chosen(prompt, list(different.values()))

    def chosen(self, prompt: int, found: list[Generation]) -> list[Generation]:
        """The n answers that are given: those that are asked for, best first where there is a choice.

        Answers that keep every placeholder of a source come before those that do not.
        """
        given = self.asked[prompt]
        if given.method == "auto" and given.beam == 1 and (given.best_of or given.n) == given.n:
            for one in found:
                if not self.is_complete(prompt, one):
                    self.refuse(prompt, one.reason)
            return found
        whole = self.complete(prompt, found)
        if not whole:
            self.refuse(prompt, found[0].reason)
        ranked = sorted(whole, key=lambda one: (len(self.codec.lost(one.ids, self.slots[prompt])), -one.score))
        return ranked[: given.n]

    def answer(self, number: int, prompt: int, row: Row, told: list[Token]) -> Generation:
        reason = told[-1].reason or "length"
        ids = [token.id for token in told if token.reason != "end"]
        if row.writing is None:
            text = self.spellings[prompt].text(ids, self.prompts[prompt])
        else:
            text = row.writing.finish()
            if reason == "stop":
                told = told[: row.writing.kept]
                ids = [token.id for token in told]
        scores = tuple(token.log_prob for token in told)
        return Generation(
            tuple(ids),
            text,
            scores,
            self.timings(prompt, number),
            reason,
            sum(scores) / max(1, len(scores)),
            self.seeds[prompt] if row.settings.heat else None,
            tuple(token.top for token in told) if row.settings.logprobs else (),
            told[-1].id if reason == "end" else None,
        )

    def is_complete(self, prompt: int, one: Generation) -> bool:
        """Whether an answer that was cut is what it must be all the same."""
        constraint = self.constraints[prompt]
        return constraint is None or one.reason == "end" or constraint.complete(one.ids)

    def complete(self, prompt: int, found: list[Generation]) -> list[Generation]:
        return [one for one in found if self.is_complete(prompt, one)]

    def refuse(self, prompt: int, reason: Reason) -> NoReturn:
        constraint = self.constraints[prompt]
        assert constraint is not None
        name, most = f"input {self.numbers[prompt] + 1}", self.asked[prompt].max_new_tokens
        if reason == "stop":
            raise UserError(
                f"{name}: a stop text came before the answer was what {constraint.name} says; leave out stop"
            )
        raise UserError(
            f"{name}: max_new_tokens={most} came before the answer was what {constraint.name} says; raise it, or bound "
            f"the {constraint.name}"
        )

    def timings(self, prompt: int, number: int) -> Timings:
        read_ = len((self.sources or self.prompts)[prompt])
        counts = self.counts.get(number)
        cached = self.cached[prompt]
        now = perf_counter()
        if counts is None:
            return Timings(self.ready - self.began, now - self.began, read_, cached)
        return Timings(
            self.ready - self.began, now - self.began, read_, cached, counts.drafted, counts.accepted, counts.calls
        )

    def hypothesis(self, number: int, found: search.Hypothesis) -> Generation:
        ids, scores = list(found.ids), found.scores
        writing = self.writing(number)
        reason: Reason = "length"
        if any(writing.feed(unit) for unit in ids):
            reason, ids, scores = "stop", ids[: writing.kept], scores[: writing.kept]
        elif found.ended:
            reason = "end"
        text = writing.finish()
        end = found.end if reason == "end" else None
        return Generation(tuple(ids), text, tuple(scores), self.timings(number, -1), reason, found.score, end=end)

    def piece(self, number: int, row: Row, new: list[Token], heard: list[Token], repeat: int) -> Piece:
        assert row.writing is not None
        reason = new[-1].reason
        if reason is not None:
            constraint, whole = self.constraints[number // repeat], [t.id for t in heard if t.reason != "end"]
            if constraint is not None and reason != "end" and not constraint.complete(whole):
                self.refuse(number // repeat, reason)
        text = row.writing.take() if reason is None else row.writing.take() + row.writing.finish()
        ids = tuple(token.id for token in new if token.reason != "end")
        scores = tuple(token.log_prob for token in new)
        top = tuple(token.top for token in new) if row.settings.logprobs else ()
        return Piece(number, text, ids, scores, top, reason)
