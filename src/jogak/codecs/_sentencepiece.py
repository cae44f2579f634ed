"""A SentencePiece model (`spiece.model`, `tokenizer.model`): its pieces, scores and table of characters, and merges.

The file is a protocol buffer, of which few fields matter here; it is read without SentencePiece's library. Fields and
their numbers are those of sentencepiece_model.proto (Kudo and Richardson 2018, 1808.06226).
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jogak.errors import UserError

SPACE = "▁"  # what is written for a space
_CONTROL, _USER_DEFINED = 3, 4  # types of pieces
_VARINT, _EIGHT, _MANY, _FOUR = 0, 1, 2, 5  # how a field is stored
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of the model
_TEXT, _SCORE, _TYPE = 1, 2, 3  # of a piece
_UNKNOWN, _CHARACTERS = 40, 2  # of the trainer; of the normalizer


@dataclass(frozen=True)
class SentencePiece:
    """pieces: with their log probabilities, by id. special, kept: pieces that stand for themselves wherever a text has
    them, of which the first say nothing. characters: which characters become which, empty where none do."""

    pieces: list[tuple[str, float]]
    special: list[str]
    kept: list[str]
    unknown: int
    characters: bytes

    @property
    def numbers(self) -> dict[str, int]:
        return {piece: number for number, (piece, _) in enumerate(self.pieces)}


def read(path: Path) -> SentencePiece:
    """The model in a file.

    Raises: UserError where there is none, ValueError where it is no SentencePiece model.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give ids instead of text, or add the tokenizer")
    pieces: list[tuple[str, float]] = []
    special: list[str] = []
    kept: list[str] = []
    unknown, characters = 0, b""
    for field, value in _fields(path.read_bytes()):
        if field == _PIECES:
            piece, score, kind = _piece(_bytes(value))
            pieces.append((piece, score))
            if kind in (_CONTROL, _USER_DEFINED):
                (special if kind == _CONTROL else kept).append(piece)
        elif field == _TRAINER:
            numbers = [n for f, n in _fields(_bytes(value)) if f == _UNKNOWN and isinstance(n, int)]
            unknown = numbers[-1] if numbers else unknown
        elif field == _NORMALIZER:
            tables = [_bytes(t) for f, t in _fields(_bytes(value)) if f == _CHARACTERS]
            characters = tables[-1] if tables else characters
    if not 0 <= unknown < len(pieces):
        raise ValueError("no pieces, or no piece for what is unknown")
    return SentencePiece(pieces, special, kept, unknown, characters)


def merges(numbers: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece; pieces with low numbers first, then short left parts."""
    return [
        (whole[:cut], whole[cut:])
        for whole in sorted(numbers, key=numbers.__getitem__)
        for cut in range(1, len(whole))
        if whole[:cut] in numbers and whole[cut:] in numbers
    ]


def _piece(raw: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, 1
    for field, value in _fields(raw):
        if field == _TEXT:
            text = _bytes(value).decode()
        elif field == _SCORE:
            score = struct.unpack("<f", _bytes(value))[0]
        elif field == _TYPE and isinstance(value, int):
            kind = value
    return text, score, kind


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a field is stored as another kind")
    return value


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Fields by their numbers: whole numbers, or the bytes of everything else."""
    place = 0
    while place < len(raw):
        key, place = _varint(raw, place)
        stored = key & 7
        if stored == _VARINT:
            value, place = _varint(raw, place)
            yield key >> 3, value
            continue
        if stored == _MANY:
            size, place = _varint(raw, place)
        elif stored in (_EIGHT, _FOUR):
            size = 8 if stored == _EIGHT else 4
        else:
            raise ValueError(f"byte {place} begins no field")
        if place + size > len(raw):
            raise ValueError("truncated")
        yield key >> 3, raw[place : place + size]
        place += size


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first; and where the next field begins."""
    value = shift = 0
    while True:
        if place >= len(raw) or shift > 63:
            raise ValueError("truncated")
        value |= (raw[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if raw[place - 1] < 0x80:
            return value, place
