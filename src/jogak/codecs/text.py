"""Text and the ids of its pieces: trained on the data, or read from a Hugging Face `tokenizer.json`.

A codec that jogak trained gives back every NFC text exactly. See docs/codecs.md.
"""

import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import Any
from unicodedata import is_normalized, normalize

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Encoding, Tokenizer

from jogak import storage
from jogak.codecs._placeholders import TOKENS, assign, runs
from jogak.codecs._training import (
    BOS,
    BYTES,
    EOS,
    LONGEST_WORD,
    PAD,
    UNKNOWN,
    decoder,
    normalizer,
    train_tokenizer,
)
from jogak.config import Codec
from jogak.errors import UserError

# How the tokenizers of published models call what jogak calls pad, bos, eos; the first that exists is taken.
_NAMES = {
    "pad": (PAD, "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>"),
    "bos": (BOS, "[CLS]", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "[BOS]", "<|endoftext|>"),
    "eos": (EOS, "[SEP]", "<eos>", "<|end_of_text|>", "<|endoftext|>", "[EOS]"),
    "unk": (UNKNOWN, "[UNK]"),
}
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_PRINTABLE = frozenset(string.printable) - set("\v\f")
_VISIBLE = str.maketrans({" ": "▁", "\n": "⏎", "\t": "⇥", "\r": "␍"})

Slots = Mapping[int, str]  # slot id -> the placeholder it stands for in one example


@dataclass(frozen=True)
class Encoded:
    """Ids of a source text, and the placeholders that its slot ids stand for."""

    ids: list[int]
    slots: dict[int, str] = field(default_factory=dict)


