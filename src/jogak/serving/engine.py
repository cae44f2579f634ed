"""One thread that all models run in: every turn it lets newcomers in, does one other thing, and moves every batch on.

What came of a turn is handed to the event loop at once. A request that is let go is out of its batch before the next
step. What fails in one model's batch fails the requests in it and nothing else.
"""

import asyncio
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from jogak.decoding.answers import Piece
from jogak.decoding.batching import Batcher, Prepared
from jogak.decoding.generate import Generator
from jogak.errors import JogakError, UserError
from jogak.serving.metrics import Meter

log = logging.getLogger("jogak.serving")


class Busy(JogakError):
    """There is no room to wait; `retry`: seconds after which there may be."""

    def __init__(self, message: str, retry: int) -> None:
        super().__init__(message)
        self.retry = retry


class Closed(JogakError):
    """The server is about to stop."""


class TimedOut(JogakError):
    """It took longer than a request may."""


class Broken(JogakError):
    """Ours: something failed that should not."""


Event = tuple[int, Piece | JogakError]  # of which ticket of an inbox


class Inbox:
    """Where the events of one HTTP request arrive, in the event loop that made it. left: its client is gone."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.left = False
        self._arrived: list[Event] = []
        self._news = asyncio.Event()

    def put(self, events: list[Event]) -> None:
        self._arrived += events
        self._news.set()

    def leave(self) -> None:
        """Nobody waits any more."""
        self.left = True
        self._news.set()

    async def events(self, answers: int) -> AsyncIterator[list[Event]]:
        """What has come, whenever something has, until `answers` of them have ended or the client is gone.

        Raises: JogakError where a request failed.
        """
        while answers and not self.left:
            await self._news.wait()
            self._news.clear()
            arrived, self._arrived = self._arrived, []
            for _, event in arrived:
                if isinstance(event, JogakError):
                    raise event
                answers -= event.reason is not None
            if arrived and not self.left:
                yield arrived


@dataclass(eq=False)
class Ticket:
    """A request at the engine. place: which one of its inbox; open: answers that go on."""

    lane: "Lane"
    given: Prepared
    inbox: Inbox
    place: int
    deadline: float
    began: float = field(default_factory=time.monotonic)
    number: int = 0  # in its batch, once it is there
    last: float = 0.0
    done: bool = False
    open: int = 0

    def __post_init__(self) -> None:
        self.open = self.given.asked.n


class Lane:
    """The batch of one model. load: answers in it and before it."""

    def __init__(self, name: str, made: Generator, *, rows: int, chunk: int, meter: Meter) -> None:
        self.name, self.made, self.rows, self.chunk = name, made, rows, chunk
        self.batcher = self._fresh()
        self.tickets: dict[int, Ticket] = {}
        self.load = 0
        self.pace = 1.0  # seconds that a request takes, lately
        self.output, self.prompt = meter.output.labels(name), meter.prompt.labels(name)
        self.cached, self.ended = meter.cached.labels(name), lambda outcome: meter.ended.labels(name, outcome)
        self.first, self.between = meter.first.labels(name), meter.between.labels(name)
        meter.gauge("jogak_running_answers", "Answers in the batch.", lambda: self.batcher.running, name)
        meter.gauge(
            "jogak_waiting_answers", "Answers that wait for room.", lambda: self.load - self.batcher.running, name
        )

    def _fresh(self) -> Batcher:
        return Batcher(self.made, rows=self.rows, chunk=self.chunk)

    @property
    def busy(self) -> bool:
        return bool(self.batcher.running or self.batcher.waiting)

    def reset(self) -> list[Ticket]:
        """Begin anew; the requests that were in the batch."""
        lost, self.tickets, self.batcher = list(self.tickets.values()), {}, self._fresh()
        return lost


@dataclass
class _Job:
    """Something else that has to be done in the engine's thread."""

    function: Callable[[], Any]
    future: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop
    deadline: float


