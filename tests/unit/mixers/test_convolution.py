"""Convolution beside its equation, and what it refuses."""

import pytest
import torch

from jogak import mixers
from jogak.errors import UserError
from tests.laws.support import noise


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("depthwise", [True, False])
@pytest.mark.parametrize("dilation", [1, 3])
def test_it_is_its_equation(causal, depthwise, dilation):
    mixer = mixers.build("convolution", d_model=4, kernel=3, causal=causal, depthwise=depthwise, dilation=dilation)
    x = noise(1, 9, 4, seed=0, device="cpu")
    y = mixer(x)[0][0]
    for t in range(9):
        expected = mixer.bias.clone()
        for j in range(3):
            place = t - (2 - j) * dilation if causal else t + (j - 1) * dilation
            if 0 <= place < 9:
                w, inside = mixer.weight[..., j], x[0, place]
                expected = expected + (w * inside if depthwise else w @ inside)
        torch.testing.assert_close(y[t], expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"kernel": 1}, "at least 2"), ({"dilation": 0}, "at least 1"), ({"kernel": 4}, "has no middle")],
)
def test_what_does_not_fit_is_one_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence):
        mixers.build("convolution", d_model=4, **options)