class TextCodec:
    """Text <-> ids. `encode` spells everything; `encode_source` gives each placeholder one id, a slot.

    pad_id, bos_id, eos_id: ids of padding, beginning and end; unk_id: of what has no piece, None where
    nothing can lack one; vocab_size: ids are below it; slot_ids: ids that stand for placeholders, by token;
    digest: changes when any id does.
    """

    def __init__(self, tokenizer: Tokenizer, names: Mapping[str, str] | None = None) -> None:
        self._tokenizer = tokenizer
        self._vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(self._vocabulary.values()) + 1
        self._pieces = [""] * self.vocab_size
        for piece, number in self._vocabulary.items():
            self._pieces[number] = piece
        found = {role: self._find(role, names or {}) for role in _NAMES}
        eos, self.unk_id = found["eos"], found["unk"]
        if eos is None:
            raise UserError("the tokenizer names no end token; put a tokenizer_config.json with 'eos_token' beside it")
        self.eos_id = eos
        self.bos_id = eos if found["bos"] is None else found["bos"]
        self.pad_id = eos if found["pad"] is None else found["pad"]
        self.slot_ids = {token: self._vocabulary[token] for token in TOKENS if token in self._vocabulary}
        description = json.loads(tokenizer.to_str())
        self._reserved = {entry["id"] for entry in description["added_tokens"] if entry["special"]}
        self._slot_numbers = frozenset(self.slot_ids.values())
        self._byte_level = '"ByteLevel"' in json.dumps(description["decoder"])
        self._model: str = description["model"]["type"]
        self._own = _is_own(description)
        self._prefix = self._own and "Prepend" in json.dumps(description["normalizer"])
        self.digest = blake2b(tokenizer.to_str().encode(), digest_size=16).hexdigest()
        if self._own:
            self._take_over()

    def _take_over(self) -> None:
        """Do the leading space here, since it stands before texts and not before runs between slots."""
        self._tokenizer.normalizer = normalizer(prefix=False)
        self._tokenizer.decoder = decoder(prefix=False)
        self._tokenizer.encode_special_tokens = True  # `<s>` in a text is HTML, not the beginning of a sequence
        self._bytes = [piece.encode() for piece in self._pieces]
        for number in self._reserved:
            self._bytes[number] = "\ufffd".encode() if number == self.unk_id else b""
        has_bytes = all(piece in self._vocabulary for piece in BYTES)
        self._byte_ids = [self._vocabulary[piece] for piece in BYTES] if has_bytes else []
        for value, number in enumerate(self._byte_ids):
            self._bytes[number] = bytes([value])

    # ------------------------------------------------------------ making, reading, writing

    @classmethod
    def train(cls, texts: Iterable[str], config: Codec) -> "TextCodec":
        """A codec trained on `texts`, the same for the same texts; or that in `config.file`, slots added.

        Raises: UserError if there is no text, or the vocabulary is too small for what every codec holds.
        """
        if config.file is None:
            return cls(train_tokenizer(texts, config))
        tokenizer, names = _read(Path(config.file))
        known = tokenizer.get_vocab(with_added_tokens=True)
        for role, usual in (("pad", PAD), ("bos", BOS), ("eos", EOS)):
            if names.get(role) not in known and not any(name in known for name in _NAMES[role]):
                tokenizer.add_special_tokens([usual])
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in TOKENS])
        return cls(tokenizer, names)

    @classmethod
    def load(cls, path: Path) -> "TextCodec":
        """The codec in a `tokenizer.json`, or in a folder that holds one, with its vocabulary unchanged.

        Raises: UserError if it is missing or damaged.
        """
        return cls(*_read(path))

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, and `tokenizer_config.json` with the special tokens, into `folder`."""
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        if self._own:
            tokenizer.normalizer = normalizer(self._prefix)
            tokenizer.decoder = decoder(self._prefix)
        storage.write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True) + "\n")
        roles = {"pad": self.pad_id, "bos": self.bos_id, "eos": self.eos_id, "unk": self.unk_id}
        names = {f"{role}_token": self._pieces[number] for role, number in roles.items() if number is not None}
        storage.write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})

    def parts(self) -> NDArray[np.int64]:
        """The two pieces that each id was merged from, [V 2]; -1 where it is none of BPE's merges.

        Raises: UserError where the codec merges nothing.
        """
        merges: list[tuple[str, str]] = json.loads(self._tokenizer.to_str())["model"].get("merges", [])
        if not merges:
            raise UserError("train.bpe_dropout: the codec merges no pieces; set it to 0 or use codec.kind=bpe")
        found = np.full((self.vocab_size, 2), -1, dtype=np.int64)
        for left, right in reversed(merges):  # the first merge that makes a piece is the one that BPE takes
            found[self._vocabulary[left + right]] = self._vocabulary[left], self._vocabulary[right]
        return found

    def _find(self, role: str, names: Mapping[str, str]) -> int | None:
        candidates = (names.get(role, ""), *_NAMES[role])
        return next((self._vocabulary[name] for name in candidates if name in self._vocabulary), None)

    # ------------------------------------------------------------ encoding

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, placeholders spelled like other text, no special tokens."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts at once."""
        return self._encode([([text] if text else []) for text in map(nfc, texts)])

    def encode_source(self, text: str) -> Encoded:
        """Ids of what is to be translated, each placeholder one slot id, and what the slots stand for."""
        return self.encode_sources([text])[0]

    def encode_sources(self, texts: Sequence[str]) -> list[Encoded]:
        """`encode_source` of many texts at once."""
        texts = [nfc(text) for text in texts]
        slots = [self._assign(text) for text in texts]
        ids = self._encode([runs(text, ours) for text, ours in zip(texts, slots, strict=True)])
        return [
            Encoded(row, {number: placeholder for placeholder, number in ours.items()})
            for row, ours in zip(ids, slots, strict=True)
        ]

    def encode_target(self, text: str, slots: Slots) -> list[int]:
        """Ids of a translation of the source that `slots` come from; other placeholders are spelled."""
        return self._encode([runs(nfc(text), {content: number for number, content in slots.items()})])[0]

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Ids of (source, target) pairs, as `encode_source` and `encode_target` give them, all at once."""
        jobs: list[list[str | int]] = []
        for source, target in pairs:
            source = nfc(source)  # noqa: PLW2901  # the text before NFC is of no use
            slots = self._assign(source)
            jobs += [runs(source, slots), runs(nfc(target), slots)]
        ids = self._encode(jobs)
        return list(zip(ids[::2], ids[1::2], strict=True))

    def _assign(self, text: str) -> dict[str, int]:
        return {p: self.slot_ids[token] for p, token in assign(text).items() if token in self.slot_ids}

    def _encode(self, jobs: Sequence[Sequence[str | int]]) -> list[list[int]]:
        """Ids of texts given as runs: str is plain text, int a slot id."""
        if not self._own:
            texts = ["".join(self._pieces[r] if isinstance(r, int) else r for r in job) for job in jobs]
            return [e.ids for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        plain: list[str] = []
        for job in jobs:
            for number, run in enumerate(job):
                if isinstance(run, str):
                    plain.append(f" {run}" if number == 0 and self._prefix else run)
        encoded = iter(self._encode_plain(plain))
        return [_flatten([run] if isinstance(run, int) else next(encoded) for run in job) for job in jobs]

    def _encode_plain(self, texts: list[str]) -> list[list[int]]:
        if self._model != "WordPiece" or not self._byte_ids:
            return [e.ids for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [self._spell_unknown(text, e) for text, e in zip(texts, encodings, strict=True)]

    def _spell_unknown(self, text: str, encoding: Encoding) -> list[int]:
        """WordPiece gives up a whole word for one unseen character; cut there and spell that one in bytes."""
        if self.unk_id not in encoding.ids:
            return encoding.ids
        ids: list[int] = []
        for number, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if number != self.unk_id:
                ids.append(number)
                continue
            for known, characters in groupby(text[begin:end], self._vocabulary.__contains__):
                run = "".join(characters)
                if known:
                    parts = [run[i : i + LONGEST_WORD] for i in range(0, len(run), LONGEST_WORD)]
                    ids += [token.id for part in parts for token in self._tokenizer.model.tokenize(part)]
                else:
                    ids += [self._byte_ids[byte] for byte in run.encode()]
        return ids

    # ------------------------------------------------------------ decoding

    def decode(self, ids: Sequence[int], slots: Slots | None = None) -> str:
        """The text of `ids`, special tokens dropped; a slot gives its placeholder, or nothing if none."""
        slots = slots or {}
        self._check(ids)
        if not self._own:
            text = self._tokenizer.decode(self._visible(ids, slots), skip_special_tokens=False)
            return _replace(text, {self._pieces[number]: placeholder for number, placeholder in slots.items()})
        parts = [slots.get(n, "").encode() if n in self._slot_numbers else self._bytes[n] for n in ids]
        first = next((n for n in ids if self._bytes[n] or n in slots), self.eos_id)
        text = b"".join(parts).decode("utf-8", errors="replace")
        return text[1:] if self._prefix and first not in slots and text.startswith(" ") else text

    def decode_all(self, batch: Sequence[Sequence[int]], slots: Sequence[Slots] | None = None) -> list[str]:
        """`decode` of many; slots: one mapping for each."""
        if slots is None:
            return [self.decode(ids) for ids in batch]
        return [self.decode(ids, ours) for ids, ours in zip(batch, slots, strict=True)]

    def _visible(self, ids: Sequence[int], slots: Slots) -> list[int]:
        return [n for n in ids if n not in self._reserved or n in slots]

    def forbidden(self, slots: Slots) -> list[int]:
        """Ids that a translation of the source of `slots` never holds: padding, bos, unknown, other slots."""
        never = {self.pad_id, self.bos_id, *self._slot_numbers} | ({self.unk_id} if self.unk_id is not None else set())
        return sorted(number for number in never if number != self.eos_id and number not in slots)

    def lost(self, ids: Sequence[int], slots: Slots) -> list[str]:
        """Placeholders of the source that the translation `ids` does not hold."""
        given = set(ids)
        return [placeholder for number, placeholder in slots.items() if number not in given]

    # ------------------------------------------------------------ showing

    def labels(self, ids: Sequence[int], slots: Slots | None = None) -> list[str]:
        """What a person reads for each id: `▁파일`, `<0xEA>`, `</s>`, `⏎`, and for a slot its placeholder."""
        slots = slots or {}
        self._check(ids)
        return [slots[n] if n in slots else self._label(n) for n in ids]

    def _label(self, number: int) -> str:
        piece = self._pieces[number]
        if self._byte_level and number not in self._reserved:
            raw = bytes(_GPT2_BYTES[character] for character in piece if character in _GPT2_BYTES)
            try:
                piece = raw.decode()
            except UnicodeDecodeError:  # a part of a character
                return "".join(f"<0x{byte:02X}>" for byte in raw)
        if self._own and (byte := _BYTE.fullmatch(piece)) and (shown := chr(int(byte[1], 16))) in _PRINTABLE:
            piece = shown
        return piece.translate(_VISIBLE)

    def _check(self, ids: Sequence[int]) -> None:
        wrong = next((n for n in ids if not 0 <= n < self.vocab_size), None)
        if wrong is not None:
            raise UserError(f"id {wrong} is not in the codec's vocabulary, whose ids are 0 to {self.vocab_size - 1}")


def nfc(text: str) -> str:
    """`text` in NFC, the form in which a Hangul syllable is one character.

    Raises: UserError for half a surrogate pair, which no encoding of text can hold.
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"character {error.start} of {text[:40]!r} is half a surrogate pair, not text; remove it"
            ) from None
        if not is_normalized("NFC", text):
            return normalize("NFC", text)
    return text


