"""Inputs on which the forms of ops.attention must agree."""

import torch

from jogak.layers.position import Alibi, T5Bias
from jogak.ops.attention import Visible
from tests.laws.cases import Case
from tests.laws.support import DEVICE, noise


def _case(
    name: str,
    queries: int,
    keys: int,
    *,
    heads: int = 4,
    groups: int = 4,
    width: int = 16,
    bias: str = "",
    **seen: object,
) -> Case:
    """Two rows of `queries` and `keys`."""
    tensors = {
        "q": noise(2, queries, heads, width, seed=1),
        "k": noise(2, keys, groups, width, seed=2),
        "v": noise(2, keys, groups, width, seed=3),
    }
    module = None
    if bias == "alibi":
        module = Alibi(heads)
    elif bias == "t5":
        module = T5Bias(heads, bidirectional=not seen.get("causal"), buckets=8, max_distance=64).to(DEVICE)
    visible = Visible(queries, keys, **seen)
    return Case(name, tensors, {"visible": visible, "bias": module})


def _mask(keys: int) -> torch.Tensor:
    """One row real up to the middle, one with holes."""
    place = torch.arange(keys, device=DEVICE)
    return torch.stack([place < max(1, keys // 2), place % 3 != 1])


def _segments(count: int) -> torch.Tensor:
    place = torch.arange(count, device=DEVICE)
    return torch.stack([place // 50, place // 31])


def _positions(count: int) -> torch.Tensor:
    place = torch.arange(count, device=DEVICE)
    return torch.stack([place, 3 * place])


CASES = [
    *(_case(f"plain-T{n}", n, n) for n in (1, 2, 63, 65, 500)),
    *(_case(f"causal-T{n}", n, n, causal=True) for n in (1, 2, 63, 65, 500)),
    _case("one-query", 1, 200, causal=True),
    _case("last-queries", 65, 200, causal=True),
    _case("more-queries-than-keys", 140, 3),
    _case("grouped", 130, 130, groups=2, causal=True),
    _case("multi-query", 130, 130, groups=1),
    _case("mask", 65, 200, mask=_mask(200)),
    _case("mask-causal", 200, 200, mask=_mask(200), causal=True),
    _case("segments", 200, 200, q_segments=_segments(200), k_segments=_segments(200)),
    _case("segments-causal", 200, 200, q_segments=_segments(200), k_segments=_segments(200), causal=True),
    _case("nothing-visible", 5, 140, mask=torch.zeros(2, 140, dtype=torch.bool, device=DEVICE)),
    _case("nothing-visible-to-some", 70, 70, q_segments=_segments(70), k_segments=1 + _segments(70)),
    _case("window", 200, 200, window=7),
    _case("window-causal", 300, 300, window=130, causal=True),
    _case("window-one", 9, 9, window=1, causal=True),
    _case("alibi-causal", 140, 140, bias="alibi", causal=True),
    _case("alibi-positions", 70, 70, bias="alibi", q_positions=_positions(70), k_positions=_positions(70)),
    _case("t5", 140, 140, bias="t5"),
    _case("t5-causal-grouped-mask", 140, 140, groups=2, bias="t5", causal=True, mask=_mask(140)),
    _case("t5-last-queries", 3, 140, bias="t5", causal=True),
    _case(
        "alibi-window-segments", 200, 200, bias="alibi", window=20, q_segments=_segments(200), k_segments=_segments(200)
    ),
    _case("prefixes", 33, 70, mask=torch.arange(70, device=DEVICE) < torch.tensor([[9], [70]], device=DEVICE)),
    _case("segments-in-another-order", 200, 150, q_segments=_segments(200), k_segments=3 - _segments(150)),
    _case("segments-apart", 90, 90, q_segments=_segments(90) % 2, k_segments=_segments(90) % 2),
    _case("segments-mask", 90, 90, q_segments=_segments(90), k_segments=_segments(90), mask=_mask(90)),
    _case("segments-wide", 90, 90, groups=2, width=64, causal=True, q_segments=_segments(90), k_segments=_segments(90)),
    _case("narrow-heads", 65, 65, groups=2, width=8, causal=True),
    _case("wide-heads", 65, 65, heads=2, groups=1, width=80, causal=True),
]
