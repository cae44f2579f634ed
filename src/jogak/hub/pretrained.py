"""A model that came from a Hugging Face checkpoint, at work: logits, decoding, embeddings.

Legend: B batch, T time, D model width.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from jogak import config
from jogak.decoding.answers import Piece
from jogak.decoding.generate import Generator
from jogak.decoding.search import Settings, search
from jogak.errors import UserError
from jogak.families._fields import Fields
from jogak.hub.read import Plan
from jogak.hub.writing import generator, rows_of, text_of
from jogak.layers.pooling import POOLS
from jogak.mixers import Context
from jogak.models import Decoder, Encoder, EncoderDecoder, Model
from jogak.tasks.contract import Result, results

if TYPE_CHECKING:
    from jogak.hub.forecast import Forecast
    from jogak.hub.transcribe import Heard


@dataclass(frozen=True)
class Generation:
    """What a model wrote after each row: ids without the prompt, their text where there is a tokenizer, scores."""

    ids: list[list[int]]
    text: list[str] | None
    scores: list[float]
    seconds: float


class Pretrained:
    """A model and what lies beside it: its configuration as jogak and as config.json (`fields`) tell it.

    folder: where tokenizer and settings are. family: the module of jogak.families that reads and writes it.
    """

    def __init__(
        self, folder: Path, module: Model, given: config.Model, family: ModuleType, fields: Mapping[str, Any]
    ) -> None:
        self.folder, self.module, self.config = folder, module, given
        self.family, self.fields = family, dict(fields)
        self._tokenizer: Any = None

    @classmethod
    def of(cls, plan: Plan) -> "Pretrained":
        """The model of a checkpoint that was read."""
        return cls(plan.checkpoint.folder, plan.model, plan.given, plan.family, plan.checkpoint.config)

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are kept in."""
        return next(p.dtype for p in self.module.parameters() if p.is_floating_point())

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401  # tokenizers.Tokenizer, imported where it is used
        """The tokenizer of `tokenizer.json`, or of the files that older checkpoints have instead.

        Raises: UserError if there is none.
        """
        if self._tokenizer is None:
            from jogak.codecs import vocabularies

            self._tokenizer = vocabularies.read(self.folder, getattr(self.family, "TOKENIZER", None))
        return self._tokenizer

    def run(self, x: str | Sequence[str], **settings: Any) -> Result | list[Result]:  # noqa: ANN401
        """Write on, answer, label or compare one text or many at once; settings as of hub.predictors.

        Raises: UserError for an empty or over-long text, or a setting that means nothing to the model.
        """
        from jogak.hub.predictors import predictor

        return results(predictor(self, **settings), x)

    @overload
    def generate(
        self,
        input_ids: Tensor | Sequence[Sequence[int]],
        max_new_tokens: int = ...,
        *,
        stream: Literal[False] = ...,
        **settings: Any,  # noqa: ANN401
    ) -> Generation: ...

    @overload
    def generate(
        self,
        input_ids: Tensor | Sequence[Sequence[int]],
        max_new_tokens: int = ...,
        *,
        stream: Literal[True],
        **settings: Any,  # noqa: ANN401
    ) -> Iterator[Piece]: ...

    def generate(
        self,
        input_ids: Tensor | Sequence[Sequence[int]],
        max_new_tokens: int = 20,
        *,
        mask: Tensor | None = None,
        beam: int = 1,
        length_penalty: float = 1.0,
        end: int | None = None,
        start: int | None = None,
        stream: bool = False,
        **settings: Any,  # numbers and texts
    ) -> Generation | Iterator[Piece]:
        """The likeliest continuation of each row (of an encoder-decoder: the answer to it), greedily or by beams; or by
        any way of decoding that settings ask for (see jogak.decoding.settings), n answers to a row one after another.

        input_ids: int64 [B T], or rows of different lengths; where model.input reads something else, that.
        mask: bool [B T], True = a real position; prompts are padded on the left.
        length_penalty: a in log-probability / length^a, which beams are ranked by.
        end, start: the id that ends an answer (-1: none does), and the one that an encoder-decoder's begins with; None:
        as the checkpoint says.

        stream: pieces of the answers while they come.

        Raises: UserError for a model that does not write, or settings that do not fit.
        """
        if settings or stream:
            asked = {"max_new_tokens": max_new_tokens, "beam": beam, "length_penalty": length_penalty, **settings}
            made, rows = generator(self, end=end, start=start), rows_of(input_ids, mask)
            return made.stream(rows, **asked) if stream else self._told(made, rows, asked)
        if not isinstance(self.module, Decoder) or self.config.head.kind != "units":
            raise UserError(f"{self.folder}: this model has no head that writes; embed() gives vectors")
        began = perf_counter()
        left = not isinstance(self.module, EncoderDecoder)
        ids, mask = self.rows(input_ids, mask, left=left)
        plain = Settings(
            end=self.special("eos_token_id", -1) if end is None else end,
            max_length=max_new_tokens,
            beam=beam,
            length_penalty=length_penalty,
            by_length=True,
            ends=tuple(self.specials("eos_token_id")[1:]) if end is None else (),
        )
        with torch.inference_mode():
            if isinstance(self.module, EncoderDecoder):
                first = self._start() if start is None else start
                if first < 0:
                    raise UserError(f"{self.folder / 'config.json'}: 'decoder_start_token_id' is missing; add it")
                prompt = torch.full((ids.shape[0], 1), first, device=ids.device)
                found = search(self.module, prompt, self.module.read(ids, mask), plain)
            else:
                found = search(self.module, ids, Context(mask=mask), plain)
        best = [row[0] for row in found]
        written = [[*h.ids, *([h.end] if h.end is not None else [])] for h in best]
        text = None
        if self.has_tokenizer:
            text = [self.tokenizer.decode(list(h.ids)) for h in best]
        return Generation(written, text, [h.score for h in best], perf_counter() - began)

    def _told(self, made: Generator, rows: list[list[int]], asked: dict[str, Any]) -> Generation:
        began = perf_counter()
        answers = [answer for found in made.generate(rows, **asked) for answer in found]
        ids = [[*a.ids, *([] if a.end is None else [a.end])] for a in answers]
        text = [text_of(self, a) for a in answers] if self.has_tokenizer else None
        return Generation(ids, text, [a.score for a in answers], perf_counter() - began)

    def forecast(
        self, series: Tensor | Sequence[float], ahead: int | None = None, *, samples: int | None = None, seed: int = 0
    ) -> "Forecast":
        """How a series goes on: see jogak.hub.forecast.forecast.

        Raises: UserError for a model that does not forecast, or a series that does not fit.
        """
        from jogak.hub.forecast import forecast

        return forecast(self, series, ahead, samples=samples, seed=seed)

    def transcribe(
        self, sound: Tensor | Sequence[float], rate: int | None = None, *, beam: int = 1, n_best: int = 1
    ) -> "list[Heard]":
        """What is said in samples [time] of one channel, the likeliest text first; rate: samples a second, where they
        are not the model's. beam: 1 takes the likeliest letters, more search for the likeliest text.

        Raises: UserError for a model that does not write what it hears letter by letter.
        """
        from jogak.hub.transcribe import transcriber

        return transcriber(self, beam, n_best).hear(sound, rate)

    @torch.inference_mode()
    def embed(self, texts: str | Sequence[str], *, batch: int = 32) -> Tensor:
        """One vector for each text, float32 [n D], pooled and normalised as the checkpoint's own settings say.

        Without settings (1_Pooling/config.json, modules.json): the mean of all real positions, not normalised.

        Raises: UserError for a model that is no encoder, or where there is no tokenizer.
        """
        if not isinstance(self.module, Encoder) or self.module.encoder.input is not None:
            raise UserError(f"{self.folder}: only an encoder of text gives embeddings")
        given = [texts] if isinstance(texts, str) else list(texts)
        encoded = self.encode(given, cut=True)
        pool, normalise = POOLS[self._pooling()](self.config.width), self._normalises()
        rows = torch.empty(len(given), self.config.width)
        order = sorted(range(len(given)), key=lambda i: len(encoded[i]))
        for begin in range(0, len(order), batch):
            part = order[begin : begin + batch]
            ids, mask = self.rows([encoded[i] for i in part], None, left=False)
            hidden = self.module.encode(ids, Context(mask=mask))
            rows[part] = pool(hidden.float(), mask).cpu()
        return F.normalize(rows, dim=-1) if normalise else rows

    def encode(self, texts: Sequence[str], *, cut: bool = False) -> list[list[int]]:
        """Ids of texts with the special tokens of the model; cut: at most max_length of them, special ones kept."""
        rows = [e.ids for e in self.tokenizer.encode_batch(list(texts))]
        longest = self.max_length
        if not cut or all(len(row) <= longest for row in rows):
            return rows
        self.tokenizer.enable_truncation(longest)
        try:
            return [e.ids for e in self.tokenizer.encode_batch(list(texts))]
        finally:
            self.tokenizer.no_truncation()

    def chat(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> list[int]:  # noqa: ANN401
        """Ids of a conversation by the checkpoint's own template, up to where the model answers.

        messages: mappings with role and content. settings: as of codecs.chat.render.

        Raises: UserError where there is no template, or it refuses the conversation.
        """
        from jogak.codecs import chat

        text = chat.render(self.folder, messages, **{"add_generation_prompt": True, **settings})
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    @property
    def has_chat(self) -> bool:
        """Whether a template for conversations lies beside the checkpoint."""
        from jogak.codecs import chat

        return bool(chat.templates(self.folder))

    @property
    def max_length(self) -> int:
        """Units at most: the position table's, or the tokenizer's own bound where that is lower."""
        file = self.folder / "sentence_bert_config.json"
        own = self._json(file).get("max_seq_length") if file.is_file() else None
        return min(self.config.max_length, own) if isinstance(own, int) and own > 0 else self.config.max_length

    def rows(
        self, given: Tensor | Sequence[Sequence[int]], mask: Tensor | None = None, *, left: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """int64 [B T] on the model's device, padded (on the left), and which places are real where not all are.

        Where model.input reads something else than ids: that, as it is.

        Raises: UserError for rows without ids, and ids that are not in the vocabulary.
        """
        if self.config.input is not None:
            raw = torch.as_tensor(given)
            raw = raw.to(self.device, self.dtype if raw.is_floating_point() else raw.dtype)
            return raw, None if mask is None else mask.bool().to(self.device)
        if isinstance(given, Tensor):
            if given.dim() != 2 or 0 in given.shape:
                raise UserError(f"input_ids must be [batch, time] with something in it, got {list(given.shape)}")
            ids = given.long()
        else:
            rows = [list(row) for row in given]
            if not rows or not all(rows):
                raise UserError("input_ids: every row needs at least one id")
            longest = max(map(len, rows))
            pad = max(0, self.special("pad_token_id", 0))
            padding = [[pad] * (longest - len(row)) for row in rows]
            ids = torch.tensor([p + r if left else r + p for p, r in zip(padding, rows, strict=True)])
            lengths, places = torch.tensor([len(row) for row in rows]).unsqueeze(1), torch.arange(longest)
            real = places >= longest - lengths if left else places < lengths
            if not bool(real.all()) and mask is None:
                mask = real
        wrong = ids[(ids < 0) | (ids >= (self.config.source_vocab_size or self.config.vocab_size or 0))]
        if len(wrong):
            raise UserError(f"input_ids: id {int(wrong[0])} is not in the vocabulary of {self.config.vocab_size}")
        return ids.to(self.device), None if mask is None else mask.bool().to(self.device)

    @property
    def generation(self) -> dict[str, Any]:
        """What generation_config.json says; nothing where there is none."""
        file = self.folder / "generation_config.json"
        return self._json(file) if file.is_file() else {}

    def special(self, name: str, default: int) -> int:
        """A special id, of generation_config.json or config.json; the first where there are several."""
        return next(iter(self.specials(name)), default)

    def specials(self, name: str) -> list[int]:
        """All of them."""
        value = self.generation.get(name)
        value = self.fields.get(name) if value is None else value
        values = value if isinstance(value, list) else [] if value is None else [value]
        return [Fields({name: v}, str(self.folder / "config.json")).integer(name, least=-1) for v in values]

    @property
    def has_tokenizer(self) -> bool:
        from jogak.codecs import vocabularies

        return self._tokenizer is not None or vocabularies.there(self.folder)

    def _start(self) -> int:
        return self.special("decoder_start_token_id", self.special("bos_token_id", -1))

    def _pooling(self) -> str:
        file = self.folder / "1_Pooling" / "config.json"
        if not file.is_file():
            return "mean"
        settings = self._json(file)
        names = {
            "pooling_mode_cls_token": "first",
            "pooling_mode_mean_tokens": "mean",
            "pooling_mode_max_tokens": "max",
            "pooling_mode_lasttoken": "last",
        }
        chosen = [pool for name, pool in names.items() if settings.get(name)]
        if len(chosen) != 1:
            raise UserError(f"{file}: one way of pooling is expected, got {chosen or 'none that is known'}")
        return chosen[0]

    def _normalises(self) -> bool:
        file = self.folder / "modules.json"
        return file.is_file() and "Normalize" in file.read_text(encoding="utf-8")

    def _json(self, file: Path) -> dict[str, Any]:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file}: damaged ({error}); restore it") from None
        return found if isinstance(found, dict) else {}
