"""SentencePiece models whose pieces have other numbers in the checkpoint's own model: those of Marian and M2M-100.

Such a checkpoint has one or two SentencePiece models, which cut text, and vocab.json, which numbers what comes out;
what has no number there is unknown. A mark of language stands before a text: Marian's is written in it (`>>fra<<`),
that of M2M-100 follows from what language the text is said to be in.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from jogak import storage
from jogak.codecs import _sentencepiece
from jogak.codecs._sentencepiece import SPACE
from jogak.errors import UserError, nearest


@dataclass(frozen=True)
class Ids:
    """What a tokenizer makes of a text."""

    ids: list[int]


@dataclass
class Renumbered:
    """The part of `tokenizers.Tokenizer` that jogak uses. cut: gives pieces. numbers: of each piece. special: what is
    never cut and never written. before, after: ids around a text. leading: whether >>...<< begins a text."""

    cut: Tokenizer
    numbers: Mapping[str, int]
    unknown: str
    special: Sequence[str]
    before: Sequence[int] = ()
    after: Sequence[int] = ()
    leading: bool = False
    _longest: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._pieces = {number: piece for piece, number in self.numbers.items()}
        self._silent = {self.numbers[piece] for piece in self.special if piece in self.numbers}

    def encode(self, text: str, add_special_tokens: bool = True) -> Ids:
        """Ids of a text: the library's name and meaning."""
        mark: list[str] = []
        if self.leading and text.startswith(">>") and (end := text.find("<<")) != -1:
            mark, text = [text[: end + 2]], text[end + 2 :]
        found = self.numbers[self.unknown]
        pieces = [*mark, *self.cut.encode(text, add_special_tokens=False).tokens]
        ids = [self.numbers.get(piece.strip(), found) for piece in pieces]  # what is never cut takes spaces with it
        if not add_special_tokens:
            return Ids(ids)
        if self._longest is not None:
            ids = ids[: max(0, self._longest - len(self.before) - len(self.after))]
        return Ids([*self.before, *ids, *self.after])

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[Ids]:
        return [self.encode(text, add_special_tokens) for text in texts]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        known = [n for n in ids if n in self._pieces and not (skip_special_tokens and n in self._silent)]
        return "".join(self._pieces[n] for n in known).replace(SPACE, " ").strip()

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        return dict(self.numbers)

    def id_to_token(self, number: int) -> str | None:
        return self._pieces.get(number)

    def enable_truncation(self, longest: int) -> None:
        self._longest = longest

    def no_truncation(self) -> None:
        self._longest = None

    def no_padding(self) -> None:
        """There is none."""

    def to_str(self) -> str:
        """What `codecs._spelling.spell` reads of a description."""
        silent = [{"id": n, "content": self._pieces[n], "special": True} for n in sorted(self._silent)]
        return json.dumps({"added_tokens": silent, "decoder": {"type": "Metaspace", "prepend_scheme": "always"}})


def _pieces(given: _sentencepiece.SentencePiece, special: Sequence[str], *, merged: bool) -> Tokenizer:
    """Text in pieces as SentencePiece cuts it; special: never cut."""
    # Its own marks are nothing that a text could hold.
    marks = {*given.special, given.pieces[given.unknown][0]}
    named = [(f"\0{piece}" if piece in marks else piece, score) for piece, score in given.pieces]
    if merged:
        numbers = {piece: number for number, (piece, _) in enumerate(named)}
        pairs, unknown = _sentencepiece.merges(numbers), named[given.unknown][0]
        made = Tokenizer(models.BPE(numbers, pairs, unk_token=unknown, fuse_unk=True))
    else:
        made = Tokenizer(models.Unigram(named, unk_id=given.unknown, byte_fallback=False))
    steps: list[Any] = [normalizers.Precompiled(given.characters)] if given.characters else []
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()])
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    made.add_tokens([AddedToken(name, normalized=False, special=True, lstrip=True, rstrip=True) for name in special])
    return made


def _numbers(folder: Path) -> dict[str, int]:
    file = folder / "vocab.json"
    found = storage.read_json(file) if file.is_file() else None
    whole = isinstance(found, dict) and all(type(number) is int and number >= 0 for number in found.values())
    if not whole or not found:
        raise UserError(f"{file}: a number for each piece is expected; restore it")
    return found


def _content(token: object) -> str:
    """Of a token as text, or as a mapping of what it is."""
    return str(token.get("content")) if isinstance(token, dict) else str(token)


def _number(numbers: Mapping[str, int], piece: str, folder: Path) -> int:
    if piece not in numbers:
        raise UserError(f"{folder / 'vocab.json'}: '{piece}' is missing; restore it")
    return numbers[piece]


def marian(folder: Path, fields: Mapping[str, Any]) -> Renumbered:
    """Marian's: source.spm, an end behind each text."""
    if fields.get("separate_vocabs"):
        raise UserError(f"{folder}: a vocabulary of its own for each language is not read; give ids instead of text")
    numbers, given = _numbers(folder), _sentencepiece.read(folder / "source.spm")
    special = [
        _content(fields.get(f"{role}_token", usual))
        for role, usual in (("unk", "<unk>"), ("eos", "</s>"), ("pad", "<pad>"))
    ]
    end = _number(numbers, special[1], folder)
    _number(numbers, special[0], folder)
    cut = _pieces(given, special, merged=False)
    return Renumbered(cut, numbers, special[0], special, after=(end,), leading=True)


def m2m_100(folder: Path, fields: Mapping[str, Any]) -> Renumbered:
    """M2M-100's: a mark of the text's language before it (src_lang; English where nothing says it), an end behind it.

    Marks stand behind the vocabulary in the order of LANGUAGES, where `added_tokens_decoder` says nothing else. In a
    text they are marks only where `additional_special_tokens` lists them.
    """
    numbers, given = _numbers(folder), _sentencepiece.read(folder / "sentencepiece.bpe.model")
    usual = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
    special = [_content(fields.get(f"{role}_token", name)) for role, name in usual.items()]
    known = LANGUAGES.get(str(fields.get("language_codes", "m2m100")), LANGUAGES["m2m100"])
    marks = {f"__{code}__": len(numbers) + i for i, code in enumerate(known.split())}
    kept = fields.get("added_tokens_decoder")
    for number, token in kept.items() if isinstance(kept, dict) else ():
        marks[_content(token)] = int(number)
    numbers = {**numbers, **{mark: number for mark, number in marks.items() if mark not in numbers}}
    listed = fields.get("additional_special_tokens") or fields.get("extra_special_tokens") or ()
    whole = [_content(token) for token in listed]
    language = fields.get("src_lang") or "en"
    begin = numbers.get(f"__{language}__", numbers.get(str(language)))
    if begin is None:
        near = nearest(str(language), [mark.strip("_") for mark in marks])
        raise UserError(f"{folder / 'tokenizer_config.json'}: there is no src_lang '{language}'{near}")
    end = _number(numbers, special[2], folder)
    cut = _pieces(given, [*special, *(token for token in whole if token in numbers)], merged=True)
    return Renumbered(cut, numbers, special[3], [*special, *marks], before=(begin,), after=(end,))


# Of a family of models, the codes of its languages in the order of their numbers.
LANGUAGES = {
    "m2m100": "af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi "
    "hr ht hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl "
    "ps pt ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo zh zu",
    "wmt21": "en ha is ja cs ru zh de",
}

CLASSES: dict[str, tuple[str, Callable[[Path, Mapping[str, Any]], Renumbered]]] = {
    "MarianTokenizer": ("source.spm", marian),
    "M2M100Tokenizer": ("sentencepiece.bpe.model", m2m_100),
}
