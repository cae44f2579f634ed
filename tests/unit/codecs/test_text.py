"""TextCodec: exact round trips, determinism, slots, files, and what a person is shown."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from jogak.codecs.text import TextCodec
from jogak.config import Codec
from jogak.errors import UserError

TEXTS = [
    "파일을 열 수 없습니다: %s",
    "파일을 저장했습니다",
    "새 파일 만들기...",
    "설정을 바꾸려면 관리자에게 문의하십시오.",
    "Could not open the file: %s",
    "The file has been saved",
    "Don't show this message again",
    "URL을 복사하는 중입니다 (3개 가운데 1개)",
    "Open in a new window",
    "%(name)s님이 <b>{count}</b>개를 지웠습니다",
] * 3
KINDS = ("bpe", "unigram", "wordpiece", "bytes")
HARD = [
    "",
    " ",
    "  ",
    "\n",
    "\t들여쓰기\t\t탭",
    "  앞 공백과 뒤 공백  ",
    "빈칸   여럿\n\n  줄바꿈\r\n",
    "본 적 없는 글자: 뷁 쀍 휗 꿹",
    "옛한글 ᄒᆞᆫ글",  # conjoining jamo without a composed form
    "\u1100\u1161\u11a8 한글 decomposed",
    "👩‍👩‍👧‍👦 🇰🇷 ☕️",
    "e\u0301 n\u0303 \u0301 starts with a mark",
    "<s>취소선</s> <pad> <unk> ⟨value0⟩ <0xEA> <0x41>",
    "▁ is a real character too ▁▁",
    "## ### a##b",
    "漢字かな交じり文 ไทย العربية",
    "\u0000\u0007\u200b\u2028\ufeff\ufffd\uffff",
    "=" * 300 + "가" * 300 + "뷁" * 150,
]


@pytest.fixture(scope="module", params=KINDS)
def codec(request: pytest.FixtureRequest) -> TextCodec:
    return TextCodec.train(TEXTS, Codec(kind=request.param, vocab_size=420))


@pytest.fixture(scope="module")
def bpe() -> TextCodec:
    return TextCodec.train(TEXTS, Codec(vocab_size=420))


@pytest.mark.parametrize("text", HARD)
def test_every_text_comes_back(codec: TextCodec, text: str) -> None:
    assert codec.decode(codec.encode(text)) == normalize("NFC", text)
    encoded = codec.encode_source(text)
    assert codec.decode(encoded.ids, encoded.slots) == normalize("NFC", text)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_any_text_comes_back(codec: TextCodec, text: str) -> None:
    ids = codec.encode(text)
    assert codec.decode(ids) == normalize("NFC", text)
    assert not {codec.pad_id, codec.bos_id, codec.eos_id, codec.unk_id} & set(ids)
    assert len(codec.labels(ids)) == len(ids)


_SAMPLES = [
    "%(name)s",
    "%s",
    "%1$s",
    "{0}",
    "{}",
    "${x}",
    "<b>",
    "</b>",
    "&amp;",
    "100%",
    "파일",
    " ",
    "의 ",
    "<",
    "{",
    "뷁",
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(_SAMPLES)).map("".join), st.lists(st.sampled_from(_SAMPLES)).map("".join))
def test_pairs_with_placeholders_come_back(codec: TextCodec, source: str, target: str) -> None:
    encoded = codec.encode_source(source)
    ids = codec.encode_target(target, encoded.slots)
    assert codec.decode(encoded.ids, encoded.slots) == source
    assert codec.decode(ids, encoded.slots) == target
    assert codec.encode_pairs([(source, target)]) == [(encoded.ids, ids)]


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_without_byte_fallback_only_unseen_characters_are_lost(kind: str) -> None:
    codec = TextCodec.train(TEXTS, Codec(kind=kind, vocab_size=420, byte_fallback=False))  # type: ignore[arg-type]
    assert codec.decode(codec.encode("파일을 저장")) == "파일을 저장"
    ids = codec.encode("저장 뷁 파일")
    assert codec.unk_id in ids
    assert codec.decode(ids).startswith("저장")
    assert "\ufffd" in codec.decode(ids)


def test_a_word_after_a_space_is_the_word_that_begins_the_text(bpe: TextCodec) -> None:
    assert bpe.encode("새 파일")[-1:] == bpe.encode("파일")


def test_placeholders_are_one_id_and_shared_by_both_sides(codec: TextCodec) -> None:
    source, target = (
        "%(name)s님이 {0}개를 <b>%(name)s</b>에서",
        "{0} removed from <b>%(name)s</b> by %(name)s",
    )
    encoded = codec.encode_source(source)
    assert sorted(encoded.slots.values()) == sorted(["%(name)s", "{0}", "<b>", "</b>"])
    number = {placeholder: n for n, placeholder in encoded.slots.items()}
    ids = codec.encode_target(target, encoded.slots)
    assert [n for n in ids if n in encoded.slots] == [number[p] for p in ("{0}", "<b>", "%(name)s", "</b>", "%(name)s")]
    assert encoded.ids.count(number["%(name)s"]) == 2
    assert codec.labels([number["{0}"]], encoded.slots) == ["{0}"]
    assert codec.labels([number["{0}"]]) == ["⟨value1⟩"]


def test_what_a_translation_may_not_hold_and_what_it_lost(bpe: TextCodec) -> None:
    encoded = bpe.encode_source("{0}개 %s")
    forbidden = set(bpe.forbidden(encoded.slots))
    assert {bpe.pad_id, bpe.bos_id, bpe.unk_id} <= forbidden
    assert bpe.eos_id not in forbidden
    assert not forbidden & set(encoded.slots)
    assert set(bpe.slot_ids.values()) <= forbidden | set(encoded.slots)
    assert bpe.lost(bpe.encode_target("%s files", encoded.slots), encoded.slots) == ["{0}"]
    assert bpe.lost(encoded.ids, encoded.slots) == []


def test_a_slot_without_placeholder_and_special_ids_give_no_text(bpe: TextCodec) -> None:
    ids = [bpe.bos_id, *bpe.encode("파일"), bpe.slot_ids["⟨value7⟩"], bpe.eos_id, bpe.pad_id]
    assert bpe.decode(ids) == "파일"


def test_broken_bytes_cost_only_themselves(codec: TextCodec) -> None:
    ids = codec.encode("뷁뷁뷁")
    assert codec.decode(ids[:-1]).lstrip(" ").startswith("뷁뷁\ufffd")


def test_training_is_the_same_in_every_process() -> None:
    script = (
        "import sys, hashlib; from jogak.config import Codec\n"
        "from jogak.codecs._training import train_tokenizer\n"
        "texts = sys.stdin.read().split('|')\n"
        "for kind in ('bpe', 'unigram', 'wordpiece'):\n"
        "    file = train_tokenizer(texts, Codec(kind=kind, vocab_size=420)).to_str()\n"
        "    print(hashlib.sha256(file.encode()).hexdigest())\n"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, 'src')\n{script}"]
    seeds = [{**os.environ, "PYTHONHASHSEED": seed, "PYTHONUTF8": "1"} for seed in ("1", "2")]
    results = [
        subprocess.run(command, input="|".join(TEXTS), env=e, capture_output=True, encoding="utf-8", check=True)
        for e in seeds
    ]
    assert len(set(results[0].stdout.split())) == 3
    assert results[0].stdout == results[1].stdout


def test_saved_and_loaded_it_is_the_same(codec: TextCodec, tmp_path: Path) -> None:
    codec.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        again = TextCodec.load(path)
        assert again.digest == codec.digest
        assert (again.pad_id, again.bos_id, again.eos_id) == (codec.pad_id, codec.bos_id, codec.eos_id)
        for text in HARD:
            assert again.encode(text) == codec.encode(text)


def test_the_file_alone_gives_tokenizers_the_same_ids(bpe: TextCodec, tmp_path: Path) -> None:
    bpe.save(tmp_path)
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("파일을 저장했습니다", "Could not open", "뷁", " x"):
        assert plain.encode(text).ids == bpe.encode(text)
        assert plain.decode(plain.encode(text).ids) == text


def test_sizes(codec: TextCodec) -> None:
    assert codec.vocab_size <= 420
    assert codec.vocab_size > (291 if len(codec.encode("가")) == 3 else 350)
    ids = codec.encode_all(TEXTS)
    assert max(max(row) for row in ids) < codec.vocab_size


def test_labels_are_readable(bpe: TextCodec) -> None:
    ids = [bpe.bos_id, *bpe.encode("파일 저장\n뷁~"), bpe.eos_id]
    labels = bpe.labels(ids)
    assert labels[0] == "<s>"
    assert labels[-1] == "</s>"
    assert "▁파일" in labels[1]
    assert "⏎" in labels
    assert "<0xEB>" in labels
    assert "~" in labels  # a byte that is a character of its own


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: TextCodec.train([], Codec()), "holds no text"),
        (lambda p: TextCodec.train(TEXTS, Codec(vocab_size=100)), "codec.vocab_size: 100"),
        (lambda p: TextCodec.load(p / "none"), "there is no such file"),
        (lambda p: TextCodec.load(_write(p / "t.json", "{}")), "damaged"),
        (lambda p: TextCodec.load(_write(p / "t.json", '{"version": "1.0", "trunc')), "damaged"),
        (lambda p: TextCodec.train([], Codec(file=str(p / "gone.json"))), "gone.json"),
    ],
)
def test_mistakes_are_told(make, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        make(tmp_path)


def _write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def test_bad_ids_and_bad_text_are_told(bpe: TextCodec) -> None:
    with pytest.raises(UserError, match="id 99999"):
        bpe.decode([99999])
    with pytest.raises(UserError, match="surrogate"):
        bpe.encode("ab\ud800")


# ---------------------------------------------------------------- tokenizers of others


@pytest.fixture
def byte_level(tmp_path: Path) -> Path:
    """A GPT-2-like tokenizer: byte-level alphabet, a few merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("í", "Į"), ("íĮ", "Į")]  # the three bytes of 파
    vocabulary = {p: n for n, p in enumerate([*alphabet, *("".join(m) for m in merges), "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_a_foreign_tokenizer_is_taken_as_it_is(byte_level: Path) -> None:
    plain, codec = Tokenizer.from_file(str(byte_level / "tokenizer.json")), TextCodec.load(byte_level)
    assert codec.vocab_size == plain.get_vocab_size()
    assert codec.encode("파일 a") == plain.encode("파일 a").ids
    assert codec.decode(codec.encode("파일 a")) == "파일 a"
    assert codec.eos_id == codec.bos_id == codec.pad_id == plain.token_to_id("<|endoftext|>")
    assert codec.slot_ids == {}
    assert codec.labels(codec.encode("파일 a")) == ["파", "<0xEC>", "<0x9D>", "<0xBC>", "▁", "a"]
    encoded = codec.encode_source("{0} 파일")
    assert encoded.slots == {}
    assert codec.decode(encoded.ids) == "{0} 파일"


def test_a_foreign_tokenizer_for_training_gets_slots_and_keeps_its_ids(byte_level: Path, tmp_path: Path) -> None:
    config = Codec(file=str(byte_level / "tokenizer.json"))
    codec, plain = TextCodec.train(TEXTS, config), TextCodec.load(byte_level)
    assert codec.encode("파일") == plain.encode("파일")
    codec.save(tmp_path / "run")
    codec = TextCodec.load(tmp_path / "run")
    encoded = codec.encode_source("{0}개 <b>%s</b> 파일")
    assert len(encoded.slots) == 4
    assert codec.decode(encoded.ids, encoded.slots) == "{0}개 <b>%s</b> 파일"
    assert codec.decode(codec.encode_target("<b>%s</b>: {0}", encoded.slots), encoded.slots) == "<b>%s</b>: {0}"
    assert codec.decode([*codec.encode("파일"), codec.eos_id]) == "파일"


def test_names_of_special_tokens_come_from_the_file_beside(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordPiece({"[X]": 0, "!end": 1, "a": 2, "##b": 3}, unk_token="[X]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="eos_token"):
        TextCodec.load(tmp_path)
    names = {"eos_token": "!end", "unk_token": {"content": "[X]"}, "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    codec = TextCodec.load(tmp_path)
    assert (codec.eos_id, codec.pad_id, codec.unk_id) == (1, 1, 0)
    assert codec.encode("AB") == [2, 3]
    assert codec.decode([2, 3]) == "ab"