def _read(path: Path) -> tuple[Tokenizer, dict[str, str]]:
    """A tokenizer, and what a `tokenizer_config.json` beside it says of pad, bos, eos and unk."""
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file; a codec is read from a tokenizer.json") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except Exception as error:  # the library raises bare Exception for every fault in the file
        raise UserError(f"{file}: damaged, or not a tokenizer.json ({error})") from None
    beside = file.with_name("tokenizer_config.json")
    settings: dict[str, Any] = storage.read_json(beside) if beside.is_file() else {}
    given = {role: settings.get(f"{role}_token") for role in _NAMES}
    content = {role: value["content"] if isinstance(value, dict) else value for role, value in given.items()}
    return tokenizer, {role: value for role, value in content.items() if isinstance(value, str)}


def _is_own(description: dict[str, Any]) -> bool:
    """Whether jogak made this tokenizer: slots, a split, a decoder that only undoes bytes and prefix."""
    added = {entry["content"] for entry in description["added_tokens"]}
    steps = (description["decoder"] or {}).get("decoders", [])
    return (
        added.issuperset(TOKENS)
        and [step["type"] for step in steps][:2] == ["ByteFallback", "Fuse"]
        and (description["pre_tokenizer"] or {}).get("type") == "Split"
    )


def _flatten(parts: Iterable[list[int]]) -> list[int]:
    return [number for part in parts for number in part]


def _replace(text: str, table: Mapping[str, str]) -> str:
    """Every key replaced by its value, in one pass, so that no replacement is replaced again."""
    if not table:
        return text
    return re.sub("|".join(map(re.escape, table)), lambda match: table[match.group()], text)


def _gpt2_bytes() -> dict[str, int]:
    """Byte-level vocabularies (GPT-2) write a byte as itself where printable, else as the next U+0100 + n."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_GPT2_BYTES = _gpt2_bytes()
