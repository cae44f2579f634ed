"""The tokenizer beside a Hugging Face checkpoint: tokenizer.json, or the files that older checkpoints have instead.

Those are vocab.txt, vocab.json with merges.txt, or a SentencePiece model. How text is cut then follows from the
tokenizer's class, which tokenizer_config.json names; CLASSES has those that are known.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from jogak import storage
from jogak.codecs import _sentencepiece, renumbered
from jogak.codecs._sentencepiece import SPACE
from jogak.codecs.renumbered import Renumbered
from jogak.errors import UserError, nearest

Role = Literal["bos", "eos", "unk", "sep", "pad", "cls", "mask"]
ROLES: tuple[Role, ...] = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")  # the order in which they get ids
# What Python's str.split takes for space: Unicode's, and four control characters.
_SPACE = "[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"
_MOST = 10_000


@dataclass(frozen=True)
class Settings:
    """What tokenizer_config.json and special_tokens_map.json say, over what the class says of its special tokens."""

    folder: Path
    fields: Mapping[str, Any]
    special: Mapping[Role, AddedToken]

    def flag(self, name: str, *, default: bool | None) -> bool | None:
        """A setting that is true or false (or, where the default is None, left out).

        Raises: UserError naming it.
        """
        value = self.fields.get(name)
        if value is not None and not isinstance(value, bool):
            file = self.folder / "tokenizer_config.json"
            raise UserError(f"{file}: '{name}' must be true or false, got {str(value)[:60]!r}")
        return default if value is None else value

    def count(self, name: str, default: int) -> int:
        """A setting that is a whole number, from 0 to 10,000.

        Raises: UserError naming it.
        """
        value = self.fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
            file = self.folder / "tokenizer_config.json"
            raise UserError(f"{file}: '{name}' must be a number from 0 to {_MOST}, got {str(value)[:60]!r}")
        return value

    def name(self, role: Role) -> str:
        """The token of a role that the class cannot do without.

        Raises: UserError where the settings take it away.
        """
        if role not in self.special:
            raise UserError(f"{self.folder / 'tokenizer_config.json'}: '{role}_token' is missing; add it")
        return str(self.special[role].content)


Builder = Callable[[Settings], Tokenizer]


@dataclass(frozen=True)
class Class:
    """How a class cuts text: its pipeline, the frame around what it cut, and its usual special tokens."""

    build: Builder
    frame: Callable[[Settings, Tokenizer], Any]
    usual: Mapping[Role, str]


# ------------------------------------------------------------------ pipelines


def _file(settings: Settings, name: str) -> str:
    path = settings.folder / name
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give ids instead of text, or add the tokenizer")
    return str(path)


def _wordpiece(settings: Settings) -> Tokenizer:
    """BERT's: words at spaces and punctuation, their longest known beginnings one after another."""
    vocabulary = models.WordPiece.read_file(_file(settings, "vocab.txt"))
    made = Tokenizer(models.WordPiece(vocabulary, unk_token=settings.name("unk")))
    made.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(settings.flag("tokenize_chinese_chars", default=True)),
        strip_accents=settings.flag("strip_accents", default=None),
        lowercase=bool(settings.flag("do_lower_case", default=True)),
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(prefix="##")
    return made


def _byte_level(settings: Settings) -> Tokenizer:
    """GPT-2's: merges over bytes, inside of words that keep the space before them."""
    vocabulary, merges = models.BPE.read_file(_file(settings, "vocab.json"), _file(settings, "merges.txt"))
    made = Tokenizer(models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix=""))
    prefix = bool(settings.flag("add_prefix_space", default=False))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    return made


def _byte_level_composed(settings: Settings) -> Tokenizer:
    """GPT-NeoX's: GPT-2's over text in NFC."""
    made = _byte_level(settings)
    made.normalizer = normalizers.NFC()
    return made


def _lower_case(settings: Settings) -> Tokenizer:
    """GPT's: merges over characters, inside of BERT's words in lower case, whose end is marked."""
    vocabulary, merges = models.BPE.read_file(_file(settings, "vocab.json"), _file(settings, "merges.txt"))
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token=settings.name("unk"), end_of_word_suffix="</w>"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.BPEDecoder(suffix="</w>")
    return made


