"""What each way of telling positions promises."""

import math

import pytest
import torch

from jogak.errors import UserError
from jogak.layers.position import Alibi, Rotary, Sinusoidal, T5Bias


def test_sinusoidal_follows_the_formula():
    width, at = 10, 37
    got = Sinusoidal(width)(torch.tensor([[at]]))[0, 0]
    for i in range(width // 2):
        angle = at / 10000 ** (2 * i / width)
        assert float(got[2 * i]) == pytest.approx(math.sin(angle), abs=1e-5)
        assert float(got[2 * i + 1]) == pytest.approx(math.cos(angle), abs=1e-5)


def test_sinusoidal_takes_an_odd_width():
    assert Sinusoidal(7)(torch.arange(3).unsqueeze(0)).shape == (1, 3, 7)


def test_rotary_scores_depend_on_distance_alone():
    torch.manual_seed(0)
    rotary = Rotary(16)
    q, k = torch.randn(1, 1, 2, 16), torch.randn(1, 1, 2, 16)

    def score(at_q, at_k):
        turned = rotary(q, torch.tensor([[at_q]])), rotary(k, torch.tensor([[at_k]]))
        return (turned[0] * turned[1]).sum(-1)

    torch.testing.assert_close(score(3, 1), score(103, 101), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(score(3, 1), score(4, 1))
    torch.testing.assert_close(rotary(q, torch.zeros(1, 1, dtype=torch.int64)), q)


def test_rotary_refuses_an_odd_head():
    with pytest.raises(UserError, match="even head width"):
        Rotary(7)


def test_alibi_slopes_are_the_papers():
    assert Alibi(8).slopes(torch.device("cpu")).tolist() == [2.0**-n for n in range(1, 9)]
    # Press et al., footnote on 12 heads: the slopes of 8, then every other one of 16's.
    slopes = Alibi(12).slopes(torch.device("cpu")).tolist()
    assert slopes[8:] == pytest.approx([2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])


def test_alibi_is_linear_in_distance():
    places = torch.arange(5).unsqueeze(0)
    bias = Alibi(8).tile(None, places, places)
    assert bias.shape == (1, 8, 5, 5)
    assert float(bias[0, 0, 4, 1]) == -1.5
    assert torch.equal(bias, bias.transpose(2, 3))


def test_t5_buckets_are_exact_when_near_and_logarithmic_when_far():
    bias = T5Bias(2, bidirectional=False)
    buckets = bias.bucket(-torch.arange(0, 300)).tolist()
    assert buckets[:16] == list(range(16))
    assert buckets == sorted(buckets)
    assert buckets[128] == buckets[299] == 31
    assert bias.bucket(torch.tensor([1, 50])).tolist() == [0, 0]  # a causal query sees nothing ahead
    # Between 16 and 128 the sixteen further buckets part the logarithm evenly.
    assert buckets[16] == 16
    assert buckets[45] == 16 + int(math.log(45 / 16) / math.log(128 / 16) * 16)


def test_t5_tells_ahead_from_behind():
    bias = T5Bias(2, bidirectional=True)
    ahead, behind = bias.bucket(torch.arange(1, 200)), bias.bucket(-torch.arange(1, 200))
    assert not set(ahead.tolist()) & set(behind.tolist())
    assert torch.equal(ahead, behind + 16)
