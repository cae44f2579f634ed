"""What `jogak run` does with a model from Hugging Face: write, label, or embed (see tasks.contract.Predictor).

Legend: B batch, T time, C classes, n texts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from jogak import config
from jogak.decoding.answers import Generation
from jogak.decoding.settings import of_recipe
from jogak.errors import UserError
from jogak.hub.forecast import can_forecast
from jogak.hub.pretrained import Pretrained
from jogak.hub.transcribe import Transcriber, can_transcribe
from jogak.hub.writing import generator, text_of
from jogak.models import Classifier, Decoder, EncoderDecoder
from jogak.tasks._decode import decode_with, is_search
from jogak.tasks.contract import Predictor

AT_ONCE = 16  # texts that are gone on from together


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

    def __init__(self, model: Pretrained, decode: config.Decode) -> None:
        super().__init__(model)
        self.decode, self.max_length = decode, decode.max_length

    def __call__(
        self, texts: Sequence[str], where: Sequence[str] = (), *, done: Callable[[int], None] = _nothing
    ) -> list[list[Said]]:
        found: list[list[Said]] = []
        for begin in range(0, len(texts), AT_ONCE):
            rows = self.model.encode(texts[begin : begin + AT_ONCE])
            for number, row in enumerate(rows, begin):
                self._check(row, where[number] if where else f"text {number + 1}")
            found += self._searched(rows) if self.decode.n_best == 1 and is_search(self.decode) else self._drawn(rows)
            done(len(rows))
        return found

    def _searched(self, rows: Sequence[Sequence[int]]) -> list[list[Said]]:
        given = self.decode
        written = self.model.generate(rows, self.max_length, beam=given.beam, length_penalty=given.length_penalty)
        assert written.text is not None
        parts = zip(written.text, written.scores, written.ids, strict=True)
        return [[Said(text, score, {"ids": ids})] for text, score, ids in parts]

    def _drawn(self, rows: Sequence[Sequence[int]]) -> list[list[Said]]:
        """By any other way of decoding."""
        answers = generator(self.model).generate(rows, of_recipe(self.decode))
        return [[Said(text_of(self.model, a), a.score, _known(a)) for a in row] for row in answers]

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


def _known(found: Generation) -> dict[str, object]:
    told: dict[str, object] = {"ids": list(found.ids), "reason": found.reason}
    return told if found.seed is None else {**told, "seed": found.seed}


def predictor(model: Pretrained, **settings: Any) -> Predictor:  # noqa: ANN401
    """A model as a function of texts; settings: keys of config.Decode of what writes, n_best of what labels.

    Raises: UserError for a setting that means nothing here.
    """
    if can_transcribe(model):
        heard = {name: value for name, value in settings.items() if value is not None}
        _only(heard, "beam", "n_best")
        return Transcriber(model, heard.get("beam", 1), heard.get("n_best", 1))
    if can_forecast(model):
        raise UserError(f"{model.folder}: reads series, not text; in Python, forecast() goes on with them")
    if model.config.input is not None:
        kind = model.config.input.name
        raise UserError(f"{model.folder}: reads {kind}, not text; in Python, model.module takes them as numbers")
    given = {name: value for name, value in settings.items() if value is not None}
    if isinstance(model.module, Decoder) and model.config.head.kind == "units":
        return Writer(model, decode_with(config.Decode(max_length=64, length_penalty=1.0), **given))
    if isinstance(model.module, Classifier):
        _only(given, "n_best")
        return Labeller(model, given.get("n_best", 1))
    _only(given)
    return Embedder(model)


def _only(given: dict[str, Any], *known: str) -> None:
    if strange := sorted(given.keys() - set(known)):
        raise UserError(f"'{strange[0]}' means nothing to this model; {' and '.join(known) or 'nothing'} can be set")