def _letters(settings: Settings) -> Tokenizer:
    """ESM's: every entry of the vocabulary wherever it stands, the longest first; what is between is unknown."""
    lines = Path(_file(settings, "vocab.txt")).read_text(encoding="utf-8").splitlines()
    entries = [line.strip() for line in lines]
    made = Tokenizer(models.WordLevel({entry: i for i, entry in enumerate(entries)}, unk_token=settings.name("unk")))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(_SPACE), "removed")
    special = {token.content for token in settings.special.values()}
    made.add_tokens([AddedToken(e, normalized=False, special=e in special) for e in entries if e])
    return made


def _likeliest_pieces(settings: Settings) -> Tokenizer:
    """T5's: between spaces, the pieces that are likeliest together; `extra_ids` marks stand behind the pieces."""
    given = _sentencepiece.read(settings.folder / "spiece.model")
    marks = [f"<extra_id_{number}>" for number in reversed(range(settings.count("extra_ids", 100)))]
    pieces = [*given.pieces, *((mark, 0.0) for mark in marks)]
    made = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    if given.characters:
        made.normalizer = normalizers.Precompiled(given.characters)
    spaces = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaces])
    made.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    return _whole(made, given, marks)


def _likeliest_pieces_behind(settings: Settings) -> Tokenizer:
    """Pegasus's: as T5's over the whole text, their numbers behind those of marks that were written in pretraining."""
    given, offset = _sentencepiece.read(settings.folder / "spiece.model"), settings.count("offset", 103)
    masks = [str(settings.fields.get("mask_token_sent", "<mask_1>")), settings.name("mask")]
    usual = [(mark, 0.0) for mark in (settings.name("pad"), settings.name("eos"), *masks)]
    rare = [(f"<unk_{number}>", -100.0) for number in range(2, offset)]
    pieces = [*usual, *rare, *given.pieces[2:]]
    made = Tokenizer(models.Unigram(pieces, unk_id=given.unknown + offset, byte_fallback=False))
    table: list[Any] = [normalizers.Precompiled(given.characters)] if given.characters else []
    made.normalizer = normalizers.Sequence([*table, normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    made.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    return _whole(made, given, [*masks, *(mark for mark, _ in rare)])


def _merged_pieces(settings: Settings) -> Tokenizer:
    """Llama's: merges over the whole text, spaces being letters; what has no piece is spelled in bytes."""
    given = _sentencepiece.read(settings.folder / "tokenizer.model")
    made = Tokenizer(models.BPE(given.numbers, _sentencepiece.merges(given.numbers), fuse_unk=True, byte_fallback=True))
    begins = settings.flag("add_prefix_space", default=True) is not False
    old = settings.flag("legacy", default=False)
    scheme = ("always" if old else "first") if begins else "never"
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    made.decoder = _decoder_of_bytes(strip=begins)
    return _whole(made, given)


def _merged_pieces_bare(settings: Settings) -> Tokenizer:
    """Gemma's: Llama's, without a space before the text."""
    given = _sentencepiece.read(settings.folder / "tokenizer.model")
    pairs, unknown = _sentencepiece.merges(given.numbers), settings.name("unk")
    made = Tokenizer(models.BPE(given.numbers, pairs, fuse_unk=True, unk_token=unknown, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", SPACE)
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous", invert=False)
    made.decoder = _decoder_of_bytes(strip=False)
    return _whole(made, given)


def _decoder_of_bytes(*, strip: bool) -> decoders.Sequence:
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(content=" ", left=1)] if strip else steps)


def _whole(made: Tokenizer, given: _sentencepiece.SentencePiece, marks: Sequence[str] = ()) -> Tokenizer:
    """With the pieces that are never cut."""
    made.add_tokens([AddedToken(piece, normalized=False, special=True) for piece in (*given.special, *marks)])
    made.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in given.kept])
    return made


# ------------------------------------------------------------------ frames


def _number(made: Tokenizer, name: str) -> int:
    number = made.token_to_id(name)
    assert number is not None  # special tokens were added before
    return number


