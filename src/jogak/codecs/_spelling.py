"""What bytes each id of a tokenizer writes: text is then a sum of parts that can be cut, searched and streamed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class Spelling:
    """pieces: the bytes of each id, b"" for what writes nothing. strips: whether a text loses its leading space."""

    pieces: Sequence[bytes]
    strips: bool

    def with_slots(self, slots: Mapping[int, str]) -> "Spelling":
        """The same, where slot ids write the placeholders of one example."""
        if not slots:
            return self
        pieces = list(self.pieces)
        for number, placeholder in slots.items():
            pieces[number] = placeholder.encode()
        return Spelling(pieces, self.strips)

    @cached_property
    def table(self) -> NDArray[np.int16]:
        """The bytes of each id, a row for each: [V L], 256 where there is none."""
        longest = max((len(piece) for piece in self.pieces), default=0)
        found = np.full((len(self.pieces), longest), 256, dtype=np.int16)
        for number, piece in enumerate(self.pieces):
            found[number, : len(piece)] = list(piece)
        return found

    def written(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.pieces[n] for n in ids if n < len(self.pieces))

    def text(self, ids: Sequence[int], before: Sequence[int] = ()) -> str:
        """What `ids` add to the text of the ids `before` them; bytes that are no character become U+FFFD."""
        raw = self.written(ids)
        if self.strips and raw[:1] == b" " and not self.written(before):
            raw = raw[1:]
        return raw.decode("utf-8", errors="replace")


def spell(pieces: Sequence[str], silent: Sequence[int], description: Mapping[str, Any]) -> Spelling:
    """The spelling of a tokenizer that was read from a file; silent: ids that write nothing.

    Byte-level vocabularies (GPT-2), pieces with ▁ for a space and bytes as <0xEA> (SentencePiece), and WordPiece's ##
    are undone as the tokenizer's own decoder does, up to the tidying of punctuation that some WordPiece decoders add
    and how many U+FFFD stand for bytes that are no character.
    """
    decoder = description["decoder"] or {}
    kinds = {step["type"] for step in (decoder, *decoder.get("decoders", [])) if step}
    added = {entry["id"] for entry in description["added_tokens"]}
    never = set(silent)

    def one(number: int, piece: str) -> bytes:
        if number in never:
            return b""
        if number in added:
            return piece.encode()
        if not kinds:  # no decoder: pieces with spaces between them
            return f" {piece}".encode()
        if "ByteLevel" in kinds:
            return b"".join(bytes([GPT2_BYTES[c]]) if c in GPT2_BYTES else c.encode() for c in piece)
        if "WordPiece" in kinds:
            prefix = decoder.get("prefix", "##")
            return piece.removeprefix(prefix).encode() if piece.startswith(prefix) else f" {piece}".encode()
        if "BPEDecoder" in kinds:
            suffix = decoder.get("suffix", "</w>")
            return f"{piece.removesuffix(suffix)} ".encode() if piece.endswith(suffix) else piece.encode()
        if "ByteFallback" in kinds and (byte := BYTE.fullmatch(piece)):
            return bytes([int(byte[1], 16)])
        return piece.replace("▁", " ").encode() if kinds & {"Metaspace", "Replace"} else piece.encode()

    strips = (not kinds or bool(kinds & {"Metaspace", "WordPiece", "Strip"})) and decoder.get(
        "prepend_scheme"
    ) != "never"
    return Spelling([one(number, piece) for number, piece in enumerate(pieces)], strips)


def _gpt2_bytes() -> dict[str, int]:
    """Byte-level vocabularies (GPT-2) write a byte as itself where printable, else as the next U+0100 + n."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


GPT2_BYTES = _gpt2_bytes()
