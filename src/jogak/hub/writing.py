"""What a checkpoint writes by every way of decoding: its tokenizer as jogak.decoding asks for a codec."""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jogak.codecs._spelling import Spelling, spell
from jogak.codecs.text import Encoded, Slots
from jogak.decoding.generate import Generator
from jogak.decoding.prefix import PrefixCache
from jogak.errors import UserError
from jogak.models import Decoder, EncoderDecoder

if TYPE_CHECKING:
    from jogak.hub.pretrained import Pretrained

NO_END = -1


class CheckpointCodec:
    """The tokenizer of a checkpoint (see decoding.answers.Codec); without one, ids that write nothing.

    end, start: as of Pretrained.generate.
    """

    def __init__(self, model: "Pretrained", end: int | None = None, start: int | None = None) -> None:
        self._model, self._end, self._start = model, end, start

    @property
    def eos_id(self) -> int:
        """The first end mark; an id that no head gives, where there is none."""
        ends = self.ends
        return ends[0] if ends else (self._model.config.vocab_size or 0)

    @property
    def ends(self) -> list[int]:
        if self._end is not None:
            return [] if self._end == NO_END else [self._end]
        return self._model.specials("eos_token_id")

    @property
    def pad_id(self) -> int:
        return max(0, self._model.special("pad_token_id", 0))

    @property
    def bos_id(self) -> int:
        start = self._model.special("bos_token_id", 0) if self._start is None else self._start
        if isinstance(self._model.module, EncoderDecoder) and self._start is None:
            start = self._model.special("decoder_start_token_id", start)
        return start

    @property
    def spelling(self) -> Spelling:
        return self._spelling

    @cached_property
    def _spelling(self) -> Spelling:
        if not self._model.has_tokenizer:
            return Spelling([], strips=False)
        tokenizer = self._model.tokenizer
        description = json.loads(tokenizer.to_str())
        pieces = [""] * (max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1)
        for piece, number in tokenizer.get_vocab(with_added_tokens=True).items():
            pieces[number] = piece
        silent = [entry["id"] for entry in description["added_tokens"] if entry["special"]]
        return spell(pieces, silent, description)

    def encode(self, text: str) -> list[int]:
        return self._model.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_source(self, text: str) -> Encoded:
        return Encoded(self.encode(text))

    def forbidden(self, slots: Slots) -> list[int]:
        """Nothing: what a checkpoint may write, its own settings say."""
        return []

    def lost(self, ids: Sequence[int], slots: Slots) -> list[str]:
        return []


def generator(
    model: "Pretrained",
    *,
    end: int | None = None,
    start: int | None = None,
    cache: PrefixCache | None = None,
    draft: Decoder | None = None,
) -> Generator:
    """A checkpoint ready to write by any way of decoding; see Generator for cache and draft.

    Raises: UserError for a model that does not write text.
    """
    if not isinstance(model.module, Decoder) or model.config.head.kind != "units":
        raise UserError(f"{model.folder}: this model has no head that writes; embed() gives vectors")
    if model.config.input is not None:
        raise UserError(f"{model.folder}: a model that reads something else than ids is decoded by beam search alone")
    codec, given = CheckpointCodec(model, end, start), model.config
    longest = given.max_length if given.position == "learned" else None
    return Generator(model.module, codec, longest=longest, cache=cache, draft=draft, ends=codec.ends, by_length=True)


def rows_of(input_ids: Tensor | Sequence[Sequence[int]], mask: Tensor | None) -> list[list[int]]:
    """Rows of ids without their padding."""
    if mask is None:
        return [list(map(int, row)) for row in input_ids]
    ids = torch.as_tensor(input_ids)
    return [row[real].tolist() for row, real in zip(ids, mask.bool(), strict=True)]


def chat_settings(model: "Pretrained") -> dict[str, Any]:
    """How a checkpoint's own generation_config.json would have it answer: greedily, or by chance."""
    given = model.generation
    kept = ("repetition_penalty", "no_repeat_ngram_size")
    chance = ("temperature", "top_k", "top_p", "min_p", "typical_p") if given.get("do_sample") else ()
    return {name: given[name] for name in (*kept, *chance) if given.get(name) is not None}
