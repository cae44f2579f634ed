"""Answers that must match: with every mixer all of them do, whatever the model would rather say."""

import json
import re

import pytest
import torch

from jogak.decoding.constrain import Constraints
from jogak.decoding.generate import Generator
from jogak.decoding.settings import Sampling
from jogak.decoding.words import Words, automaton
from jogak.errors import UserError
from tests.unit.decoding.writers import OVER, codec, decoder, translator, writer

REGEX = r"(예|아니요), [0-9]{2,4}번( 파일| 저장)?"
SCHEMA = {
    "type": "object",
    "properties": {
        "이름": {"enum": ["조각", "보"]},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["이름", "n", "tags"],
    "additionalProperties": False,
}
GRAMMAR = """
start: term (("+" | "-") term)~0..3
term: NUMBER | "(" NUMBER "*" NUMBER ")"
NUMBER: /[1-9][0-9]?/
"""
SUM = re.compile(r"[1-9]\d?|\([1-9]\d?\*[1-9]\d?\)")
PROMPT = codec().encode("저장 open")
KINDS = {"regex": REGEX, "json_schema": SCHEMA, "grammar": GRAMMAR}


def fits(name, text):
    if name == "regex":
        return re.fullmatch(REGEX, text) is not None
    if name == "json_schema":
        found = json.loads(text)
        return (
            list(found) == ["이름", "n", "tags"]
            and found["이름"] in ("조각", "보")
            and type(found["n"]) is int
            and 0 <= found["n"] <= 99
            and len(found["tags"]) <= 3
            and all(type(tag) is bool for tag in found["tags"])
        )
    return re.fullmatch(rf"({SUM.pattern})([+-]({SUM.pattern})){{0,3}}", text) is not None


@OVER
def test_every_answer_of_every_mixer_fits(pattern):
    made = Generator(decoder(pattern), codec())
    for name, what in KINDS.items():
        asked = Sampling(max_new_tokens=90, temperature=2.0, seed=1, n=2, **{name: what})
        for answer in made.generate([PROMPT, PROMPT[:2]], asked)[0]:
            assert fits(name, answer.text), answer.text
            assert answer.reason == "end"


@OVER
def test_every_translation_fits(pattern):
    made = Generator(translator(pattern), codec())
    for name, what in KINDS.items():
        (answer,) = made.generate([PROMPT], max_new_tokens=90, temperature=2.0, seed=1, **{name: what})[0]
        assert fits(name, answer.text), answer.text


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_every_kind_of_codec_fits(name, kind):
    """Pieces of several characters and leading spaces; from an empty prompt and behind a text."""
    made = Generator(decoder(vocab=codec(kind).vocab_size), codec(kind))
    for prompt in ([codec(kind).bos_id], [codec(kind).bos_id, *codec(kind).encode("저장")]):
        for answer in made.generate([prompt], max_new_tokens=90, temperature=2.0, seed=2, n=3, **{name: KINDS[name]})[
            0
        ]:
            assert fits(name, answer.text), answer.text


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "way",
    [
        {},
        {"beam": 3, "n": 3},
        {"beam": 4, "beam_groups": 2, "diversity_penalty": 0.5},
        {"penalty_alpha": 0.5, "top_k": 4},
        {"draft_tokens": 4},
        {"temperature": 1.5, "seed": 1, "draft_tokens": 4},
        {"temperature": 1.5, "seed": 1, "best_of": 4, "n": 2},
        {"method": "mbr", "mbr_samples": 6, "beam": 2, "n": 2},
        {"top_p": 0.5, "seed": 3, "repetition_penalty": 1.5},
    ],
    ids=str,
)
def test_every_way_of_decoding_fits(name, way):
    for answer in writer().generate([PROMPT], max_new_tokens=90, **way, **{name: KINDS[name]})[0]:
        assert fits(name, answer.text), answer.text


def test_a_draft_model_is_held_to_it_too():
    made = Generator(decoder(), codec(), draft=decoder(seed=4))
    for name, what in KINDS.items():
        expected = writer().generate([PROMPT], max_new_tokens=90, **{name: what})[0][0]
        (found,) = made.generate([PROMPT], max_new_tokens=90, draft_tokens=3, **{name: what})[0]
        assert found.ids == expected.ids
        assert found.timings.accepted > 0


