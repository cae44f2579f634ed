"""The baselines of language modelling, against probabilities worked out by hand and by counting longhand."""

from collections import Counter

import numpy as np
import pytest

from jogak.tasks import _ngrams
from jogak.tasks._bits import measure


def longhand(training, history, unit, order):
    """Witten-Bell, written as the equation stands."""
    if order == 1:
        return (training.count(unit) + 1) / (len(training) + 257)
    context = tuple(history[len(history) - order + 1 :])
    follow = Counter(
        training[i + order - 1]
        for i in range(len(training) - order + 1)
        if tuple(training[i : i + order - 1]) == context
    )
    lower = longhand(training, history, unit, order - 1)
    if len(context) < order - 1 or not follow:
        return lower
    return (follow[unit] + len(follow) * lower) / (follow.total() + len(follow))


def test_ngrams_are_witten_bell():
    training, told = "abracadabra abra", "abra cadab"
    seen, units = _ngrams.units_of([training]).tolist(), _ngrams.units_of([told]).tolist()
    expected = [longhand(seen, units[:i], units[i], _ngrams.ORDER) for i in range(len(units))]
    np.testing.assert_allclose(2 ** -_ngrams.baselines([training], [told]).ngram, expected)


def test_probabilities_add_up_to_one():
    training = ["저장했습니다. 저장하지 못했습니다.", "파일을 저장"]
    before = "저장".encode()
    seen = _ngrams.units_of(training)
    total = 0.0
    for unit in range(257):
        told = np.array([*before, unit], dtype=np.int64)
        p = (np.bincount(seen, minlength=257) + 1.0)[told] / (len(seen) + 257)
        for order in range(2, _ngrams.ORDER + 1):
            p = _ngrams._interpolated(seen, told, order, p)
        total += p[-1]
    assert total == pytest.approx(1)


def test_bits_per_byte_counts_bytes_and_not_units():
    found = measure(["가나다가나다가나다가"], [(30.0, 5), (60.0, 6)], ["가나다" * 50])
    assert found.bytes == 30
    assert found.model.value == pytest.approx(90 / 30)
    assert found.model.low <= found.model.value <= found.model.high
    assert found.uniform.value == pytest.approx(np.log2(257) * 31 / 30)
    assert found.ngram is not None
    assert found.unigram is not None
    assert found.ngram.value < found.unigram.value < found.uniform.value
    assert "bits per byte" in found.table()
    assert measure(["가"], [(3.0, 4)], []).ngram is None
