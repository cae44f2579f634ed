"""Minimum Bayes risk: the utility is sacrebleu's chrF, and the answer the candidate with most of it expected."""

import math
import random

import numpy as np
import pytest
from sacrebleu import CHRF

from jogak.decoding.generate import Generator
from jogak.decoding.risk import chrf, expected, weights
from tests.unit.decoding.writers import codec, translator

WORDS = ["파일을", "열", "수", "없습니다", "저장", "the", "file", "was", "saved;", "aaa", "aa", "a", ",", ".", "%s"]


def test_utility_is_the_chrf_of_sacrebleu():
    chance = random.Random(0)
    texts = [" ".join(chance.choices(WORDS, k=chance.randrange(12))) for _ in range(20)]
    texts += ["", "a", "ab", "  ", "\u3000조각 조각\t", "e\u0301", "😀😀 😀"]
    found, metric = chrf(texts), CHRF()
    for row, one in enumerate(texts):
        for column, other in enumerate(texts):
            assert found[row, column] == pytest.approx(metric.sentence_score(one, [other]).score, abs=1e-9)


def test_expected_utility_is_the_weighted_sum_and_equal_texts_are_one():
    texts, weight = ["a b c", "abd", "ab c", "xyz"], [0.1, 0.4, 0.2, 0.3]
    found = expected(texts, weight)
    assert found == pytest.approx((chrf(texts) @ np.array(weight)).tolist())
    assert found[0] == found[2]  # spaces do not count


def test_weights_are_the_beams_probabilities_and_samples_share_the_rest():
    ours, theirs = weights([math.log(0.5), math.log(0.2)], [0, None, 1, None, None])
    assert ours == pytest.approx([0.5, 0.2])
    assert theirs == pytest.approx([0, 0.1, 0, 0.1, 0.1])
    assert weights([math.log(0.5), math.log(0.25)], [0, 0])[0] == pytest.approx([2 / 3, 1 / 3])
    assert weights([], [None, None]) == ([], [0.5, 0.5])


def test_weights_estimate_what_samples_alone_would():
    """Over many draws from a known distribution the mean of the estimate is the expectation."""
    chance, p, value = random.Random(1), [0.4, 0.3, 0.2, 0.1], [1.0, 5.0, 2.0, 9.0]
    means = []
    for _ in range(2000):
        drawn = chance.choices(range(4), p, k=8)
        ours, theirs = weights([math.log(p[0]), math.log(p[1])], [n if n < 2 else None for n in drawn])
        rest = sum(w * value[n] for w, n in zip(theirs, drawn, strict=True))
        means.append(rest + sum(w * value[n] for n, w in enumerate(ours)))
    exact = sum(a * b for a, b in zip(p, value, strict=True))
    assert np.mean(means) == pytest.approx(exact, abs=0.15)


SOURCES = [codec().encode("저장 저장 save"), codec().encode("open it")]
ASKED = {"method": "mbr", "max_new_tokens": 10, "beam": 3, "mbr_samples": 12, "temperature": 1.3}


def test_the_answer_is_the_candidate_of_highest_expected_utility():
    """Against the beam's and the samples' own answers, weighed and compared by hand."""
    made = Generator(translator(seed=2), codec())
    found = made.generate(SOURCES, **ASKED, n=5)
    drawn = made.generate(SOURCES, max_new_tokens=10, temperature=1.3, n=12, seed=0)
    for answers, samples in zip(found, drawn, strict=True):
        assert len({a.text for a in answers}) == len(answers) == 5
        assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)
        assert all(0 <= a.score <= 100 for a in answers)
        assert {a.text for a in answers} & {s.text for s in samples}
    again = made.generate(SOURCES[::-1], **ASKED, n=5)[::-1]
    assert [[a.text for a in row] for row in again] == [[a.text for a in row] for row in found]  # it draws from seed 0
    other = made.generate(SOURCES, **ASKED, n=5, seed=1)
    assert [[a.text for a in row] for row in other] != [[a.text for a in row] for row in found]


def test_with_the_whole_mass_in_the_beam_it_is_exact():
    """A vocabulary of few likely answers: without samples the weights are the beam's own probabilities."""
    made = Generator(translator(seed=2), codec())
    beam = made.generate(SOURCES[:1], max_new_tokens=4, beam=6, n=6)[0]
    found = made.generate(SOURCES[:1], max_new_tokens=4, method="mbr", beam=6, mbr_samples=0, n=6)[0]
    mass = np.exp([a.log_prob for a in beam])
    by_hand = dict(zip([a.text for a in beam], expected([a.text for a in beam], list(mass / mass.sum())), strict=True))
    for answer in found:
        assert answer.score == pytest.approx(by_hand[answer.text], rel=1e-6)
    assert found[0].score == pytest.approx(max(by_hand.values()), rel=1e-6)
