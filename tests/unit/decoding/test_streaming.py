"""Text while it comes: never half a character, never a part of a stop text, in the end what a whole decode gives."""

import json
import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from jogak.codecs.text import TextCodec
from jogak.decoding.generate import Generator
from jogak.decoding.streaming import Writing
from jogak.errors import UserError
from tests.unit.decoding.writers import TEXTS, codec, decoder, translator, writer

KINDS = ["bytes", "bpe", "unigram", "wordpiece"]
TORTURE = ["한국어와 English 섞임", "👩‍👩‍👧‍👦 👍🏽", "  두 칸", "a\tb\nc", "각힣", "<s> %s {0} \ufffd", "é e\u0301", ""]


def byte_level():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = [AddedToken("<|endoftext|>", special=True)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return TextCodec(made)


def sentence_piece():
    """As Llama 2's: ▁ for a space, one before every text, bytes for what has no piece."""
    learnt = Tokenizer(models.BPE(unk_token="<unk>"))
    learnt.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    learnt.train_from_iterator(TEXTS, trainer)
    found = json.loads(learnt.to_str())["model"]
    merges = [tuple(pair) for pair in found["merges"]]
    made = Tokenizer(models.BPE(found["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = learnt.normalizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    made.add_special_tokens(special[:3])
    return TextCodec(made)


def metaspace():
    """As T5's: a unigram with ▁ and no bytes."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return TextCodec(made)


def streamed(writing, ids):
    """The parts that come unit by unit, and whether a stop text ended it."""
    parts = []
    for unit in ids:
        stopped = writing.feed(unit)
        parts.append(writing.take())
        if stopped:
            break
    return [*parts, writing.finish()]


MADE = {**{kind: (lambda kind=kind: codec(kind)) for kind in KINDS}, "byte-level": byte_level, "metaspace": metaspace}
MADE["sentence-piece"] = sentence_piece


@pytest.mark.parametrize("name", MADE)
def test_the_parts_are_the_decoded_text(name):
    made = MADE[name]()
    chance = random.Random(0)
    for text in TORTURE + TEXTS[:3]:
        ids = made.encode(text)
        parts = streamed(Writing(made.spelling), ids)
        assert "".join(parts) == made.decode(ids) == made.spelling.text(ids)
        for part in parts[:-1]:
            assert "\ufffd" not in part.replace("\ufffd", "", text.count("\ufffd"))
    silent = set(made.forbidden({})) | {made.eos_id}
    some = [n for n in range(made.vocab_size) if n not in silent]
    for _ in range(50):  # units in any order: characters that never become whole among them
        ids = [chance.choice(some) for _ in range(8)]
        whole = made.spelling.text(ids)
        assert "".join(streamed(Writing(made.spelling), ids)) == whole
        if name != "sentence-piece" or "\ufffd" not in whole:  # which has a U+FFFD for every byte of a broken run
            assert whole == made.decode(ids)


@pytest.mark.parametrize("name", MADE)
def test_an_answer_goes_on_where_its_prompt_ends(name):
    """The answer's text after the prompt's is the text of both, wherever the units are parted."""
    made = MADE[name]()
    ids = made.encode("파일을 저장했습니다. open it again.")
    for cut in range(1, len(ids)):
        writing = Writing(made.spelling, (), ids[:cut])
        answer = "".join(streamed(writing, ids[cut:]))
        whole = made.spelling.written(ids).decode()
        if "\ufffd" not in answer:
            assert whole.endswith(answer)
            assert answer == made.spelling.text(ids[cut:], ids[:cut])


def test_byte_units_of_korean_come_as_whole_characters():
    made = codec("bytes")
    ids = made.encode("조각보")
    writing, parts = Writing(made.spelling), []
    for unit in ids:
        writing.feed(unit)
        parts.append(writing.take())
    assert [part for part in parts if part] == ["조", "각", "보"]
    half = Writing(made.spelling)
    for unit in ids[:-1]:
        half.feed(unit)
    assert half.take() == "조각"
    assert half.finish() == "\ufffd"  # an answer that was cut inside a character says so


STOPS = [["저장"], ["\n\n"], ["save", "av"], ["했습"], ["습니다. 다"], ["zzz"], [". ", "다시"], ["."]]


@pytest.mark.parametrize("stop", STOPS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_text_is_found_across_units_and_never_told(kind, stop):
    made = codec(kind)
    text = "파일을 저장했습니다. 다시 saved\n\n열어 보세요."
    ids = made.encode(text)
    writing = Writing(made.spelling, stop)
    told = ""
    for number, unit in enumerate(ids):
        stopped = writing.feed(unit)
        told += writing.take()
        so_far = made.spelling.written(ids[: number + 1]).decode(errors="ignore").removeprefix(" ")
        there = [so_far.find(one) for one in stop if one in so_far]
        assert stopped == bool(there)
        assert not any(one in told for one in stop)
        if stopped:
            assert told == so_far[: min(there)]
            kept = made.spelling.written(ids[: writing.kept]).decode(errors="ignore").removeprefix(" ")
            assert kept.startswith(told)
            assert (
                made.spelling.written(ids[: max(0, writing.kept - 1)]).decode(errors="ignore").removeprefix(" ") != told
                or not told
            )
            break
    told += writing.finish()
    expected = min((text.find(one) for one in stop if one in text), default=len(text))
    assert told == text[:expected] or writing.stopped


def test_what_may_begin_a_stop_text_is_held_back():
    made = codec("bytes")
    writing = Writing(made.spelling, ["abcd"])
    told = []
    for unit in made.encode("xabcabx"):
        writing.feed(unit)
        told.append(writing.take())
    assert told == ["x", "", "", "", "abc", "", "abx"]  # abc was no abcd after all; ab might still be


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", [decoder, translator])
def test_a_stream_is_the_answer_in_pieces(kind, model):
    made = Generator(
        model(vocab=codec(kind).vocab_size) if model is decoder else model(),
        codec(kind if model is decoder else "bytes"),
    )
    prompts = [made.codec.encode("저장 open"), made.codec.encode("다시")]
    for settings in (
        {"max_new_tokens": 20},
        {"max_new_tokens": 25, "temperature": 1.5, "seed": 3, "n": 2, "stop": ["e", "조", "\ufffd"]},
        {"max_new_tokens": 15, "top_p": 0.8, "seed": 1, "logprobs": 2},
    ):
        whole = [answer for answers in made.generate(prompts, **settings) for answer in answers]
        pieces = list(made.stream(prompts, **settings))
        for number, answer in enumerate(whole):
            ours = [piece for piece in pieces if piece.index == number]
            assert "".join(piece.text for piece in ours) == answer.text
            assert [piece.reason for piece in ours[:-1]] == [None] * (len(ours) - 1)
            assert ours[-1].reason == answer.reason
            assert not any("\ufffd" in piece.text for piece in ours[:-1]) or kind != "bytes" or "\ufffd" in answer.text
            if answer.reason != "stop":
                assert [n for piece in ours for n in piece.ids] == list(answer.ids)
                assert [s for piece in ours for s in piece.scores] == pytest.approx(list(answer.scores))
                assert tuple(t for piece in ours for t in piece.top) == answer.top


def test_speculation_and_contrast_stream_too():
    made = writer()
    prompt = codec().encode("저장 저장 save save 저장")
    for settings in ({"draft_tokens": 4}, {"penalty_alpha": 0.4, "top_k": 4}):
        (whole,) = made.generate([prompt], max_new_tokens=16, **settings)[0]
        assert "".join(piece.text for piece in made.stream([prompt], max_new_tokens=16, **settings)) == whole.text


@pytest.mark.parametrize("settings", [{"beam": 2}, {"method": "mbr"}, {"best_of": 3, "n": 2, "temperature": 1.0}])
def test_what_cannot_be_streamed_is_told(settings):
    with pytest.raises(UserError, match="nothing can be streamed"):
        writer().stream([[1, 5]], **settings)


def test_a_stop_text_ends_the_answer_and_is_left_out():
    """Of sampling, beams and speculation alike; the ids and scores are those of the text that is left."""
    made = writer()
    prompt = codec().encode("저장 save")
    (free,) = made.generate([prompt], max_new_tokens=30)[0]
    text = free.text
    at = next(n for n in range(4, len(text)) if "\ufffd" not in text[n : n + 2] and text.find(text[n : n + 2]) == n)
    stop = text[at : at + 2]
    for settings in ({}, {"draft_tokens": 3}, {"penalty_alpha": 0.0}):
        (found,) = made.generate([prompt], max_new_tokens=30, stop=stop, **settings)[0]
        assert (found.text, found.reason) == (text[:at], "stop")
        assert found.ids == free.ids[: len(found.ids)]
        assert len(found.scores) == len(found.ids)
    for answer in made.generate([prompt], max_new_tokens=20, beam=4, n=4, stop=["e", "다"])[0]:
        assert not {"e", "다"} & set(answer.text)
        assert answer.reason in ("stop", "end", "length")
