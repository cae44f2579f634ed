"""Sampling and the other ways of decoding for tasks that write: what is asked for, and a predictor that does it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jogak import config
from jogak.decoding.answers import Generation
from jogak.decoding.generate import Generator
from jogak.decoding.settings import CHANCE, Sampling, names, settings
from jogak.errors import UserError
from jogak.tasks._decode import decode_with


def split(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of config.Decode, and those that only sampling has; what is None is left out."""
    asked = {name: value for name, value in given.items() if value is not None}
    ours = {name: asked.pop(name) for name in names() if name in asked and name not in config.Decode.model_fields}
    return asked, ours


def sampling(decode: config.Decode, asked: dict[str, Any], ours: dict[str, Any]) -> Sampling:
    """What `asked` (of config.Decode) and `ours` ask for, the rest as the run says.

    A run's own beam steps back where another way of decoding is asked for. Raises: UserError.
    """
    other = ("temperature", "best_of", "penalty_alpha", "draft_tokens", "logprobs", *CHANCE)
    if any(name in ours for name in other) and "beam" not in asked:
        decode = decode.model_copy(update={"beam": 1, "n_best": 1})
    else:
        decode = decode_with(decode, **{name: value for name, value in asked.items() if name == "beam"})
    wanted = decode_with(decode, **{name: value for name, value in asked.items() if name not in ("beam", "n_best")})
    given = {"n": asked.get("n_best", wanted.n_best), "beam": wanted.beam, "max_new_tokens": wanted.max_length}
    return settings(None, **{**given, "length_penalty": wanted.length_penalty, **ours})


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

    def __init__(self, generator: Generator, asked: Sampling, batch: int, longest_source: int | None = None) -> None:
        """batch: texts at once. longest_source: ids of a source that the model was trained for at most."""
        self.generator, self.asked, self.batch, self.longest_source = generator, asked, batch, longest_source
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
        codec, found = self.generator.codec, list[list[Written]]()
        names_ = where or [f"text {number}" for number in range(1, len(texts) + 1)]
        for text, name in zip(texts, names_, strict=True):
            self._check(text, name)
        for first in range(0, len(texts), self.batch):
            some = texts[first : first + self.batch]
            inputs = [self.generator.encode(text) for text in some]
            slots = [codec.encode_source(text).slots if self.generator.reads_source else {} for text in some]
            answers = self.generator.generate(inputs, self.asked, slots=slots, done=done)
            found += [
                [Written(a, tuple(codec.lost(a.ids, ours)), self.name) for a in given]
                for given, ours in zip(answers, slots, strict=True)
            ]
        return found

    def fits(self, text: str) -> bool:
        count = len(self.generator.encode(text))
        if self.generator.reads_source:
            return self.longest_source is None or count - 1 <= self.longest_source
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