class Engine:
    """queue: answers that may wait for one model, beside those that run; other jobs that may wait."""

    def __init__(self, *, queue: int, meter: Meter) -> None:
        self.queue, self.meter, self.steps = queue, meter, 0
        self.lanes: list[Lane] = []
        self._lock = threading.Condition()
        self._new: deque[Ticket] = deque()
        self._gone: list[Ticket] = []
        self._jobs: deque[_Job] = deque()
        self._open, self._stopped = True, False
        self._thread = threading.Thread(target=self._work, name="jogak-engine", daemon=True)
        meter.gauge("jogak_waiting_jobs", "Other jobs that wait (embeddings, tasks, maps).", lambda: len(self._jobs))

    def lane(self, name: str, made: Generator, *, rows: int, chunk: int) -> Lane:
        """A batch for one more model."""
        lane = Lane(name, made, rows=rows, chunk=chunk, meter=self.meter)
        self.lanes.append(lane)
        return lane

    # ------------------------------------------------------------ from the event loop

    def start(self) -> None:
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._open and self._thread.is_alive()

    @property
    def load(self) -> int:
        """Answers that run or wait."""
        return sum(lane.load for lane in self.lanes)

    def submit(self, lane: Lane, given: list[Prepared], inbox: Inbox, timeout: float) -> list[Ticket]:
        """Requests for text that one inbox waits for: all are taken, or none.

        Raises: Busy, Closed.
        """
        count, deadline = sum(one.asked.n for one in given), time.monotonic() + timeout
        with self._lock:
            self._check_open()
            if count > lane.rows + self.queue:
                raise UserError(f"this asks for {count} answers, and {lane.rows + self.queue} is all there is room for")
            if lane.load + count > lane.rows + self.queue:
                lane.ended("refused").inc()
                raise Busy("the queue is full; try again later", min(60, max(1, round(lane.pace))))
            tickets = [Ticket(lane, one, inbox, place, deadline) for place, one in enumerate(given)]
            lane.load += count
            self._new.extend(tickets)
            self._lock.notify()
        return tickets

    def cancel(self, tickets: Iterable[Ticket]) -> None:
        """Let requests go; those that have ended are none of our business."""
        with self._lock:
            self._gone += [ticket for ticket in tickets if not ticket.done]
            self._lock.notify()

    def call(self, function: Callable[[], Any], timeout: float) -> "asyncio.Future[Any]":
        """What `function` gives, once the engine's thread got round to it.

        Raises: Busy, Closed; what is awaited raises TimedOut, or what the function raises.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        with self._lock:
            self._check_open()
            if len(self._jobs) >= max(1, self.queue):
                raise Busy("the queue is full; try again later", 1)
            self._jobs.append(_Job(function, future, loop, time.monotonic() + timeout))
            self._lock.notify()
        return future

    def _check_open(self) -> None:
        if not self._open:
            raise Closed("the server is about to stop, and takes nothing new")
        if not self._thread.is_alive():
            raise Broken("the engine is not running")

    def drain(self) -> None:
        """Take nothing new; what is there goes on."""
        self._open = False

    def stop(self) -> None:
        """Refuse everything that is left, and end."""
        with self._lock:
            self._open, self._stopped = False, True
            self._lock.notify()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=30)

    # ------------------------------------------------------------ in the engine's thread

    def _work(self) -> None:
        while True:
            with self._lock:
                while not (self._stopped or self._new or self._gone or self._jobs or any(x.busy for x in self.lanes)):
                    self._lock.wait()
                new, self._new = list(self._new), deque()
                gone, self._gone = self._gone, []
                job = self._jobs.popleft() if self._jobs and not self._stopped else None
            told: list[tuple[Ticket, Piece | JogakError]] = []
            self._enter(new)
            self._let_go(gone, "cancelled")
            if self._stopped:
                self._tell([*told, *self._refuse_all()])
                return
            told += self._expire()
            if job is not None:
                self._do(job)
            for lane in self.lanes:
                if lane.busy:
                    told += self._step(lane)
            self._tell(told)

    def _enter(self, new: list[Ticket]) -> None:
        for ticket in new:
            ticket.number = ticket.lane.batcher.take(ticket.given)
            ticket.lane.tickets[ticket.number] = ticket
            ticket.lane.prompt.inc(len(ticket.given.ids))

    def _let_go(self, gone: Iterable[Ticket], outcome: str) -> None:
        for ticket in gone:
            if not ticket.done:
                ticket.lane.batcher.cancel(ticket.number)
                self._close(ticket, outcome)

    def _close(self, ticket: Ticket, outcome: str) -> None:
        lane, ticket.done = ticket.lane, True
        lane.tickets.pop(ticket.number, None)
        with self._lock:
            lane.load -= ticket.given.asked.n
        lane.ended(outcome).inc()
        if outcome == "done":
            lane.pace += 0.1 * (time.monotonic() - ticket.began - lane.pace)

    def _expire(self) -> list[tuple[Ticket, Piece | JogakError]]:
        now = time.monotonic()
        late = [t for lane in self.lanes for t in lane.tickets.values() if t.deadline < now]
        self._let_go(late, "timeout")
        return [(t, TimedOut("this took longer than a request may; ask for less, or try again later")) for t in late]

    def _do(self, job: _Job) -> None:
        if job.future.cancelled():
            return
        try:
            if time.monotonic() > job.deadline:
                raise TimedOut("this waited longer than a request may; try again later")
            result = job.function()
        except JogakError as error:
            _settle(job, error=error)
        except Exception as error:
            _settle(job, error=_broken(error))
        else:
            _settle(job, result=result)

    def _step(self, lane: Lane) -> list[tuple[Ticket, Piece | JogakError]]:
        try:
            pieces = lane.batcher.step()
        except Exception as error:
            broken = _broken(error)
            lost = lane.reset()
            for ticket in lost:
                self._close(ticket, "failed")
            return [(ticket, broken) for ticket in lost]
        self.steps += 1
        now, told = time.monotonic(), list[tuple[Ticket, Piece | JogakError]]()
        for piece in pieces:
            ticket = lane.tickets[piece.request]
            told.append((ticket, piece))
            if ticket.last:
                lane.between.observe(now - ticket.last)
            elif piece.index == 0:
                lane.first.observe(now - ticket.began)
                lane.cached.inc(piece.cached)
            lane.output.inc(len(piece.scores))
            ticket.open -= piece.reason is not None
        for ticket, _ in told:
            ticket.last = now
            if not ticket.open and not ticket.done:
                self._close(ticket, "done")
        return told

    def _refuse_all(self) -> list[tuple[Ticket, Piece | JogakError]]:
        why = Closed("the server stops")
        with self._lock:
            jobs, self._jobs = list(self._jobs), deque()
        for job in jobs:
            _settle(job, error=why)
        left = [ticket for lane in self.lanes for ticket in lane.tickets.values()]
        self._let_go(left, "failed")
        return [(ticket, why) for ticket in left]

    def _tell(self, told: list[tuple[Ticket, Piece | JogakError]]) -> None:
        """Hand events over: one call a loop and turn, however many there are."""
        loops: dict[asyncio.AbstractEventLoop, dict[Inbox, list[Event]]] = {}
        for ticket, event in told:
            loops.setdefault(ticket.inbox.loop, {}).setdefault(ticket.inbox, []).append((ticket.place, event))
        for loop, boxes in loops.items():
            _in_loop(loop, lambda boxes=boxes: [box.put(events) for box, events in boxes.items()])


def _settle(job: _Job, result: object = None, error: Exception | None = None) -> None:
    def settle() -> None:
        if not job.future.done():
            job.future.set_result(result) if error is None else job.future.set_exception(error)

    _in_loop(job.loop, settle)


def _in_loop(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:  # the loop is closed: nobody is left to be told
        log.debug("events for a closed loop were dropped")


def _broken(error: Exception) -> Broken:
    """What a client is told of a failure of ours; the log gets where it was, not what was said (it may be a prompt)."""
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s in the engine:\n%s", type(error).__name__, where)
    return Broken(f"this failed inside the server ({type(error).__name__}); its log says where")