def test_a_stream_fits_too():
    text = "".join(piece.text for piece in writer().stream([PROMPT], max_new_tokens=90, seed=4, json_schema=SCHEMA))
    assert fits("json_schema", text)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"regex": "(a"}, "regex cannot be used: "),
        ({"regex": r"(?=a)b"}, "regex cannot be used: "),
        ({"json_schema": "{"}, "json_schema cannot be used: not JSON: .* at line 1, column 2"),
        ({"json_schema": "[1]"}, "json_schema cannot be used: a schema is an object"),
        ({"json_schema": {"type": "nonsense"}}, "json_schema cannot be used: "),
        ({"json_schema": {"type": "string", "pattern": "(a"}}, "json_schema cannot be used: "),
        ({"json_schema": {"$ref": "#/$defs/none"}}, "json_schema cannot be used: "),
        (
            {"json_schema": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}},
            "json_schema cannot be used: ",
        ),
        ({"grammar": "start: other"}, "grammar cannot be used: "),
        ({"grammar": "nothing"}, "grammar cannot be used: "),
    ],
    ids=str,
)
def test_what_cannot_be_compiled_is_told_with_the_reason(asked, sentence):
    with pytest.raises(UserError, match=sentence) as told:
        writer().generate([PROMPT], **asked)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 500


def test_an_answer_that_is_cut_before_it_fits_is_refused():
    with pytest.raises(UserError, match="input 1: max_new_tokens=5 came before the answer was what json_schema says"):
        writer().generate([PROMPT], max_new_tokens=5, json_schema=SCHEMA)
    with pytest.raises(UserError, match="max_new_tokens=5 came before"):
        list(writer().stream([PROMPT], max_new_tokens=5, json_schema=SCHEMA))
    with pytest.raises(UserError, match="a stop text came before the answer was what json_schema says"):
        writer().generate([PROMPT], max_new_tokens=90, json_schema=SCHEMA, stop='"n"')


def test_the_input_that_is_refused_is_named_as_it_was_given():
    asked = [Sampling(max_new_tokens=4), Sampling(beam=2, max_new_tokens=4, json_schema=SCHEMA)]
    with pytest.raises(UserError, match="input 2: max_new_tokens=4 came before"):
        writer().generate([PROMPT, PROMPT], asked)


def test_a_constraint_follows_whatever_it_is_asked_about():
    constraint = Constraints(codec()).of(Sampling(regex="ab*c|xyz"))
    assert constraint is not None
    a, b, c, x = (codec().encode(letter)[0] for letter in "abcx")

    def may(*answer):
        return {n for n in (a, b, c, x, codec().eos_id) if bool(constraint.allowed(answer)[n])}

    assert may() == {a, x}
    assert may(a, b, b) == {b, c}
    assert may(x) == set()  # y only
    assert may(a) == {b, c}
    assert may(a, c) == {codec().eos_id}
    assert constraint.complete((a, c))
    assert not constraint.complete((a, b))


# ---------------------------------------------------------------- words that no answer holds


def test_the_automaton_finds_every_word():
    go, ends = automaton([b"he", b"she", b"hers"])
    state, found = 0, []
    for byte in b"ushers he":
        state = int(go[state, byte])
        found.append(bool(ends[state]))
    assert [n for n, one in enumerate(found) if one] == [3, 5, 8]


@pytest.mark.parametrize("kind", ["bytes", "bpe", "unigram"])
def test_bad_words_never_come_however_they_are_cut(kind):
    made = Generator(decoder(vocab=codec(kind).vocab_size), codec(kind))
    settings = {"temperature": 3.0, "max_new_tokens": 60, "seed": 1, "n": 6}
    words = ["e", "다", "파일", "save", " t"]
    free = made.generate([made.encode("저장")], **settings)[0]
    assert any(word in answer.text for answer in free for word in words)
    for way in ({}, {"beam": 4, "n": 4, "temperature": None, "seed": None}, {"draft_tokens": 3, "n": 1}):
        for answer in made.generate([made.encode("저장")], bad_words=words, **{**settings, **way})[0]:
            assert not any(word in answer.text for word in words), answer.text


def test_a_bad_word_is_not_finished_across_the_end_of_the_prompt():
    made = codec("bytes")
    rule = Words(["저장"], made.spelling, made.encode("저"))
    jang = "장".encode()
    ids = made.encode("장")
    assert len(ids) == len(jang) == 3
    assert bool(rule.allowed(ids[:1])[ids[1]])
    assert not bool(rule.allowed(ids[:2])[ids[2]])
    assert bool(Words(["저장"], made.spelling).allowed(ids[:2])[ids[2]])


def test_words_allow_what_counting_by_hand_allows():
    made = codec("bpe")
    words = ["일을", "av", "s", "니"]
    rule, silent = Words(words, made.spelling), set(made.forbidden({}))
    answer: list[int] = []
    chance = torch.Generator().manual_seed(0)
    for _ in range(25):
        allowed = rule.allowed(answer)
        text = made.spelling.written(answer)
        for unit in range(0, made.vocab_size, 3):
            bad = any(word.encode() in text + made.spelling.pieces[unit] for word in words)
            assert bool(allowed[unit]) != bad
        good = [n for n in allowed.nonzero().flatten().tolist() if n not in silent]
        answer.append(good[int(torch.randint(len(good), (1,), generator=chance))])
