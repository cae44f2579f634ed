"""Answers of a model that writes: ids in, `Generation`s out, whole or while they come, by every way of decoding.

See docs/decoding.md for what can be asked, processors for the order in which it is applied.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from jogak.codecs.text import Slots
from jogak.decoding import search
from jogak.decoding.answers import Codec, Generation, Piece
from jogak.decoding.constrain import Constraints
from jogak.decoding.contrastive import contrast
from jogak.decoding.job import Job
from jogak.decoding.prefix import PrefixCache, pad_left, read, read_sources
from jogak.decoding.sampling import Row, Start, Token, sample
from jogak.decoding.settings import Sampling, settings
from jogak.decoding.speculative import Draft, Guesser, Lookup, Speculation
from jogak.errors import UserError
from jogak.mixers import EMPTY, Context
from jogak.models import Decoder, EncoderDecoder, ModelState

Ids = Sequence[int]
ROWS = 512  # of samples that are drawn at once


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
            with _evaluating(self.model, self.draft):
                job = self._job([list(inputs[n]) for n in numbers], [wanted[n] for n in numbers], ours, numbers)
                answers = self._together(job)
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
        wanted = self.streamable(inputs, asked, changes)
        if len(_alike(wanted, [None] * len(wanted))) > 1:
            raise UserError("inputs that are streamed together need one way of decoding; stream them apart")
        return self._pieces([list(ids) for ids in inputs], wanted)

    # ------------------------------------------------------------ preparing

    def streamable(
        self, inputs: Sequence[Ids], asked: Sampling | Sequence[Sampling] | None, changes: dict[str, Any]
    ) -> list[Sampling]:
        """The settings of each input.

        Raises: UserError as `stream` does.
        """
        wanted = self._wanted(inputs, asked, changes)
        for given in wanted:
            if given.beam > 1 or given.method == "mbr" or given.best_of not in (None, given.n):
                raise UserError(
                    "beam, best_of and method mbr know no answer before the end, so that nothing can be streamed; "
                    "leave them out, or use generate"
                )
        return wanted

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
        return self.model.decoder.embedding.units

    @property
    def device(self) -> torch.device:
        return self.model.decoder.embedding.device

    def _job(
        self,
        inputs: list[list[int]],
        asked: list[Sampling],
        slots: Sequence[Slots] | None = None,
        numbers: Sequence[int] = (),
    ) -> Job:
        """Everything read, and nothing written yet."""
        began = perf_counter()
        pad, context, cached, sources = self.codec.pad_id, EMPTY, [0] * len(inputs), None
        prompts = inputs
        if isinstance(self.model, EncoderDecoder):
            context, cached = read_sources(self.model, inputs, pad=pad, cache=self.cache, device=self.device)
            prompts, sources = [[self.codec.bos_id] for _ in inputs], inputs
        cache = None if self.reads_source else self.cache
        start, known = read(self.model, prompts, context, pad=pad, cache=cache, device=self.device)
        cached = cached if self.reads_source else [known] * len(inputs)
        return self._made(prompts, asked, sources, start, context, cached, began, slots, numbers)

    def _made(
        self,
        prompts: list[list[int]],
        asked: list[Sampling],
        sources: list[list[int]] | None,
        start: Start,
        context: Context,
        cached: list[int],
        began: float,
        slots: Sequence[Slots] | None = None,
        numbers: Sequence[int] = (),
    ) -> Job:
        slots = slots or [{} for _ in prompts]
        return Job(
            prompts,
            asked,
            [_seed(one) for one in asked],
            sources,
            start,
            context,
            cached,
            began,
            perf_counter(),
            [self.codec.spelling.with_slots(ours) for ours in slots],
            [self.codec.forbidden(ours) for ours in slots],
            [self.constraints.of(one, prompt) for one, prompt in zip(asked, prompts, strict=True)],
            slots,
            self.codec,
            self.ends,
            self.device,
            numbers or range(len(prompts)),
        )

    @torch.inference_mode()
    def begin(self, ids: list[int], asked: Sampling, state: ModelState | None = None, cached: int = 0) -> Job:
        """A request whose state says of every place that it is real, so that it can be joined to others.

        state: what was made of all of its prompt but the last id (of a model that reads no source).
        """
        began, context, prompt, sources = perf_counter(), EMPTY, ids, None
        known = [cached]
        if isinstance(self.model, EncoderDecoder):
            source, known = read_sources(self.model, [ids], pad=self.codec.pad_id, cache=self.cache, device=self.device)
            if source.memory is not None:
                source = replace(source, memory_mask=torch.ones_like(source.memory[..., 0], dtype=torch.bool))
            context, prompt, sources = source, [self.codec.bos_id], [ids]
        last = torch.tensor([prompt[-1:]], device=self.device)
        x, after = self.model.hidden(last, state, replace(context, mask=torch.ones_like(last, dtype=torch.bool)))
        start = Start(self.model.head(x[:, -1:])[:, 0], after, torch.tensor([prompt], device=self.device))
        return self._made([prompt], [asked], sources, start, context, known, began)

    @torch.inference_mode()
    def begin_together(self, prompts: list[list[int]], asked: list[Sampling]) -> tuple[Start, list[Job]]:
        """The same for prompts that are read whole and at once: where their answers begin, a row each, and their jobs.

        Of a model that reads no source.
        """
        began = perf_counter()
        ids, mask = pad_left(prompts, self.codec.pad_id, self.device)
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        x, state = self.model.hidden(ids, None, Context(mask=mask))
        start = Start(self.model.head(x[:, -1:])[:, 0], state, pad_left(prompts, -1, self.device)[0])
        given = zip(prompts, asked, strict=True)
        return start, [self._made([ids], [one], None, start, EMPTY, [0], began) for ids, one in given]

    def evaluating(self) -> "_evaluating":
        """The model (and its draft) in evaluation mode for a while."""
        return _evaluating(self.model, self.draft)

    # ------------------------------------------------------------ writing

    def _tokens(self, job: Job, rows: list[Row], repeat: int) -> Iterator[list[Token]]:
        """The units of every row, by the way of decoding that is asked for."""
        given, end = job.asked[0], self.codec.eos_id
        if given.draft_tokens:
            for number, row in enumerate(rows):
                yield from self._speculate(job, number, row)
            return
        start, forbidden = job.start.repeat(repeat), job.put_off(repeat)
        chain = job.chain(repeat)
        if given.penalty_alpha:
            before = self._hidden(job)
            yield from contrast(self.model, start, before, rows, chain, forbidden, end)
        else:
            yield from sample(self.model, start, rows, chain, forbidden, end)

    @torch.inference_mode()
    def _hidden(self, job: Job) -> Tensor:
        """What the model makes of each position of the prompts: [B T D]."""
        ids = job.start.history
        mask = ids >= 0
        x, _ = self.model.hidden(ids.clamp(min=0), None, replace(job.context, mask=mask))
        return x

    def _speculate(self, job: Job, number: int, row: Row) -> Iterator[list[Token]]:
        """One answer to the one prompt of the job."""
        chain, forbidden = job.chain(), job.put_off()
        guesser: Guesser
        if self.draft is None:
            guesser = Lookup(job.prompts[0], () if job.sources is None else job.sources[0])
        else:
            context: Context = EMPTY
            if job.sources is not None:
                assert isinstance(self.draft, EncoderDecoder)
                context, _ = read_sources(self.draft, job.sources, pad=self.codec.pad_id, device=self.device)
            start, _ = read(self.draft, job.prompts, context, pad=self.codec.pad_id, device=self.device)
            guesser = Draft(self.draft, start, row, chain, forbidden, self.codec.eos_id)
        run = Speculation(self.model, job.start, row, chain, forbidden, self.codec.eos_id, guesser, number)
        job.counts[number] = run.counts
        yield from run.run()

    def _together(self, job: Job) -> list[list[Generation]]:
        if job.asked[0].method == "mbr":
            return self._least_risk(job)
        found = self._searched(job) if job.asked[0].beam > 1 else self._written(job)
        return [job.chosen(number, answers) for number, answers in enumerate(found)]

    def _written(self, job: Job, first: int = 0, count: int | None = None) -> list[list[Generation]]:
        """The answers to each prompt, in the order of their own streams of chance, which begin with number `first`."""
        repeat = count or job.asked[0].best_of or job.asked[0].n
        rows = job.rows(repeat, follow=False, first=first)
        told: list[list[Token]] = [[] for _ in rows]
        for tokens in self._tokens(job, rows, repeat):
            for token in tokens:
                told[token.row].append(token)
        answers = [job.answer(n, n // repeat, row, told[n]) for n, row in enumerate(rows)]
        return [answers[n : n + repeat] for n in range(0, len(answers), repeat)]

    def _least_risk(self, job: Job) -> list[list[Generation]]:
        """The answers of the beam and samples, by their expected utility."""
        searched, drawn = self._searched(job), [list[Generation]() for _ in job.prompts]
        at_once = max(1, ROWS // len(job.prompts))
        for first in range(0, job.asked[0].mbr_samples, at_once):
            count = min(at_once, job.asked[0].mbr_samples - first)
            for known, found in zip(drawn, self._written(job, first, count), strict=True):
                known.extend(found)
        return [job.by_utility(n, *found) for n, found in enumerate(zip(searched, drawn, strict=True))]

    def _searched(self, job: Job) -> list[list[Generation]]:
        """What beam search finds, diverse where there are groups: n answers, or all where some may be passed over."""
        given = job.asked[0]
        chain = job.chain()
        plain = given.method == "auto" and not self.reads_source and not any(job.constraints)

        def stops(sentence: int, answer: Sequence[int]) -> bool:
            writing = job.writing(sentence)
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
        return [[job.hypothesis(number, one) for one in ours] for number, ours in enumerate(found)]

    def _pieces(self, inputs: list[list[int]], asked: list[Sampling]) -> Iterator[Piece]:
        with _evaluating(self.model, self.draft):
            job = self._job(inputs, asked)
        repeat = asked[0].n
        rows = job.rows(repeat, follow=True)
        heard: list[list[Token]] = [[] for _ in rows]
        steps = self._tokens(job, rows, repeat)
        while True:
            with _evaluating(self.model, self.draft):
                tokens = next(steps, None)
            if tokens is None:
                return
            for number, ours in _by_row(tokens):
                heard[number] += ours
                yield job.piece(number, rows[number], ours, heard[number], repeat)


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
    sizes = [m.decoder.embedding.units for m in (model, draft)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"the draft model has a vocabulary of {sizes[1]} and the model one of {sizes[0]}; a draft needs the same"
        )
    if isinstance(model, EncoderDecoder) != isinstance(draft, EncoderDecoder):
        raise UserError("the draft model must read a source where the model does, and none where it does not")
