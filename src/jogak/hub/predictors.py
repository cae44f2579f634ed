"""What `jogak run` does with a model from Hugging Face: write, label, or embed (see tasks.contract.Predictor).

Legend: B batch, T time, C classes, n texts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from jogak import config
from jogak.decoding.answers import Generation
from jogak.errors import UserError
from jogak.hub.pretrained import Pretrained
from jogak.hub.writing import generator
from jogak.models import Classifier, Decoder, EncoderDecoder
from jogak.tasks._decode import decoding_of
from jogak.tasks.contract import Predictor

AT_ONCE, LENGTH = 16, 64  # texts that are gone on from together; units after which an answer ends


def _nothing(count: int) -> None:
    """What is told of each count done, where nobody asks."""


@dataclass(frozen=True)
class Said:
    """A text and its score, and what else is known of it."""

    text: str
    score: float
    more: dict[str, object]
    cut: int = 0  # units of the input that were left out

    @property
    def faults(self) -> list[str]:
        return [f"cut by {self.cut} units, more than the model reads"] if self.cut else []

    def plain(self) -> dict[str, object]:
        return {"text": self.text, "score": self.score, **self.more}


class _Predictor:
    """What the three have in common."""

    fills_catalogues = False

    def __init__(self, model: Pretrained) -> None:
        self.model = model

    def fits(self, text: str) -> bool:
        return len(self.model.encode([text])[0]) <= self.model.max_length

    def beyond(self, texts: Sequence[str]) -> list[int]:
        """How many units of each text are more than the model reads."""
        return [max(0, len(row) - self.model.max_length) for row in self.model.encode(texts)]


class Writer(_Predictor):
    """A text to how it goes on, or an encoder-decoder's answer to it."""

    name = "output"

    def __init__(self, model: Pretrained, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(model)
        self.asked = decoding_of(config.Decode(max_length=LENGTH, length_penalty=1.0), settings)
        self.max_length, self.generator = self.asked.max_new_tokens, generator(model)

    def __call__(
        self, texts: Sequence[str], where: Sequence[str] = (), *, done: Callable[[int], None] = _nothing
    ) -> list[list[Said]]:
        found: list[list[Said]] = []
        for begin in range(0, len(texts), AT_ONCE):
            rows = self.model.encode(texts[begin : begin + AT_ONCE])
            for number, row in enumerate(rows, begin):
                self._check(row, where[number] if where else f"text {number + 1}")
            written = self.generator.generate(rows, self.asked)
            found += [[Said(a.text, a.score, {"ids": _with_end(a)}) for a in answers] for answers in written]
            done(len(rows))
        return found

    def _check(self, row: Sequence[int], name: str) -> None:
        """Refuse what is beyond a table of positions before half of an answer is written."""
        given, more = self.model.config, 0 if isinstance(self.model.module, EncoderDecoder) else self.max_length
        if not row:
            raise UserError(f"{name}: is empty; give something to go on from")
        if given.position == "learned" and len(row) + more > given.max_length:
            told = f" and {more} more are to be written" if more else ""
            raise UserError(
                f"{name}: has {len(row)} units{told}, and the model has {given.max_length} positions; "
                f"shorten it{', or ask for less with --max-length' if more else ''}"
            )


def _with_end(answer: Generation) -> list[int]:
    return [*answer.ids, *([] if answer.end is None else [answer.end])]


class Labeller(_Predictor):
    """A text to its likeliest labels and their probabilities."""

    name = "label"

    def __init__(self, model: Pretrained, n_best: int) -> None:
        super().__init__(model)
        self.n_best = n_best

    def __call__(
        self, texts: Sequence[str], where: Sequence[str] = (), *, done: Callable[[int], None] = _nothing
    ) -> list[list[Said]]:
        names, found = self.model.fields.get("id2label") or {}, list[list[Said]]()
        for begin in range(0, len(texts), AT_ONCE):
            part = texts[begin : begin + AT_ONCE]
            ids, mask = self.model.rows(self.model.encode(part, cut=True))
            with torch.inference_mode():
                p = self.model.module(ids, mask).float().softmax(-1)
            best = p.topk(min(self.n_best, p.shape[1]))
            for values, classes, cut in zip(
                best.values.tolist(), best.indices.tolist(), self.beyond(part), strict=True
            ):
                pairs = zip(values, classes, strict=True)
                found.append([Said(str(names.get(str(c), f"LABEL_{c}")), value, {}, cut) for value, c in pairs])
            done(len(ids))
        return found


class Embedder(_Predictor):
    """Texts to their cosine similarities with all that are answered together; one alone to its vector.

    Plain data has both.
    """

    name = "output"

    def __call__(
        self, texts: Sequence[str], where: Sequence[str] = (), *, done: Callable[[int], None] = _nothing
    ) -> list[list[Said]]:
        vectors = self.model.embed(texts)
        unit = torch.nn.functional.normalize(vectors, dim=-1)
        done(len(texts))
        found: list[list[Said]] = []
        told = zip(vectors.tolist(), (unit @ unit.T).tolist(), self.beyond(texts), strict=True)
        for vector, row, cut in told:
            shown = "\t".join(f"{value:.3f}" for value in row) if len(row) > 1 else " ".join(f"{v:.6g}" for v in vector)
            found.append([Said(shown, 1.0, {"embedding": vector, "similarities": row}, cut)])
        return found


def predictor(model: Pretrained, **settings: Any) -> Predictor:  # noqa: ANN401
    """A model as a function of texts; settings: of what writes, as of jogak.decoding.settings; of what labels, n_best.

    Raises: UserError for a setting that means nothing here.
    """
    if model.config.input is not None:
        kind = model.config.input.name
        raise UserError(f"{model.folder}: reads {kind}, not text; in Python, model.module takes them as numbers")
    given = {name: value for name, value in settings.items() if value is not None}
    if isinstance(model.module, Decoder) and model.config.head.kind == "units":
        return Writer(model, **given)
    if isinstance(model.module, Classifier):
        _only(given, "n_best")
        return Labeller(model, int(given.get("n_best", 1)))
    _only(given)
    return Embedder(model)


def _only(given: Mapping[str, Any], *known: str) -> None:
    if strange := sorted(given.keys() - set(known)):
        raise UserError(f"'{strange[0]}' means nothing to this model; {' and '.join(known) or 'nothing'} can be set")