def _begin_and_separate(settings: Settings, made: Tokenizer) -> Any:  # noqa: ANN401  # a PostProcessor
    begin, end = settings.name("cls"), settings.name("sep")
    return processors.TemplateProcessing(
        single=f"{begin}:0 $A:0 {end}:0",
        pair=f"{begin}:0 $A:0 {end}:0 $B:1 {end}:1",
        special_tokens=[(name, _number(made, name)) for name in (begin, end)],
    )


def _begin_and_separate_twice(settings: Settings, made: Tokenizer) -> Any:  # noqa: ANN401
    begin, end = settings.name("cls"), settings.name("sep")
    ends = (end, _number(made, end)), (begin, _number(made, begin))
    prefix = bool(settings.flag("add_prefix_space", default=False))
    return processors.RobertaProcessing(*ends, add_prefix_space=prefix)


def _begin_and_end(settings: Settings, made: Tokenizer) -> Any:  # noqa: ANN401
    begin, end = settings.name("cls"), settings.special.get("eos")
    names = [begin] if end is None else [begin, end.content]
    last = "" if end is None else f" {end.content}"
    return processors.TemplateProcessing(
        single=f"{begin} $A{last}",
        pair=f"{begin} $A{last} $B{last}",
        special_tokens=[(name, _number(made, name)) for name in names],
    )


def _end(settings: Settings, made: Tokenizer) -> Any:  # noqa: ANN401
    return _ending(settings, made, between=True)


def _end_once(settings: Settings, made: Tokenizer) -> Any:  # noqa: ANN401
    return _ending(settings, made, between=False)


def _ending(settings: Settings, made: Tokenizer, *, between: bool) -> Any:  # noqa: ANN401
    """An end behind all, of a pair behind the first too where it stands between."""
    end = settings.name("eos")
    pair = ["$A", *([end] if between else []), "$B", end]
    return processors.TemplateProcessing(single=["$A", end], pair=pair, special_tokens=[(end, _number(made, end))])


def _if_asked(settings: Settings, made: Tokenizer) -> Any:  # noqa: ANN401
    """Beginning and end, where add_bos_token and add_eos_token ask for them."""
    begin = [settings.name("bos")] if settings.flag("add_bos_token", default=False) else []
    end = [settings.name("eos")] if settings.flag("add_eos_token", default=False) else []
    return processors.TemplateProcessing(
        single=[*begin, "$A", *end],
        pair=[*begin, "$A", *end, *begin, "$B", *end],
        special_tokens=[(name, _number(made, name)) for name in dict.fromkeys(begin + end)],
    )


# ------------------------------------------------------------------ classes

_END = "<|endoftext|>"
_BERT: Mapping[Role, str] = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_GPT2: Mapping[Role, str] = {"bos": _END, "eos": _END, "unk": _END}
_ROBERTA: Mapping[Role, str] = {
    "bos": "<s>",
    "eos": "</s>",
    "unk": "<unk>",
    "sep": "</s>",
    "pad": "<pad>",
    "cls": "<s>",
    "mask": "<mask>",
}
_ESM: Mapping[Role, str] = {"eos": "<eos>", "unk": "<unk>", "pad": "<pad>", "cls": "<cls>", "mask": "<mask>"}
_LLAMA: Mapping[Role, str] = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
_GEMMA: Mapping[Role, str] = {"bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
_T5: Mapping[Role, str] = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
_PEGASUS: Mapping[Role, str] = {**_T5, "mask": "<mask_2>"}
CLASSES: dict[str, Class] = {
    "BertTokenizer": Class(_wordpiece, _begin_and_separate, _BERT),
    "DistilBertTokenizer": Class(_wordpiece, _begin_and_separate, _BERT),
    "BartTokenizer": Class(_byte_level, _begin_and_separate_twice, _ROBERTA),
    "RobertaTokenizer": Class(_byte_level, _begin_and_separate_twice, _ROBERTA),
    "GPT2Tokenizer": Class(_byte_level, _if_asked, _GPT2),
    "GPTNeoXTokenizer": Class(_byte_level_composed, _if_asked, {**_GPT2, "pad": "<|padding|>"}),
    "OpenAIGPTTokenizer": Class(_lower_case, _if_asked, {"unk": "<unk>"}),
    "EsmTokenizer": Class(_letters, _begin_and_end, _ESM),
    "T5Tokenizer": Class(_likeliest_pieces, _end, _T5),
    "PegasusTokenizer": Class(_likeliest_pieces_behind, _end_once, _PEGASUS),
    "LlamaTokenizer": Class(_merged_pieces, _if_asked, _LLAMA),
    "GemmaTokenizer": Class(_merged_pieces_bare, _if_asked, _GEMMA),
}


# ------------------------------------------------------------------ reading


def read(folder: Path, usual: str | None = None) -> Tokenizer | Renumbered:
    """The tokenizer in a folder; usual: its class, where tokenizer_config.json names none.

    Raises: UserError where there is none, its files are damaged, or its class is not known.
    """
    file = folder / "tokenizer.json"
    try:
        made = Tokenizer.from_str(file.read_text(encoding="utf-8")) if file.is_file() else _older(folder, usual)
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception for every fault in a file
        where = file if file.is_file() else folder
        raise UserError(f"{where}: damaged, or not the files of a tokenizer ({error})") from None
    made.no_padding()
    made.no_truncation()
    return made


def there(folder: Path, usual: str | None = None) -> bool:
    """Whether a folder has a tokenizer that `read` might understand; usual: as there."""
    if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "merges.txt")):
        return True
    name = _json(folder / "tokenizer_config.json").get("tokenizer_class") or usual
    if isinstance(name, str) and (other := renumbered.CLASSES.get(name)) is not None:
        return (folder / other[0]).is_file()
    known = isinstance(name, str) and name.removesuffix("Fast") in CLASSES
    return known and any((folder / name).is_file() for name in ("spiece.model", "tokenizer.model"))


