"""Linear attention against the paper's equations, written out in float64: 2006.16236 sections 3.2 and 3.3."""

import pytest
import torch
from torch import Tensor

from jogak import mixers
from jogak.mixers import Mixer
from tests.laws.support import close, close_all, noise

WIDTH, HEADS, LENGTH = 32, 4, 90
HEAD = WIDTH // HEADS


def _feature(x: Tensor) -> Tensor:
    """elu(x) + 1, equation 7."""
    return torch.where(x > 0, x + 1, x.clamp_max(0).exp())


def _longhand(mixer: Mixer, x: Tensor, causal: bool) -> Tensor:
    """Equation 4 for every position of x [T D], over all positions or those up to it (equation 8)."""
    named = {n: p.double() for n, p in mixer.named_parameters()}
    q, k, v = (x @ named["qkv.weight"].T + named["qkv.bias"]).split(WIDTH, dim=1)
    outputs = []
    for i in range(len(x)):
        seen = i + 1 if causal else len(x)
        heads = []
        for h in range(HEADS):
            part = slice(h * HEAD, (h + 1) * HEAD)
            similarity = _feature(k[:seen, part]) @ _feature(q[i, part])
            heads.append((similarity[:, None] * v[:seen, part]).sum(0) / similarity.sum())
        outputs.append(torch.cat(heads))
    return torch.stack(outputs) @ named["out.weight"].T + named["out.bias"]


@pytest.mark.parametrize(
    ("causal", "backend"), [(True, "chunkwise"), (True, "parallel"), (True, "recurrent"), (False, "auto")]
)
def test_output_and_gradients(causal, backend):
    mixer = mixers.build("linear_attention", d_model=WIDTH, heads=HEADS, causal=causal, backend=backend)
    named = dict(mixer.named_parameters())
    x = noise(LENGTH, WIDTH, seed=1).requires_grad_()
    weight = noise(LENGTH, WIDTH, seed=2)
    results = []
    for y in (mixer(x[None])[0][0], _longhand(mixer, x.double(), causal)):
        gradients = torch.autograd.grad(y, [x, *named.values()], weight.to(y.dtype))
        results.append((y, dict(zip(["x", *named], gradients, strict=True))))
    close(results[0][0], results[1][0], "output", tolerance=1e-5)
    close_all(results[0][1], results[1][1], "gradient", tolerance=1e-5)
