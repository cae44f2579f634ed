"""Additive attention: y = sum_s a_s v_s, a = softmax_s(w . tanh(q + k_s)), over the keys that a query may see.

Forms of one function: `reference` in float64 with all scores' insides at once; `tiled`, which holds them for some
queries at a time and makes them again in the backward pass.

Source: Bahdanau et al. 2015 (1409.0473) sections 3.1 and A.1.2.

Legend: M rows, T queries, S keys, A width of the scores' inside, V width of values.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from jogak.ops.attention import ALL, Visible

HELD = 2**22  # numbers inside the scores, M T S A, that are held at once: 16 MiB of float32


def weights(q: Tensor, k: Tensor, score: Tensor, visible: Visible, rows: slice = ALL) -> Tensor:
    """The weights of the queries in `rows`: q [M T A], k [M S A], score [A] -> [M t S], zeros where nothing is seen."""
    # Multiplied by `score` as a matrix of one column: no second tensor of all the insides.
    scores = ((q[:, rows].unsqueeze(2) + k.unsqueeze(1)).tanh() @ score.unsqueeze(1)).squeeze(3)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    seen = visible.tile(rows, ALL, q.device)
    if seen is None:
        return scores.softmax(-1)
    # The lowest number instead of -inf keeps NaN away from queries that see nothing.
    return scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~seen, 0)


def reference(q: Tensor, k: Tensor, v: Tensor, score: Tensor, visible: Visible) -> Tensor:
    """The equation itself in float64: see `tiled`."""
    return (weights(q.double(), k.double(), score.double(), visible) @ v.double()).to(v.dtype)


def tiled(q: Tensor, k: Tensor, v: Tensor, score: Tensor, visible: Visible) -> Tensor:
    """q [M T A], k [M S A], v [M S V], score [A] -> [M T V]; holds at most about HELD of the M T S A insides."""

    def some(q: Tensor, k: Tensor, v: Tensor, score: Tensor, rows: slice) -> Tensor:
        return weights(q, k, score, visible, rows).to(v.dtype) @ v

    size = k.shape[0] * k.shape[1] * k.shape[2]
    step = max(1, HELD // size)
    if torch.compiler.is_compiling() or q.shape[1] <= step:
        return some(q, k, v, score, ALL)
    parts = []
    for at in range(0, q.shape[1], step):
        rows = slice(at, at + step)
        if torch.is_grad_enabled():
            part = checkpoint(some, q, k, v, score, rows, use_reentrant=False, preserve_rng_state=False)
        else:
            part = some(q, k, v, score, rows)
        parts.append(part)
    return torch.cat(parts, dim=1)


FORMS = {"reference": reference, "tiled": tiled}
