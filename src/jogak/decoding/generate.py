"""Answers of a model that writes: ids in, `Generation`s out, whole or while they come, by every way of decoding.

See docs/decoding.md for what can be asked, processors for the order in which it is applied.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, NoReturn

import torch
from torch import Tensor

from jogak.codecs.text import Slots, Spelling, nfc
from jogak.decoding import risk, search
from jogak.decoding.answers import Codec, Generation, Piece, Timings
from jogak.decoding.constrain import Constraint, Constraints
from jogak.decoding.contrastive import contrast
from jogak.decoding.prefix import PrefixCache, read, read_sources
from jogak.decoding.processors import Chain, Forbidden, Rule
from jogak.decoding.sampling import Reason, Row, Start, Token, sample
from jogak.decoding.settings import Sampling, settings
from jogak.decoding.speculative import Draft, Guesser, Lookup, Speculation
from jogak.decoding.streaming import Writing
from jogak.decoding.words import Words
from jogak.errors import UserError
from jogak.mixers import EMPTY, Context
from jogak.models import Decoder, EncoderDecoder

Ids = Sequence[int]
ROWS = 512  # of samples that are drawn at once


@dataclass
class _Job:
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
    counts: dict[int, Speculation]


class Generator:
    """A model and its codec, ready to write. longest: positions that the model has places for; None: any number.

    cache: prompts (or sources) that begin alike are read once. draft: a smaller model of the same vocabulary, whose
    guesses `draft_tokens` asks for; without one they are looked up in the text so far. ends: units that end an answer
    besides the codec's end mark. by_length: what length_penalty means, as in search.Settings.
    """

    def __init__(
        self,
        model: Decoder,
        codec: Codec,
        *,
        longest: int | None = None,
        cache: PrefixCache | None = None,
        draft: Decoder | None = None,
        ends: Sequence[int] = (),
        by_length: bool = False,
    ) -> None:
        self.model, self.codec, self.longest, self.cache, self.draft = model, codec, longest, cache, draft
        self.ends, self.by_length = frozenset(ends) - {codec.eos_id}, by_length
        self.constraints = Constraints(codec)
        if draft is not None:
            _check_draft(model, draft)

    @property
    def reads_source(self) -> bool:
        return isinstance(self.model, EncoderDecoder)

    def encode(self, text: str) -> list[int]:
        """The ids that `generate` takes for a text: a prompt with the beginning mark, a source with the end mark."""
        if self.reads_source:
            return [*self.codec.encode_source(text).ids, self.codec.eos_id]
        return [self.codec.bos_id, *self.codec.encode(text)]

    def generate(
        self,
        inputs: Sequence[Ids],
        asked: Sampling | Sequence[Sampling] | None = None,
        *,
        slots: Sequence[Slots] | None = None,
        done: Callable[[int], None] = lambda count: None,
        **changes: Any,  # noqa: ANN401
    ) -> list[list[Generation]]:
        """The n answers to each input, best first. asked: settings, one for all inputs or one for each.

        slots: the placeholders of each source (see TextCodec.encode_source). done: told how many inputs each batch
        finished.

        Raises: UserError for settings that do not fit, a prompt that is empty or too long, or an answer that
        max_new_tokens cuts before it is what a constraint says.
        """
        wanted = self._wanted(inputs, asked, changes)
        found: list[list[Generation]] = [[] for _ in inputs]
        for numbers in _alike(wanted, self._beginnings(inputs)):
            ours = None if slots is None else [slots[n] for n in numbers]
            answers = self._together([list(inputs[n]) for n in numbers], [wanted[n] for n in numbers], ours)
            done(len(numbers))
            for number, ours in zip(numbers, answers, strict=True):
                found[number] = ours
        return found

    def stream(
        self,
        inputs: Sequence[Ids],
        asked: Sampling | Sequence[Sampling] | None = None,
        **changes: Any,  # noqa: ANN401
    ) -> Iterator[Piece]:
        """The answers piece by piece, as their units come; the n answers to one input have numbers one after another.

        Raises: UserError as `generate` does, and for a beam search or best_of, which know no answer before the end.
        """
        wanted = self._wanted(inputs, asked, changes)
        for given in wanted:
            if given.beam > 1 or given.method == "mbr" or given.best_of not in (None, given.n):
                raise UserError(
                    "beam, best_of and method mbr know no answer before the end, so that nothing can be streamed; "
                    "leave them out, or use generate"
                )
        if len(_alike(wanted, [None] * len(wanted))) > 1:
            raise UserError("inputs that are streamed together need one way of decoding; stream them apart")
        return self._pieces([list(ids) for ids in inputs], wanted)

    # ------------------------------------------------------------ preparing

    def _wanted(
        self, inputs: Sequence[Ids], asked: Sampling | Sequence[Sampling] | None, changes: dict[str, Any]
    ) -> list[Sampling]:
        given = [asked] * len(inputs) if asked is None or isinstance(asked, Sampling) else list(asked)
        if len(given) != len(inputs):
            raise UserError(f"there are settings for {len(given)} inputs and {len(inputs)} inputs; give as many")
        wanted = [settings(one, **changes) for one in given]
        for number, (ids, one) in enumerate(zip(inputs, wanted, strict=True), 1):
            if not len(ids):
                raise UserError(f"input {number}: is empty; a prompt has at least the beginning mark")
            wrong = next((n for n in ids if not 0 <= n < self._width), None)
            if wrong is not None:
                raise UserError(
                    f"input {number}: id {wrong} is not in the vocabulary, whose ids are below {self._width}"
                )
            if self.reads_source and self.longest is not None and len(ids) > self.longest:
                raise UserError(
                    f"input {number}: has {len(ids)} tokens, and the model has {self.longest} positions; shorten it"
                )
            prompt = 1 if self.reads_source else len(ids)
            if self.longest is not None and prompt + one.max_new_tokens > self.longest:
                raise UserError(
                    f"input {number}: has {prompt} tokens, and with max_new_tokens={one.max_new_tokens} more they are "
                    f"beyond the {self.longest} positions of the model; shorten it, or ask for fewer"
                )
        return wanted

    def _beginnings(self, inputs: Sequence[Ids]) -> list[tuple[int, ...] | None]:
        """The first block of each prompt that the prefix cache may know: those that share it are read together."""
        if self.cache is None or self.reads_source:
            return [None] * len(inputs)
        block = self.cache.block
        return [tuple(ids[:block]) if len(ids) > block else None for ids in inputs]

    @property
    def _width(self) -> int:
        return int(self.model.decoder.embedding.table.weight.shape[0])

    @property
    def _device(self) -> torch.device:
        return self.model.decoder.embedding.table.weight.device

    def _job(self, inputs: list[list[int]], asked: list[Sampling], slots: Sequence[Slots] | None = None) -> _Job:
        """Everything read, and nothing written yet."""
        began = perf_counter()
        pad, context, cached, sources = self.codec.pad_id, EMPTY, [0] * len(inputs), None
        prompts = inputs
        if isinstance(self.model, EncoderDecoder):
            context, cached = read_sources(self.model, inputs, pad=pad, cache=self.cache, device=self._device)
            prompts, sources = [[self.codec.bos_id] for _ in inputs], inputs
        cache = None if self.reads_source else self.cache
        start, known = read(self.model, prompts, context, pad=pad, cache=cache, device=self._device)
        seeds = [_seed(one) for one in asked]
        slots = slots or [{} for _ in inputs]
        constraints = [self.constraints.of(one, prompt) for one, prompt in zip(asked, prompts, strict=True)]
        return _Job(
            prompts,
            asked,
            seeds,
            sources,
            start,
            context,
            cached if self.reads_source else [known] * len(inputs),
            began,
            perf_counter(),
            [self.codec.spelling.with_slots(ours) for ours in slots],
            [self.codec.forbidden(ours) for ours in slots],
            constraints,
            slots,
            {},
        )

    def _rules(self, job: _Job, number: int) -> list[Rule]:
        """What the answer to a prompt must be, as text."""
        rules: list[Rule] = []
        given = job.asked[number]
        if given.bad_words:
            rules.append(Words([nfc(word) for word in given.bad_words], job.spellings[number], job.prompts[number]))
        constraint = job.constraints[number]
        return [*rules, constraint] if constraint is not None else rules

    def _chain(self, job: _Job, repeat: int = 1) -> Chain:
        """repeat: rows for each prompt."""
        numbers = [number for number in range(len(job.prompts)) for _ in range(repeat)]
        rules = [self._rules(job, number) for number in range(len(job.prompts))]
        asked = [job.asked[number] for number in numbers]
        return Chain.of(
            asked, [self.codec.eos_id, *self.ends], self._device, rules=[rules[number] for number in numbers]
        )

    def _forbidden(self, job: _Job, repeat: int = 1) -> Forbidden:
        return Forbidden([ids for ids in job.forbidden for _ in range(repeat)], self._device)

    def _writing(self, job: _Job, number: int) -> Writing:
        stop = [nfc(text) for text in job.asked[number].stop]
        return Writing(job.spellings[number], stop, job.prompts[number])

    def _rows(self, job: _Job, repeat: int, *, follow: bool, first: int = 0) -> list[Row]:
        """A row for each answer; follow: whether somebody reads its text while it comes."""
        return [
            Row(one, seed, first + choice, self._writing(job, number) if follow or one.stop else None, self.ends)
            for number, (one, seed) in enumerate(zip(job.asked, job.seeds, strict=True))
            for choice in range(repeat)
        ]

    # ------------------------------------------------------------ writing

    def _tokens(self, job: _Job, rows: list[Row], repeat: int) -> Iterator[list[Token]]:
        """The units of every row, by the way of decoding that is asked for."""
        given, end = job.asked[0], self.codec.eos_id
        if given.draft_tokens:
            for number, row in enumerate(rows):
                yield from self._speculate(job, number, row)
            return
        start, forbidden = job.start.repeat(repeat), self._forbidden(job, repeat)
        chain = self._chain(job, repeat)
        if given.penalty_alpha:
            before = self._hidden(job)
            yield from contrast(self.model, start, before, rows, chain, forbidden, end)
        else:
            yield from sample(self.model, start, rows, chain, forbidden, end)

    @torch.inference_mode()
    def _hidden(self, job: _Job) -> Tensor:
        """What the model makes of each position of the prompts: [B T D]."""
        ids = job.start.history
        mask = ids >= 0
        x, _ = self.model.hidden(ids.clamp(min=0), None, replace(job.context, mask=mask))
        return x

    def _speculate(self, job: _Job, number: int, row: Row) -> Iterator[list[Token]]:
        """One answer to the one prompt of the job."""
        chain, forbidden = self._chain(job), self._forbidden(job)
        guesser: Guesser
        if self.draft is None:
            guesser = Lookup(job.prompts[0], () if job.sources is None else job.sources[0])
        else:
            context: Context = EMPTY
            if job.sources is not None:
                assert isinstance(self.draft, EncoderDecoder)
                context, _ = read_sources(self.draft, job.sources, pad=self.codec.pad_id, device=self._device)
            start, _ = read(self.draft, job.prompts, context, pad=self.codec.pad_id, device=self._device)
            guesser = Draft(self.draft, start, row, chain, forbidden, self.codec.eos_id)
        job.counts[number] = run = Speculation(
            self.model, job.start, row, chain, forbidden, self.codec.eos_id, guesser, number
        )
        yield from run.run()

    def _together(
        self, inputs: list[list[int]], asked: list[Sampling], slots: Sequence[Slots] | None
    ) -> list[list[Generation]]:
        with _evaluating(self.model, self.draft):
            job = self._job(inputs, asked, slots)
            if asked[0].method == "mbr":
                return self._least_risk(job)
            if asked[0].beam > 1:
                return [self._chosen(job, n, found) for n, found in enumerate(self._searched(job))]
            return [self._chosen(job, n, found) for n, found in enumerate(self._written(job))]

    def _written(self, job: _Job, first: int = 0, count: int | None = None) -> list[list[Generation]]:
        """The answers to each prompt, in the order of their own streams of chance, which begin with number `first`."""
        repeat = count or job.asked[0].best_of or job.asked[0].n
        rows = self._rows(job, repeat, follow=False, first=first)
        told: list[list[Token]] = [[] for _ in rows]
        for tokens in self._tokens(job, rows, repeat):
            for token in tokens:
                told[token.row].append(token)
        answers = [self._answer(job, n, n // repeat, row, told[n]) for n, row in enumerate(rows)]
        return [answers[n : n + repeat] for n in range(0, len(answers), repeat)]

    def _least_risk(self, job: _Job) -> list[list[Generation]]:
        """The answers of the beam and samples, by their expected utility."""
        searched, drawn = self._searched(job), [list[Generation]() for _ in job.prompts]
        at_once = max(1, ROWS // len(job.prompts))
        for first in range(0, job.asked[0].mbr_samples, at_once):
            count = min(at_once, job.asked[0].mbr_samples - first)
            for known, found in zip(drawn, self._written(job, first, count), strict=True):
                known.extend(found)
        return [self._by_utility(job, n, *found) for n, found in enumerate(zip(searched, drawn, strict=True))]

    def _by_utility(
        self, job: _Job, prompt: int, searched: list[Generation], drawn: list[Generation]
    ) -> list[Generation]:
        searched, drawn = self._complete(job, prompt, searched), self._complete(job, prompt, drawn)
        if not searched and not drawn:
            self._refuse(job, prompt, "length")
        place = {(one.ids, one.reason): number for number, one in enumerate(searched)}
        same = [place.get((one.ids, one.reason)) for one in drawn]
        ours, theirs = risk.weights([one.log_prob for one in searched], same)
        every = [*searched, *drawn]
        utility = risk.expected([one.text for one in every], [*ours, *theirs])
        scored = [replace(one, score=value) for one, value in zip(every, utility, strict=True)]
        different = {one.text: one for one in reversed(scored)}  # the first of each text, which a search found if any
        return self._chosen(job, prompt, list(different.values()))

    def _chosen(self, job: _Job, prompt: int, found: list[Generation]) -> list[Generation]:
        """The n answers that are given: those that are asked for, best first where there is a choice.

        Answers that keep every placeholder of a source come before those that do not.
        """
        given = job.asked[prompt]
        if given.method == "auto" and given.beam == 1 and (given.best_of or given.n) == given.n:
            for one in found:
                if not self._is_complete(job, prompt, one):
                    self._refuse(job, prompt, one.reason)
            return found
        whole = self._complete(job, prompt, found)
        if not whole:
            self._refuse(job, prompt, found[0].reason)
        ranked = sorted(whole, key=lambda one: (len(self.codec.lost(one.ids, job.slots[prompt])), -one.score))
        return ranked[: given.n]

    def _answer(self, job: _Job, number: int, prompt: int, row: Row, told: list[Token]) -> Generation:
        reason = told[-1].reason or "length"
        ids = [token.id for token in told if token.reason != "end"]
        if row.writing is None:
            text = job.spellings[prompt].text(ids, job.prompts[prompt])
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
            self._timings(job, prompt, number),
            reason,
            sum(scores) / max(1, len(scores)),
            job.seeds[prompt] if row.settings.heat else None,
            tuple(token.top for token in told) if row.settings.logprobs else (),
            told[-1].id if reason == "end" else None,
        )

    def _is_complete(self, job: _Job, prompt: int, one: Generation) -> bool:
        """Whether an answer that was cut is what it must be all the same."""
        constraint = job.constraints[prompt]
        return constraint is None or one.reason == "end" or constraint.complete(one.ids)

    def _complete(self, job: _Job, prompt: int, found: list[Generation]) -> list[Generation]:
        return [one for one in found if self._is_complete(job, prompt, one)]

    def _refuse(self, job: _Job, prompt: int, reason: Reason) -> NoReturn:
        constraint = job.constraints[prompt]
        assert constraint is not None
        if reason == "stop":
            raise UserError(
                f"input {prompt + 1}: a stop text came before the answer was what {constraint.name} says; "
                "leave out stop"
            )
        raise UserError(
            f"input {prompt + 1}: max_new_tokens={job.asked[prompt].max_new_tokens} came before the answer was "
            f"what {constraint.name} says; raise it, or bound the {constraint.name}"
        )

    def _timings(self, job: _Job, prompt: int, number: int) -> Timings:
        read_ = len((job.sources or job.prompts)[prompt])
        counts = job.counts[number].counts if number in job.counts else None
        cached = job.cached[prompt]
        now = perf_counter()
        if counts is None:
            return Timings(job.ready - job.began, now - job.began, read_, cached)
        return Timings(
            job.ready - job.began, now - job.began, read_, cached, counts.drafted, counts.accepted, counts.calls
        )

    def _searched(self, job: _Job) -> list[list[Generation]]:
        """What beam search finds, diverse where there are groups: n answers, or all where some may be passed over."""
        given = job.asked[0]
        chain = self._chain(job)
        plain = given.method == "auto" and not self.reads_source and not any(job.constraints)

        def stops(sentence: int, answer: Sequence[int]) -> bool:
            writing = self._writing(job, sentence)
            return any(writing.feed(unit) for unit in answer)

        wanted = search.Settings(
            end=self.codec.eos_id,
            ends=tuple(self.ends),
            max_length=given.max_new_tokens,
            beam=given.beam,
            length_penalty=given.length_penalty,
            by_length=self.by_length,
            n_best=given.n if plain else given.beam,
            forbidden=tuple(tuple(ids) for ids in job.forbidden),
            groups=given.beam_groups,
            diversity=given.diversity_penalty,
            chain=chain if chain else None,
            stops=stops if any(one.stop for one in job.asked) else None,
        )
        found = search.beams(self.model, job.start, wanted)
        return [[self._hypothesis(job, number, one) for one in ours] for number, ours in enumerate(found)]

    def _hypothesis(self, job: _Job, number: int, found: search.Hypothesis) -> Generation:
        ids, scores = list(found.ids), found.scores
        writing = self._writing(job, number)
        reason: Reason = "length"
        if any(writing.feed(unit) for unit in ids):
            reason, ids, scores = "stop", ids[: writing.kept], scores[: writing.kept]
        elif found.ended:
            reason = "end"
        text = writing.finish()
        end = found.end if reason == "end" else None
        return Generation(tuple(ids), text, tuple(scores), self._timings(job, number, -1), reason, found.score, end=end)

    def _pieces(self, inputs: list[list[int]], asked: list[Sampling]) -> Iterator[Piece]:
        with _evaluating(self.model, self.draft):
            job = self._job(inputs, asked)
        repeat = asked[0].n
        rows = self._rows(job, repeat, follow=True)
        heard: list[list[Token]] = [[] for _ in rows]
        steps = self._tokens(job, rows, repeat)
        while True:
            with _evaluating(self.model, self.draft):
                tokens = next(steps, None)
            if tokens is None:
                return
            for number, ours in _by_row(tokens):
                heard[number] += ours
                yield self._piece(job, number, rows[number], ours, heard[number], repeat)

    def _piece(self, job: _Job, number: int, row: Row, new: list[Token], heard: list[Token], repeat: int) -> Piece:
        assert row.writing is not None
        reason = new[-1].reason
        text = row.writing.take() if reason is None else row.writing.take() + row.writing.finish()
        if reason is not None:
            constraint, whole = job.constraints[number // repeat], [t.id for t in heard if t.reason != "end"]
            if constraint is not None and reason != "end" and not constraint.complete(whole):
                self._refuse(job, number // repeat, reason)
        ids = tuple(token.id for token in new if token.reason != "end")
        scores = tuple(token.log_prob for token in new)
        top = tuple(token.top for token in new) if row.settings.logprobs else ()
        return Piece(number, text, ids, scores, top, reason)


def _seed(asked: Sampling) -> int:
    """The seed of a request; a search among samples is the same each time, as every search is."""
    if asked.seed is not None:
        return asked.seed
    return 0 if asked.method == "mbr" else secrets.randbits(63)


def _by_row(tokens: Iterable[Token]) -> list[tuple[int, list[Token]]]:
    rows: dict[int, list[Token]] = {}
    for token in tokens:
        rows.setdefault(token.row, []).append(token)
    return list(rows.items())


def _alike(asked: Sequence[Sampling], beginnings: Sequence[object]) -> list[list[int]]:
    """Numbers of the requests that one way of decoding can serve together, and that begin alike."""
    groups: dict[object, list[int]] = {}
    for number, one in enumerate(asked):
        searches: tuple[object, ...] = ()
        if one.beam > 1 or one.method == "mbr":
            searches = (one.beam, one.beam_groups, one.diversity_penalty, one.length_penalty, one.method)
        if one.method == "mbr":
            searches = (*searches, one.mbr_samples)
        longest = one.max_new_tokens if searches or one.penalty_alpha else 0
        contrasts = (one.penalty_alpha, one.top_k) if one.penalty_alpha else ()
        alone = number if one.draft_tokens else None  # how far speculation gets in a step is each answer's own
        key = (searches, longest, contrasts, alone, one.n, one.best_of, beginnings[number])
        groups.setdefault(key, []).append(number)
    return list(groups.values())


class _evaluating:
    """The models in evaluation mode for a while."""

    def __init__(self, *models: Decoder | None) -> None:
        self.models = [model for model in models if model is not None and model.training]

    def __enter__(self) -> None:
        for model in self.models:
            model.eval()

    def __exit__(self, *raised: object) -> None:
        for model in self.models:
            model.train()


def _check_draft(model: Decoder, draft: Decoder) -> None:
    sizes = [int(m.decoder.embedding.table.weight.shape[0]) for m in (model, draft)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"the draft model has a vocabulary of {sizes[1]} and the model one of {sizes[0]}; a draft needs the same"
        )
    if isinstance(model, EncoderDecoder) != isinstance(draft, EncoderDecoder):
        raise UserError("the draft model must read a source where the model does, and none where it does not")
