"""What a request gets does not depend on who shares its batch, when they came, or how its prompt was read."""

import random

import pytest
import torch

from jogak.decoding.batching import Batcher
from jogak.decoding.generate import Generator
from jogak.decoding.prefix import PrefixCache
from jogak.decoding.settings import Sampling
from jogak.errors import UserError
from tests.unit.decoding.writers import OVER, codec, decoder, translator, writer

TEXTS = [
    "저장",
    "파일을 저장했습니다. 다시 열어 보세요.",
    "open",
    "The file was saved; open it again.",
    "a",
    "조각 조각",
]
PROMPTS = [[codec().bos_id, *codec().encode(text)] for text in TEXTS]
ASKED = [
    Sampling(max_new_tokens=9),
    Sampling(max_new_tokens=14, temperature=1.3, seed=5),
    Sampling(max_new_tokens=5, repetition_penalty=1.4, presence_penalty=0.5, no_repeat_ngram_size=2),
    Sampling(max_new_tokens=12, temperature=0.9, top_p=0.8, seed=2, n=2, stop=("e", "조")),
    Sampling(max_new_tokens=30, regex="[a-c]{3,6}!"),
    Sampling(max_new_tokens=7, top_k=5, seed=9, min_new_tokens=6, bad_words=("a", "다"), logprobs=2),
]


def gathered(pieces):
    """What each answer of each request came to: ids, text and reason."""
    found = {}
    for piece in pieces:
        ids, text, reason, scores = found.get((piece.request, piece.index), ((), "", None, ()))
        assert reason is None
        scores = scores + piece.scores
        found[piece.request, piece.index] = (ids + piece.ids, text + piece.text, piece.reason, scores)
    return found


def alone(made, sources, asked):
    found = {}
    for number, (ids, one) in enumerate(zip(sources, asked, strict=True), 1):
        for piece in made.stream([ids], one):
            ids_, text, _, scores = found.get((number, piece.index), ((), "", None, ()))
            found[number, piece.index] = (ids_ + piece.ids, text + piece.text, piece.reason, scores + piece.scores)
    return found


def same(ours, expected):
    assert {key: value[:3] for key, value in ours.items()} == {key: value[:3] for key, value in expected.items()}
    for key, value in ours.items():
        assert value[3] == pytest.approx(expected[key][3], abs=2e-4)


def all_of(made, sources, asked, pause=2, **sizes):
    """Requests that come one after another, `pause` steps apart, into a batch that is already running."""
    batcher, pieces = Batcher(made, **sizes), []
    for ids, one in zip(sources, asked, strict=True):
        batcher.submit(ids, one)
        for _ in range(pause):
            pieces += batcher.step()
    return gathered([*pieces, *batcher.run()])


@OVER
def test_every_request_gets_what_it_gets_alone(pattern):
    made = Generator(decoder(pattern), codec())
    expected = alone(made, PROMPTS, ASKED)
    same(all_of(made, PROMPTS, ASKED, chunk=7), expected)
    same(all_of(made, PROMPTS[::-1], ASKED[::-1], pause=0), {(7 - n, c): v for (n, c), v in expected.items()})


@OVER
def test_so_does_every_request_with_a_source(pattern):
    made = Generator(translator(pattern), codec())
    sources = [[*codec().encode(text), codec().eos_id] for text in TEXTS]
    same(all_of(made, sources, ASKED, pause=1), alone(made, sources, ASKED))


@pytest.mark.parametrize("cross", ["additive", "dot"])
def test_and_with_other_ways_to_read_it(cross):
    made = Generator(translator(cross=cross), codec())
    same(all_of(made, PROMPTS, ASKED, pause=1), alone(made, PROMPTS, ASKED))


def test_handed_over_states_join_too():
    side = {"depth": 1, "pattern": ["gru"], "placement": "pre"}
    for handover in ("both", "state"):
        cross = {"cross": "attention"} if handover == "both" else {}
        made = Generator(translator(handover=handover, encoder=side, decoder={**side, **cross}), codec())
        same(all_of(made, PROMPTS, ASKED, pause=1), alone(made, PROMPTS, ASKED))


@pytest.mark.parametrize(("rows", "chunk"), [(1, 1000), (2, 1), (3, 5), (64, 40)])
def test_whatever_room_there_is(rows, chunk):
    made = writer()
    asked = [one if one.n <= rows else Sampling(max_new_tokens=6) for one in ASKED]
    same(all_of(made, PROMPTS, asked, pause=1, rows=rows, chunk=chunk), alone(made, PROMPTS, asked))


