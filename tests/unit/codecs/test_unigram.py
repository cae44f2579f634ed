"""The unigram trainer against sums over all segmentations written out."""

from itertools import pairwise, product
from math import exp, isclose, log

import numpy as np

from jogak.codecs._unigram import build_lattice, expect, forward, learn_unigram


def _segmentations(word: str) -> list[list[str]]:
    result = []
    for bits in product([False, True], repeat=len(word) - 1):
        cuts = [0, *(i + 1 for i, b in enumerate(bits) if b), len(word)]
        result.append([word[a:b] for a, b in pairwise(cuts)])
    return result


def test_expected_counts_are_those_of_all_segmentations() -> None:
    pieces = ["a", "ab", "aba", "b", "ba", "가"]
    scores = np.log(np.array([0.3, 0.1, 0.05, 0.25, 0.2, 0.1]))
    words = {"abab": 3, "ba가": 2, "a": 1}
    logp = dict(zip(pieces, scores, strict=True))
    want = dict.fromkeys(pieces, 0.0)
    for word, count in words.items():
        ways = [w for w in _segmentations(word) if all(p in logp for p in w)]
        weights = [exp(sum(logp[p] for p in w)) for w in ways]
        for way, weight in zip(ways, weights, strict=True):
            for piece in way:
                want[piece] += count * weight / sum(weights)
    lattice = build_lattice(list(words), pieces)
    got = expect(lattice, scores, np.array(list(words.values()), dtype=float))
    np.testing.assert_allclose(got, list(want.values()), rtol=1e-12)
    best = forward(lattice, scores, np.maximum)[lattice.ends]
    for word, score in zip(words, best, strict=True):
        ways = [w for w in _segmentations(word) if all(p in logp for p in w)]
        assert isclose(score, max(sum(logp[p] for p in w) for w in ways))


def test_frequent_wholes_survive_and_probabilities_sum_to_one() -> None:
    words = {"저장": 50, "저장됨": 20, "파일": 40, "장": 1, "일저": 1, "파": 1}
    learned = dict(learn_unigram(words, 8))
    assert len(learned) == 8
    assert set("저장됨파일") <= set(learned)
    assert {"저장", "파일"} <= set(learned)
    assert isclose(sum(map(exp, learned.values())), 1.0, rel_tol=1e-4)
    assert learned["저장"] > learned["일"]
    assert learned["저장"] < log(1.0)
