"""A model under the name that it is asked for by, and what it can be asked for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jogak import config
from jogak.api import Model
from jogak.codecs.text import TextCodec
from jogak.decoding.generate import Generator
from jogak.decoding.prefix import PrefixCache
from jogak.decoding.settings import CHANCE, Sampling
from jogak.errors import UserError
from jogak.hub.predictors import predictor
from jogak.hub.pretrained import Pretrained
from jogak.hub.writing import chat_settings
from jogak.hub.writing import generator as generator_of
from jogak.looking import Panel, collect
from jogak.looking.page import render
from jogak.models import Classifier, Decoder, Encoder
from jogak.serving.engine import Engine
from jogak.serving.settings import Settings
from jogak.tasks._chat import PLAIN_STOP, plain
from jogak.tasks._decode import decoding_of, to_stream
from jogak.tasks.contract import Predictor, Trace, Writes

CELLS = 1 << 24  # attention weights that a page may hold
SEARCH = {"beam": 32, "n_best": 32, "best_of": 32, "mbr_samples": 128, "batch": 64}  # at most, of one request
SHOWN = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_length")


class Served:
    """made, lane: the model ready to write and its batch, where it writes at all."""

    def __init__(self, name: str, model: Model | Pretrained, settings: Settings, engine: Engine) -> None:
        self.name, self.model, self.settings = name, model, settings
        self.created = int(Path(model.folder).stat().st_mtime)
        self.made = _generator(model, settings.cache_bytes)
        made = self.made
        self.lane = None if made is None else engine.lane(name, made, rows=settings.rows, chunk=settings.chunk)
        self.plain = not (isinstance(model, Pretrained) and model.has_chat)
        self.embeds = (
            isinstance(model, Pretrained)
            and isinstance(model.module, Encoder)
            and model.config.input is None
            and not isinstance(model.module, Classifier)
        )

    @property
    def task(self) -> str:
        if isinstance(self.model, Model):
            return self.model.recipe.task
        if self.made is not None:
            return "answer" if self.made.reads_source else "language_model"
        return "classify" if isinstance(self.model.module, Classifier) else "embed"

    @property
    def abilities(self) -> list[str]:
        reads_text = isinstance(self.model, Model) or self.model.config.input is None
        able = {
            "chat": self.made is not None and not self.made.reads_source,
            "completions": self.made is not None,
            "embeddings": self.embeds,
            "run": reads_text,
            "look": reads_text,
        }
        return [name for name, can in able.items() if can]

    def told(self) -> dict[str, Any]:
        """What /v1/models says of it."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "jogak",
            "task": self.task,
            "abilities": self.abilities,
            "defaults": {**self._defaults(), "template": not self.plain},
        }

    def _defaults(self) -> dict[str, Any]:
        if self.made is None:
            return {}
        decode = self._decode({}).model_dump(include=set(SHOWN))
        if isinstance(self.model, Pretrained):
            decode |= {name: value for name, value in chat_settings(self.model).items() if name in SHOWN}
        decode["max_tokens"] = min(decode.pop("max_length"), self.settings.max_output)
        return decode

    def _decode(self, given: Mapping[str, Any]) -> config.Decode:
        return to_stream(self.model.recipe.decode, given) if isinstance(self.model, Model) else config.Decode()

    # ------------------------------------------------------------ text

    def writer(self, ability: str) -> Generator:
        """Raises: UserError for a model that cannot do what is asked."""
        if self.made is None or ability not in self.abilities:
            able = " and ".join(f"/v1/{_PATHS[name]}" for name in self.abilities) or "nothing here"
            raise UserError(f"model '{self.name}' is not for /v1/{_PATHS[ability]}; it is for {able}")
        return self.made

    def chat_ids(self, messages: Sequence[Mapping[str, Any]], more: Mapping[str, Any]) -> list[int]:
        """The conversation up to where the model answers, by its own template, or as a play."""
        made = self.writer("chat")
        if isinstance(self.model, Pretrained) and not self.plain:
            if strange := sorted(set(more) & _RESERVED):
                raise UserError(f"chat_template_kwargs cannot set '{strange[0]}'; leave it out")
            return self._whole(self.model.chat(messages, **more))
        if more:
            raise UserError("chat_template_kwargs means nothing here: the model has no template of its own")
        told: list[dict[str, str]] = []
        for message in messages:
            role = "system" if message["role"] == "developer" else message["role"]
            if role == "tool":
                raise UserError("messages: the model has no template, so that it knows no tools; leave them out")
            told.append({"role": role, "content": message["content"]})
        return self._whole(made.encode(plain(told)))

    def prompt_ids(self, prompt: str | list[int]) -> list[int]:
        made = self.writer("completions")
        if not isinstance(prompt, str):
            return self._whole(prompt)
        if isinstance(self.model, Pretrained):
            return self._whole(self.model.encode([prompt])[0] or [made.codec.bos_id])
        return self._whole(made.encode(prompt))

    def _whole(self, ids: list[int]) -> list[int]:
        most = self.settings.max_prompt
        if len(ids) > most:
            raise UserError(f"the prompt has {len(ids)} tokens, more than the {most} that are allowed; shorten it")
        return ids

    def sampling(self, given: dict[str, Any], ids: Sequence[int], *, chat: bool) -> Sampling:
        """How a request is answered: as it asks, else as the model's own settings say.

        Without max_tokens an answer is as long as the settings say and the model has room for.
        """
        made, most = self.writer("completions"), self.settings.max_output
        length = given.pop("max_tokens")
        if length is not None and length > most:
            raise UserError(f"max_tokens must be a whole number from 1 to {most}, got {length}")
        own = chat_settings(self.model) if isinstance(self.model, Pretrained) else {}
        known = {name: value for name, value in given.items() if value is not None}
        if known.pop("n", 1) > 1:
            known["n"] = given["n"]
            chance = {"temperature", *CHANCE} & (own.keys() | known.keys())
            if not chance and self._decode({}).temperature is None:
                known["temperature"] = 1.0  # several answers are drawn, as OpenAI's default has it
        asked = decoding_of(self._decode(known), {**own, **known, "max_new_tokens": length})
        if length is None:
            room = most if made.longest is None else max(1, made.longest - (1 if made.reads_source else len(ids)))
            asked = replace(asked, max_new_tokens=max(asked.min_new_tokens, min(asked.max_new_tokens, most, room)))
        if chat and self.plain:
            asked = replace(asked, stop=(*asked.stop, PLAIN_STOP))
        return asked

    # ------------------------------------------------------------ everything else

    def predictor(self, given: Mapping[str, Any]) -> Predictor:
        """The model's task, with bounds on how much one request may have searched."""
        for name, value in given.items():
            most = self.settings.max_output if name == "max_length" else SEARCH.get(name)
            if most is not None and isinstance(value, int | float) and not 0 <= value <= most:
                raise UserError(f"settings.{name} must be a whole number from 0 to {most}, got {value}")
        try:
            if isinstance(self.model, Model):
                return self.model.trained.predictor(**given)
            return predictor(self.model, **given)
        except TypeError:
            raise UserError("settings: a value has another type than it must have") from None

    def labels(self, ids: Sequence[int]) -> list[str]:
        """What a person reads for each id."""
        codec = self.model.codec if isinstance(self.model, Model) else None
        if isinstance(codec, TextCodec):
            return codec.labels(ids)
        pieces = (self.model.tokenizer.id_to_token(n) for n in ids) if isinstance(self.model, Pretrained) else ids
        return [str(piece) for piece in pieces]

    def look(self, prompt: Sequence[int], answer: Sequence[int]) -> list[Panel]:
        """Every attention map of an answer that was given."""
        made = self.writer("completions")
        assert isinstance(self.model.module, Decoder)
        ids = [*prompt, *answer]
        if wrong := [n for n in ids if not 0 <= n < self.model.module.decoder.embedding.units]:
            raise UserError(f"token_ids: id {wrong[0]} is not in the vocabulary")
        if made.reads_source:
            read = [made.codec.bos_id, *answer]
            written = [*answer, made.codec.eos_id]
            return self._collected(Trace(prompt, read, self.labels(prompt), self.labels(read), self.labels(written)))
        return self._collected(Trace((), ids, (), self.labels(ids)))

    def look_at(self, text: str) -> tuple[list[Panel], str]:
        """The same of the answer that the model gives to a text, and that answer."""
        if isinstance(self.model, Model):
            trace = self.model.trained.trace(text)
            return self._collected(trace), trace.output
        if self.made is not None:
            asked = self.sampling({"max_tokens": 64}, self.prompt_ids(text), chat=False)
            found = self.made.generate([self.prompt_ids(text)], asked)[0][0]
            return self.look(self.prompt_ids(text), found.ids), found.text
        ids = self.model.encode([text])[0]
        return self._collected(Trace(ids, (), self.labels(ids))), ""

    def _collected(self, trace: Trace) -> list[Panel]:
        longest = max(len(trace.source_ids), len(trace.target_ids))
        depth = sum(1 for name, _ in self.model.module.named_modules() if name.endswith((".mixer", ".cross")))
        if depth * 8 * longest**2 > CELLS:
            most = math.isqrt(CELLS // (8 * max(1, depth)))
            raise UserError(f"there are {longest} tokens to look at, and {most} can be shown; shorten the text")
        return collect(
            self.model.module,
            trace.source_ids,
            trace.target_ids,
            source_labels=trace.source_labels,
            target_labels=trace.target_labels,
            written_labels=trace.written_labels,
        )

    def page(self, panels: Sequence[Panel], source: str, output: str, language: str) -> str:
        return render(panels, title=self.name, source=source, output=output, language=language)


_PATHS = {"chat": "chat/completions", **{name: name for name in ("completions", "embeddings", "run", "look")}}
_RESERVED = {"folder", "messages", "template", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"}


def _generator(model: Model | Pretrained, cache_bytes: int) -> Generator | None:
    """The model ready to write; None: it does not."""
    cache = PrefixCache(cache_bytes) if cache_bytes else None
    if isinstance(model, Pretrained):
        writes = isinstance(model.module, Decoder) and model.config.head.kind == "units" and model.config.input is None
        return generator_of(model, cache=cache) if writes and model.has_tokenizer else None
    return model.generator(cache=cache) if isinstance(model.trained, Writes) else None