@pytest.mark.parametrize("pattern", [["attention"], ["mamba", "attention"]], ids=str)
def test_a_prefix_cache_is_used_and_changes_nothing(pattern):
    plain, cache = Generator(decoder(pattern), codec()), PrefixCache(block=4)
    cached = Generator(plain.model, codec(), cache=cache)
    expected = alone(plain, PROMPTS, ASKED)
    same(all_of(cached, PROMPTS, ASKED, chunk=6), expected)
    before = cache.report.reused
    same(all_of(cached, PROMPTS, ASKED), expected)
    assert cache.report.reused - before == sum((len(ids) - 1) // 4 * 4 for ids in PROMPTS)
    assert [a[0].ids for a in cached.generate(PROMPTS[:2], max_new_tokens=6)] == [
        a[0].ids for a in plain.generate(PROMPTS[:2], max_new_tokens=6)
    ]


def test_requests_at_random_come_and_go():
    """Forty requests, joining at random, some of them cancelled; nobody else notices, and no row is left behind."""
    made, chance = writer(), random.Random(0)
    batcher, pieces, asked, gone = Batcher(made, rows=6, chunk=9), [], {}, set()
    for number in range(1, 41):
        one = Sampling(max_new_tokens=chance.randrange(1, 12), temperature=1.0, seed=number, n=chance.choice((1, 1, 2)))
        ids = PROMPTS[chance.randrange(len(PROMPTS))]
        asked[batcher.submit(ids, one)] = (ids, one)
        for _ in range(chance.randrange(3)):
            pieces += batcher.step()
            assert batcher.running <= 6
        if chance.random() < 0.2:
            gone.add(victim := chance.randrange(1, number + 1))
            batcher.cancel(victim)
            pieces = [piece for piece in pieces if piece.request != victim]
    pieces += batcher.run()
    found = gathered(pieces)
    assert gone & {number for number, _ in found} == set()
    for number, (ids, one) in asked.items():
        if number not in gone:
            for choice, answer in enumerate(made.generate([ids], one)[0]):
                assert found[number, choice][:3] == (answer.ids, answer.text, answer.reason)
    assert (batcher.running, batcher.waiting) == (0, 0)


def test_a_cancelled_row_is_free_at_once():
    batcher = Batcher(writer(), rows=1)
    first = batcher.submit(PROMPTS[0], max_new_tokens=50, min_new_tokens=50)
    second = batcher.submit(PROMPTS[1], max_new_tokens=3, min_new_tokens=3)
    assert {piece.request for piece in batcher.step()} == {first}
    assert (batcher.running, batcher.waiting) == (1, 1)
    batcher.cancel(first)
    assert {piece.request for piece in batcher.step()} == {second}
    batcher.cancel(second)
    assert batcher.step() == []


def test_a_long_prompt_does_not_stop_those_that_run():
    batcher = Batcher(writer(), chunk=4)
    first = batcher.submit(PROMPTS[0][:2], max_new_tokens=30, min_new_tokens=30)
    assert [piece.request for piece in batcher.step()] == [first]
    second = batcher.submit(PROMPTS[1] * 2, max_new_tokens=2)
    for _ in range(len(PROMPTS[1]) * 2 // 4):
        assert [piece.request for piece in batcher.step()] == [first]
    assert {piece.request for piece in batcher.step()} == {first, second}


def test_padding_in_front_is_let_go():
    """Once the long ones have left, the state holds no more than the short one needs."""
    batcher = Batcher(writer())
    batcher.submit(PROMPTS[1] * 4, max_new_tokens=2, min_new_tokens=2)
    short = batcher.submit(PROMPTS[0], max_new_tokens=9, min_new_tokens=9)
    for _ in range(3):
        batcher.step()
    assert batcher._state is not None
    keys = batcher._state.blocks[0].mixer["k"]
    assert keys.shape[:2] == (1, len(PROMPTS[0]) + 3)
    assert {piece.request for piece in batcher.run()} == {short}


def test_one_answer_that_fails_fails_alone():
    batcher = Batcher(writer())
    bad = batcher.submit(PROMPTS[0], max_new_tokens=2, regex="[a-z]{9}")
    good = batcher.submit(PROMPTS[0], max_new_tokens=4)
    last = {piece.request: piece for piece in batcher.run()}
    assert "max_new_tokens=2 came before the answer was what regex says" in (last[bad].error or "")
    assert (last[good].error, last[good].reason) == (None, "length")


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"beam": 3}, "nothing can be streamed"),
        ({"penalty_alpha": 0.5, "top_k": 3}, "for one request alone"),
        ({"draft_tokens": 3}, "for one request alone"),
        ({"n": 9, "temperature": 1.0}, "cannot be more than the 8 rows"),
        ({"top_p": 3}, "top_p must be a number from 0 to 1"),
    ],
)
def test_what_cannot_join_is_told(asked, sentence):
    with pytest.raises(UserError, match=sentence):
        Batcher(writer(), rows=8).submit(PROMPTS[0], **asked)
    with pytest.raises(UserError, match="rows and chunk of at least 1"):
        Batcher(writer(), rows=0)


def test_the_model_keeps_its_mode():
    made = writer()
    made.model.train()
    batcher = Batcher(made)
    batcher.submit(PROMPTS[0], max_new_tokens=2)
    assert all(not torch.is_inference_mode_enabled() for _ in batcher.run())
    assert made.model.training