def _older(folder: Path, usual: str | None) -> Tokenizer | Renumbered:
    fields = _json(folder / "tokenizer_config.json")
    name = fields.get("tokenizer_class") or usual
    if not isinstance(name, str):
        missing = folder / "tokenizer.json"
        raise UserError(f"{missing}: there is no such file; give ids instead of text, or add the tokenizer")
    if (other := renumbered.CLASSES.get(name)) is not None:
        return other[1](folder, {**_json(folder / "special_tokens_map.json"), **fields})
    if (found := CLASSES.get(name.removesuffix("Fast"))) is None:
        known = nearest(name, [*CLASSES, *renumbered.CLASSES])
        raise UserError(f"{folder}: tokenizer class '{name}' is only read from a tokenizer.json{known}")
    extra = [_token(t) for _, t in sorted(_by_number(fields.get("added_tokens_decoder")).items())]
    if not extra:
        fields = {**fields, **_json(folder / "special_tokens_map.json")}
    known = {token.content: token for token in extra}
    special: dict[Role, AddedToken] = {}
    for role in ROLES:
        if (value := fields.get(f"{role}_token", found.usual.get(role))) is not None:
            token = _token(value, special=True)
            special[role] = known.get(token.content, token)
    settings = Settings(folder, fields, special)
    made = found.build(settings)
    if not extra:
        names = {token.content for token in special.values()}
        numbers = {int(n): content for content, n in _json(folder / "added_tokens.json").items()}
        extra = [_token(content, special=content in names) for _, content in sorted(numbers.items())]
    made.add_tokens([*extra, *(t for t in special.values() if t.content not in {e.content for e in extra})])
    made.post_processor = found.frame(settings, made)
    return made


def _json(file: Path) -> dict[str, Any]:
    found = storage.read_json(file) if file.is_file() else {}
    if not isinstance(found, dict):
        raise UserError(f"{file}: a mapping is expected; restore it")
    return found


def _by_number(given: object) -> dict[int, Any]:
    return {int(number): token for number, token in given.items()} if isinstance(given, dict) else {}


def _token(given: object, *, special: bool = False) -> AddedToken:
    """A token as text, or as a mapping of what it is and how it takes the spaces beside it."""
    if not isinstance(given, dict):
        return AddedToken(str(given), special=special, normalized=not special)
    flags = {n: bool(given[n]) for n in ("lstrip", "rstrip", "single_word", "normalized") if n in given}
    return AddedToken(str(given.get("content")), special=bool(given.get("special", special)), **flags)
