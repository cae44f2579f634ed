"""Making a tokenizer from text: words are counted once, an alphabet is chosen, then pieces are learned.

Every step is a function of the counts alone, in a fixed order, so that the same text gives the same file.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from unicodedata import normalize

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from jogak.codecs._placeholders import TOKENS, assign, cut
from jogak.codecs._unigram import learn_unigram
from jogak.config import Codec
from jogak.errors import UserError

PAD, BOS, EOS, UNKNOWN = SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))

# What a piece may not reach across: scripts (a Korean particle leaves its Latin word), each digit, runs of
# one punctuation mark. One space belongs to what follows it. A mark never joins a letter or another mark, so
# no text can spell `<s>` or `<0xEA>` inside one word: the names of special and byte pieces stay out of reach.
SPLIT = (
    r"(?<=\p{L})'(?:[sdmt]|ll|ve|re)(?!\p{L})"
    r"| ?\p{Hangul}+"
    r"| ?[\p{L}\p{M}&&[^\p{Hangul}]]+"
    r"| ?\p{N}"
    r"| ?([^\s\p{L}\p{M}\p{N}])\1*"
    r"|\s+(?!\S)|\s+"
)

# With byte fallback the rarest characters stay out of the alphabet: as bytes they share trained pieces.
COVERAGE = 0.9995
# Characters read at most: pieces hardly change beyond, and time and memory stay bounded on any corpus.
READ_AT_MOST = 200_000_000
# Words fed to the BPE trainer at most; larger counts are scaled down in proportion.
FEED_AT_MOST = 1_000_000
LONGEST_WORD = 100  # characters of one word that WordPiece looks at (its time grows with the square)


def train_tokenizer(texts: Iterable[str], config: Codec) -> Tokenizer:
    """A tokenizer of the kind, and at most the size, that `config` asks for.

    Raises: UserError if there is no text or the vocabulary cannot hold what every text needs.
    """
    reserved = [*SPECIALS, *TOKENS, *(BYTES if config.byte_fallback or config.kind == "bytes" else ())]
    if config.kind == "bytes":
        return assemble(models.BPE(_numbered(reserved), [], byte_fallback=True, unk_token=UNKNOWN), prefix=False)
    room = config.vocab_size - len(reserved)
    if room < 1:
        raise UserError(
            f"codec.vocab_size: {config.vocab_size} leaves no room beside {len(reserved)} special, slot and "
            f"byte pieces; ask for more than {len(reserved)}, or for codec.kind=bytes"
        )
    words = count_words(texts)
    if not words:
        raise UserError("the codec cannot be trained: the data holds no text")
    words = keep_alphabet(words, choose_alphabet(words, room, COVERAGE if config.byte_fallback else 1.0))
    if config.kind == "unigram":
        scored = learn_unigram(words, room)
        table = [*((piece, 0.0) for piece in reserved), *scored]
        return assemble(models.Unigram(table, reserved.index(UNKNOWN), byte_fallback=config.byte_fallback))
    pieces, merges = learn_merges(words, room)
    vocabulary = _numbered([*reserved, *pieces])
    if config.kind == "wordpiece":
        return assemble(
            models.WordPiece(
                vocabulary,
                unk_token=UNKNOWN,
                continuing_subword_prefix="",
                max_input_chars_per_word=LONGEST_WORD,
            )
        )
    return assemble(models.BPE(vocabulary, merges, byte_fallback=config.byte_fallback, unk_token=UNKNOWN))


def assemble(model: models.Model, prefix: bool = True) -> Tokenizer:
    """The pipeline around a model: NFC, a space before the first word (it then equals later ones), split."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizer(prefix)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    tokenizer.decoder = decoder(prefix)
    tokenizer.add_special_tokens([*SPECIALS, *TOKENS])
    return tokenizer


def normalizer(prefix: bool) -> normalizers.Normalizer:
    """NFC, and with `prefix` a leading space."""
    return normalizers.Sequence([normalizers.NFC(), *([normalizers.Prepend(" ")] if prefix else [])])


def decoder(prefix: bool) -> decoders.Decoder:
    """What undoes byte fallback, and with `prefix` the leading space."""
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    return decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), *strip])


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word (what SPLIT gives, with its leading space) occurs, placeholders left out."""
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    words: Counter[str] = Counter()
    left = READ_AT_MOST
    for text in texts:
        left -= len(text)
        if left < 0:
            break
        words.update(word for run in _runs(normalize("NFC", text)) for word, _ in split.pre_tokenize_str(run))
    return words


def _runs(text: str) -> Iterator[str]:
    slotted = assign(text)
    for number, (piece, is_placeholder) in enumerate(cut(text)):
        if not (is_placeholder and piece in slotted):
            yield f" {piece}" if number == 0 else piece


def choose_alphabet(words: Counter[str], room: int, coverage: float) -> list[str]:
    """The most common characters, until they make up `coverage` of the text or fill the room."""
    characters: Counter[str] = Counter()
    for word, number in words.items():
        for character in word:
            characters[character] += number
    needed = coverage * characters.total()
    chosen: list[str] = []
    for character, number in sorted(characters.items(), key=lambda item: (-item[1], item[0])):
        if len(chosen) == room or needed <= 0:
            break
        chosen.append(character)
        needed -= number
    return chosen


def keep_alphabet(words: Counter[str], alphabet: list[str]) -> dict[str, int]:
    """The words, cut at characters outside the alphabet, in a fixed order."""
    inside = re.compile(f"[{''.join(re.escape(character) for character in alphabet)}]+")
    kept: Counter[str] = Counter()
    for word, number in words.items():
        for part in inside.findall(word):
            kept[part] += number
    return dict(sorted(kept.items()))


def learn_merges(words: dict[str, int], room: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces and merges of byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909)."""
    scale = max(1.0, sum(words.values()) / FEED_AT_MOST)
    tokenizer = Tokenizer(models.BPE())
    # Every word once first, so that scaling down never takes a character out of the alphabet.
    repeated = (word for word, number in words.items() for _ in range(max(1, round(number / scale))))
    trainer = trainers.BpeTrainer(vocab_size=room, min_frequency=2, show_progress=False)
    tokenizer.train_from_iterator(repeated, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return pieces, [(left, right) for left, right in model["merges"]]


def _numbered(pieces: Iterable[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(pieces)}
