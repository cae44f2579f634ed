"""What decoding gives back: a whole answer, or one piece of it while it comes; and what it asks of a codec."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jogak.codecs.text import Encoded, Slots, Spelling
from jogak.decoding.sampling import Reason


class Codec(Protocol):
    """What decoding asks of a codec; see codecs.text.TextCodec. bos_id: what a prompt, or an answer to a source,
    begins with."""

    @property
    def pad_id(self) -> int: ...

    @property
    def bos_id(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def spelling(self) -> Spelling: ...

    def encode(self, text: str) -> list[int]: ...

    def encode_source(self, text: str) -> Encoded: ...

    def forbidden(self, slots: Slots) -> list[int]: ...

    def lost(self, ids: Sequence[int], slots: Slots) -> list[str]: ...


@dataclass(frozen=True)
class Timings:
    """Seconds until the prompts were read, and in all, of the batch that the answer came in; prompt_tokens and how
    many of them the prefix cache had; speculation: units guessed, units kept, calls of the model."""

    prompt_seconds: float
    seconds: float
    prompt_tokens: int
    cached_tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    calls: int = 0


@dataclass(frozen=True)
class Generation:
    """One answer. ids: without prompt, end mark, and what lies behind a stop text; scores: the log-probability of
    each, and of the end mark where there is one (what beam search ranked it by; else the model's own).

    reason: "end", "stop" or "length". score: what answers are ranked by. top: for each of scores the likeliest units
    there with their log-probabilities. seed: what gives the same answer again. end: the mark that ended it.
    """

    ids: tuple[int, ...]
    text: str
    scores: tuple[float, ...]
    timings: Timings
    reason: Reason
    score: float
    seed: int | None = None
    top: tuple[tuple[tuple[int, float], ...], ...] = ()
    end: int | None = None

    @property
    def log_prob(self) -> float:
        return sum(self.scores)


@dataclass(frozen=True)
class Piece:
    """What came of answer `index` since the last piece: text (never half a character), ids, their log-probabilities.

    reason: why it ended, in its last piece. request: which one of a running batch it belongs to. error: why an answer
    could not be given; with ids, why it is not the whole of what a constraint says. cached: in the first piece of a
    running batch, how many units of the prompt the prefix cache had.
    """

    index: int
    text: str
    ids: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    top: tuple[tuple[tuple[int, float], ...], ...] = ()
    reason: Reason | None = None
    request: int = 0
    error: str | None = None
    cached: int = 0
