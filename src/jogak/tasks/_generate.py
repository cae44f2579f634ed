"""Sampling and the other ways of decoding for tasks that write: a predictor for what plain search does not do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jogak.decoding.answers import Generation
from jogak.decoding.generate import Generator
from jogak.decoding.search import together
from jogak.decoding.settings import Sampling
from jogak.errors import UserError


@dataclass(frozen=True)
class Written:
    """One answer as tasks give it; see decoding.answers.Generation. lost: placeholders of the source it lacks."""

    generation: Generation
    lost: tuple[str, ...] = ()
    what: str = "continuation"

    @property
    def text(self) -> str:
        return self.generation.text

    @property
    def ids(self) -> tuple[int, ...]:
        return self.generation.ids

    @property
    def score(self) -> float:
        return self.generation.score

    @property
    def faults(self) -> list[str]:
        return [f"the {self.what} lacks {placeholder}" for placeholder in self.lost]

    def plain(self) -> dict[str, object]:
        found = self.generation
        told: dict[str, object] = {"text": found.text, "score": found.score, "log_prob": found.log_prob}
        told["reason"] = found.reason
        if found.seed is not None:
            told["seed"] = found.seed
        if found.top:
            told["top"] = [[list(pair) for pair in step] for step in found.top]
        return {**told, "lost": list(self.lost)} if self.lost else told


class Sampler:
    """Texts to answers by any way of decoding (see tasks.contract.Predictor)."""

    def __init__(self, generator: Generator, asked: Sampling, batch: int, max_source: int | None = None) -> None:
        """batch: texts at once. max_source: ids of a source that the model was trained for at most."""
        self.generator, self.asked, self.batch, self.max_source = generator, asked, batch, max_source
        self.fills_catalogues = generator.reads_source
        self.name = "translation" if generator.reads_source else "continuation"

    def __call__(
        self,
        texts: Sequence[str],
        where: Sequence[str] = (),
        *,
        done: Callable[[int], None] = lambda count: None,
    ) -> list[list[Written]]:
        """The answers to each text, best first.

        Raises: UserError for a text that is empty (where it is a source) or longer than the model takes.
        """
        codec, found = self.generator.codec, [list[Written]() for _ in texts]
        names_ = where or [f"text {number}" for number in range(1, len(texts) + 1)]
        for text, name in zip(texts, names_, strict=True):
            self._check(text, name)
        inputs = [self.generator.encode(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda number: len(inputs[number]))
        rows = max(self.asked.beam, self.asked.best_of or self.asked.n)
        batch = together(self.generator.model, self.batch, rows)
        for first in range(0, len(order), batch):
            some = order[first : first + batch]
            slots = [codec.encode_source(texts[n]).slots if self.generator.reads_source else {} for n in some]
            answers = self.generator.generate([inputs[n] for n in some], self.asked, slots=slots, done=done)
            for number, given, ours in zip(some, answers, slots, strict=True):
                found[number] = [Written(a, tuple(codec.lost(a.ids, ours)), self.name) for a in given]
        return found

    def fits(self, text: str) -> bool:
        count = len(self.generator.encode(text))
        if self.generator.reads_source:
            return self.max_source is None or count - 1 <= self.max_source
        longest = self.generator.longest
        return longest is None or count + self.asked.max_new_tokens <= longest

    def _check(self, text: str, name: str) -> None:
        if self.generator.reads_source and not text.strip():
            raise UserError(f"{name}: is empty; give something to translate")
        if not self.fits(text):
            count = len(self.generator.encode(text))
            raise UserError(
                f"{name}: has {count} tokens, which with what is asked for is more than the model takes; shorten it, "
                "or ask for less with --max-length"
            )
