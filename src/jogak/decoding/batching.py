"""Continuous batching: requests join and leave the running batch at every step, and prompts are read in chunks.

What a request gets does not depend on who shares its batch (up to the rounding of the model's own sums): its chance is
its own, and its state is joined to the others' behind padding, which no mixer sees.

Legend: B rows that run, V vocabulary, T units of history.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from jogak.decoding.answers import Piece
from jogak.decoding.constrain import Constraint
from jogak.decoding.generate import Generator
from jogak.decoding.job import Job
from jogak.decoding.processors import Chain, Forbidden, Rule
from jogak.decoding.sampling import Row, Start, Token, draw, generator, likeliest, why
from jogak.decoding.settings import Sampling
from jogak.errors import UserError
from jogak.mixers import Context, State
from jogak.models import ModelState
from jogak.models.block import BlockState


@dataclass(frozen=True)
class Prepared:
    """A request that was found to be one that can be answered."""

    ids: list[int]
    asked: Sampling
    constraint: Constraint | None


class _Guarded:
    """A rule that fails its own request alone: nothing may come next then, and `failed` says why."""

    def __init__(self, rule: Rule) -> None:
        self.rule, self.failed = rule, ""

    def allowed(self, answer: Sequence[int]) -> Tensor:
        try:
            return self.rule.allowed(answer)
        except UserError as error:
            self.failed = str(error)
            return torch.zeros(1, dtype=torch.bool)


@dataclass
class _Request:
    """What was asked for, and how far it has come."""

    number: int
    job: Job
    rows: list[Row]
    heard: list[list[Token]]
    rules: list[_Guarded] = field(init=False)

    def __post_init__(self) -> None:
        self.rules = [_Guarded(rule) for rule in self.job.first_rules]


@dataclass
class _Running:
    """One row of the batch: the answer it is, its numbers of chance [steps], its units so far."""

    request: _Request
    choice: int
    chance: Tensor | None
    steps: int = 0

    @property
    def row(self) -> Row:
        return self.request.rows[self.choice]


@dataclass
class _Reading:
    """A request whose prompt is being read: the state after `read` of its ids."""

    number: int
    given: Prepared
    read: int = 0
    cached: int = 0
    state: ModelState | None = None

    @property
    def ids(self) -> list[int]:
        return self.given.ids

    @property
    def asked(self) -> Sampling:
        return self.given.asked

    @property
    def plain(self) -> Sampling:
        """What is asked for without the constraint, which is made already."""
        return replace(self.given.asked, regex=None, json_schema=None, grammar=None)


@dataclass
class _Read:
    """Requests whose prompts have been read: where their answers begin, a row each."""

    start: Start
    requests: list[tuple[Job, _Reading]]

    def rows(self) -> Start:
        """A row for every answer."""
        counts = torch.tensor([reading.asked.n for _, reading in self.requests], device=self.start.logits.device)
        if int(counts.max()) == 1:
            return self.start
        rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        return Start(self.start.logits[rows], self.start.state.reorder(rows, rows), self.start.history[rows])


def _running(request: _Request, choice: int) -> _Running:
    """An answer that begins, with the chance that its seed gives it."""
    row = request.rows[choice]
    if not row.settings.heat:
        return _Running(request, choice, None)
    drawn = torch.rand(
        row.settings.max_new_tokens, generator=generator(row.seed, row.choice), dtype=torch.float64
    ).clamp(max=1 - 1e-12)
    return _Running(request, choice, drawn)


class Batcher:
    """made: the model. rows: answers that run together at most. chunk: positions of prompts that a step reads."""

    def __init__(self, made: Generator, *, rows: int = 64, chunk: int = 256) -> None:
        if rows < 1 or chunk < 1:
            raise UserError(f"a batch needs rows and chunk of at least 1, got {rows} and {chunk}")
        self.made, self.rows, self.chunk = made, rows, chunk
        self._waiting: OrderedDict[int, _Reading] = OrderedDict()
        self._running: list[_Running] = []
        self._state: ModelState | None = None
        self._logits: Tensor | None = None
        self._history = torch.zeros(0, 0, dtype=torch.int64)
        self._chain: Chain | None = None
        self._forbidden: Forbidden | None = None
        self._count = 0

    @property
    def running(self) -> int:
        """Answers in the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that are not yet read."""
        return len(self._waiting)

    def submit(self, ids: Sequence[int], asked: Sampling | None = None, **changes: Any) -> int:  # noqa: ANN401
        """Take a request; its number, which its pieces carry.

        Raises: UserError as `prepare`.
        """
        return self.take(self.prepare(ids, asked, **changes))

    def prepare(self, ids: Sequence[int], asked: Sampling | None = None, **changes: Any) -> Prepared:  # noqa: ANN401
        """Look a request over, and make its constraint. Nothing of the batch is touched: any thread may do this.

        Raises: UserError for what does not fit, a constraint that cannot be used, and for ways of decoding that know
        no answer before the end.
        """
        (wanted,) = self.made.streamable([ids], asked, changes)
        if wanted.penalty_alpha or wanted.draft_tokens:
            raise UserError("penalty_alpha and draft_tokens are for one request alone; use Generator.generate")
        if wanted.n > self.rows:
            raise UserError(f"n ({wanted.n}) cannot be more than the {self.rows} rows of the batch")
        before = [self.made.codec.bos_id] if self.made.reads_source else ids
        return Prepared(list(ids), wanted, self.made.constraints.of(wanted, before))

    def take(self, given: Prepared) -> int:
        """Take a request that `prepare` of this batch gave; its number."""
        self._count += 1
        self._waiting[self._count] = _Reading(self._count, given)
        return self._count

    def cancel(self, number: int) -> None:
        """Let a request go, wherever it is; its rows are free at once."""
        self._waiting.pop(number, None)
        self._leave([row.request.number != number for row in self._running])

    def run(self) -> Iterator[Piece]:
        """Steps until nothing is left to do."""
        while self._running or self._waiting:
            yield from self.step()

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """Read a chunk of what waits, and give every running answer its next unit. Piece.request tells whose it is."""
        with self.made.evaluating():
            self._admit()
            if not self._running:
                return []
            unit, found, lost = self._choose()
            pieces, alive = self._tell(found, lost)
            self._history = torch.cat([self._history, unit.unsqueeze(1)], dim=1)
            unit = unit[torch.tensor(alive, dtype=torch.bool, device=unit.device)]
            self._leave(alive)
            if self._running:
                x, self._state = self.made.model.hidden(unit.unsqueeze(1), self._state)
                self._logits = self.made.model.head(x)[:, -1]
            return pieces

    # ------------------------------------------------------------ joining

    def _admit(self) -> None:
        """Read at most `chunk` positions of prompts, first come first served; those that are read join."""
        budget, free, read = self.chunk, self.rows - len(self._running), list[_Read]()
        while self._waiting and budget > 0:
            reading = next(iter(self._waiting.values()))
            if reading.asked.n > free:
                break
            together = self._short(budget, free)
            if together:
                start, jobs = self.made.begin_together([r.ids for r in together], [r.plain for r in together])
                budget -= start.history.numel()
                read.append(_Read(start, list(zip(jobs, together, strict=True))))
            else:
                if self.made.reads_source:
                    budget -= len(reading.ids)
                    job = self.made.begin(reading.ids, reading.plain)
                else:
                    budget -= self._read_on(reading, budget)
                    if reading.read < len(reading.ids):
                        break
                    job = self.made.begin(reading.ids, reading.plain, reading.state, reading.cached)
                together = [reading]
                read.append(_Read(job.start, [(job, reading)]))
            for one in together:
                del self._waiting[one.number]
                free -= one.asked.n
        if read:
            self._join(read)

    def _short(self, budget: int, free: int) -> list[_Reading]:
        """Those that wait in front whose prompts can be read together, as one batch, without a stop on the way."""
        found: list[_Reading] = []
        longest, cache = 0, self.made.cache
        for reading in self._waiting.values():
            stops = self.made.reads_source or reading.read or (cache is not None and cache.ends(reading.ids))
            longest, free = max(longest, len(reading.ids)), free - reading.asked.n
            if stops or free < 0 or (len(found) + 1) * longest > budget:
                break
            found.append(reading)
        if cache is not None:
            for reading in found:
                cache.longest(reading.ids)  # nothing is, and that counts as a miss
        return found

    def _read_on(self, reading: _Reading, budget: int) -> int:
        """Read some of a prompt up to its last id, whose logits are asked for when it joins; how much was read."""
        cache, last = self.made.cache, len(reading.ids) - 1
        if reading.read == 0 and cache is not None:
            reading.read, reading.state = cache.longest(reading.ids)
            reading.cached = reading.read
        spent = 0
        while reading.read < last and spent < budget:
            ends = [last, reading.read + budget - spent]
            if cache is not None:
                ends.append((reading.read // cache.block + 1) * cache.block)
            end = min(ends)
            ids = torch.tensor([reading.ids[reading.read : end]], device=self.made.device)
            _, reading.state = self.made.model.hidden(ids, reading.state, Context(mask=torch.ones_like(ids).bool()))
            if cache is not None and end in cache.ends(reading.ids):
                cache.put(reading.ids[:end], reading.state)
            spent, reading.read = spent + end - reading.read, end
        if reading.read == last and spent < budget:
            reading.read, spent = last + 1, spent + 1
        return spent

    def _join(self, read: Sequence[_Read]) -> None:
        """Put the rows of requests behind those that run."""
        starts: list[Start] = []
        for one in read:
            starts.append(one.rows())
            for job, reading in one.requests:
                job.constraints = [reading.given.constraint]
                given = reading.asked
                request = _Request(reading.number, job, job.rows(given.n, follow=True), [[] for _ in range(given.n)])
                self._running += [_running(request, choice) for choice in range(given.n)]
                del job.start  # it is not asked for again, and would keep its memory
        if self._state is not None and self._logits is not None:
            starts.insert(0, Start(self._logits, self._state, self._history))
        self._state = starts[0].state if len(starts) == 1 else joined([start.state for start in starts])
        self._logits = torch.cat([start.logits for start in starts])
        longest = max(start.history.shape[1] for start in starts)
        self._history = torch.cat([pad(s.history, (longest - s.history.shape[1], 0), value=-1) for s in starts])
        self._prepare()

    def _prepare(self) -> None:
        """The processors of the rows that run now."""
        jobs = [row.request.job for row in self._running]
        self._forbidden = Forbidden([job.forbidden[0] for job in jobs], self.made.device)
        ends = [self.made.codec.eos_id, *self.made.ends]
        asked, rules = [row.row.settings for row in self._running], [row.request.rules for row in self._running]
        self._chain = Chain.of(asked, ends, self.made.device, rules=rules)

    def _leave(self, stay: Sequence[bool]) -> None:
        """Only the rows that stay go on."""
        if all(stay):
            return
        kept = [place for place, here in enumerate(stay) if here]
        self._running = [self._running[place] for place in kept]
        if not kept or self._state is None or self._logits is None:
            self._state = self._logits = None
            self._history = torch.zeros(0, 0, dtype=torch.int64, device=self.made.device)
            return
        rows = torch.tensor(kept, device=self._logits.device)
        self._state, self._logits = trimmed(self._state.reorder(rows, rows)), self._logits[rows]
        self._history = self._history[rows]
        first = int((self._history >= 0).any(0).int().argmax())
        self._history = self._history[:, first:]
        self._prepare()

    # ------------------------------------------------------------ writing

    def _choose(self) -> tuple[Tensor, list[Token], dict[int, str]]:
        """The next unit of every row [B], what is told of it, and of rows that can have none."""
        assert self._logits is not None
        assert self._forbidden is not None
        logits = self._forbidden(self._logits)
        scores, lost = logits, dict[int, str]()
        if self._chain:
            lengths = torch.tensor([row.steps for row in self._running], device=logits.device)
            scores, lost = self._chain.apply(logits, self._history, self._history.shape[1] - lengths)
        unit = scores.argmax(-1)
        by_chance = [place for place, row in enumerate(self._running) if row.chance is not None]
        if by_chance:
            numbers = [row.chance[row.steps] for row in self._running if row.chance is not None]
            unit[by_chance] = draw(scores[by_chance], torch.stack(numbers).to(scores.device))
        log_probs = (logits.gather(1, unit.unsqueeze(1)).squeeze(1) - logits.logsumexp(-1)).tolist()
        end, found = self.made.codec.eos_id, list[Token]()
        for place, (running, number) in enumerate(zip(self._running, unit.tolist(), strict=True)):
            running.steps += 1
            top = likeliest(logits[place : place + 1], running.row)[0]
            reason = why(running.row, number, end, running.steps)
            found.append(Token(place, number, log_probs[place], top, reason))
        return unit, found, lost

    def _tell(self, found: list[Token], lost: dict[int, str]) -> tuple[list[Piece], list[bool]]:
        """A piece for every row, and which rows go on; a row whose answer is not what it must be says so besides."""
        pieces: list[Piece] = []
        for running, token in zip(self._running, found, strict=True):
            request, heard = running.request, running.request.heard[running.choice]
            heard.append(token)
            try:
                if token.row in lost:
                    raise UserError(next((rule.failed for rule in request.rules if rule.failed), lost[token.row]))
                piece = request.job.piece(running.choice, running.row, [token], heard, len(request.rows))
            except UserError as error:
                piece = self._fallen(running, token, str(error), token.row not in lost)
            first = running.steps == 1
            pieces.append(replace(piece, request=request.number, cached=request.job.cached[0] if first else 0))
        return pieces, [piece.reason is None for piece in pieces]

    def _fallen(self, running: _Running, token: Token, why: str, whole: bool) -> Piece:
        """The last piece of an answer that is not what it must be; whole: whether its last unit belongs to it."""
        if not whole or running.row.writing is None:
            return Piece(running.choice, "", reason="length", error=why)
        text = running.row.writing.take() + running.row.writing.finish()
        top = (token.top,) if running.row.settings.logprobs else ()
        return Piece(running.choice, text, (token.id,), (token.log_prob,), top, token.reason, error=why)


# ---------------------------------------------------------------- states of several batches as one


def joined(states: Sequence[ModelState]) -> ModelState:
    """The states of rows that were read apart as one batch; each was read with a mask, which says what is real."""
    blocks = zip(*(state.blocks for state in states), strict=True)
    made = tuple(BlockState(_cat([b.mixer for b in row]), _cat_some([b.cross for b in row])) for row in blocks)
    return ModelState(made, _cat([state.places for state in states]))


def _cat_some(states: Sequence[State | None]) -> State | None:
    known = [state for state in states if state is not None]
    return _cat(known) if known else None


def _cat(states: Sequence[State]) -> State:
    """Batch by batch; what grew to different lengths gets padding in front, where its mask says that nothing is."""
    tensors: dict[str, Tensor] = {}
    for name in states[0]:
        parts = [state[name] for state in states]
        longest = max((part.shape[1] for part in parts if part.dim() > 1), default=0)
        tensors[name] = torch.cat([_front(part, longest) for part in parts])
    return State(tensors, seen=max(state.seen for state in states), owner=states[0].owner)


def _front(part: Tensor, longest: int) -> Tensor:
    if part.dim() < 2 or part.shape[1] == longest:
        return part
    shape = (part.shape[0], longest - part.shape[1], *part.shape[2:])
    return torch.cat([part.new_zeros(shape), part], dim=1)


def trimmed(state: ModelState) -> ModelState:
    """The state without places in front that no row has anything at."""
    blocks = tuple(BlockState(_trim(b.mixer), None if b.cross is None else _trim(b.cross)) for b in state.blocks)
    return ModelState(blocks, state.places)


def _trim(state: State) -> State:
    mask = state.get("mask")
    if mask is None or mask.dim() != 2 or not mask.shape[1] or bool(mask[:, 0].any()):
        return state
    length, first = mask.shape[1], int(mask.any(0).int().argmax())
    grown = [name for name, tensor in state.items() if tensor.dim() > 1 and tensor.shape[1] == length]
    return state.last(length - first, *grown)
