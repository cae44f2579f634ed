"""Linear attention: the softmax's kernel replaced by a product of features, so that the sums over keys can be kept.

y_t = (sum_s (q_t . k_s) v_s) / (sum_s q_t . k_s), where queries and keys are features already, none negative.

Causal, it is the sum of ops.retention without fading, over values with a one behind them, whose sum is the divisor.

Source: Katharopoulos et al. 2020 (2006.16236) sections 3.2 to 3.4. Legend: N rows, L length, H heads, K features, V
value width.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from jogak.ops import retention
from jogak.ops._exact import exact

EPS = 1e-6  # added to the divisor, which is zero where no feature of query and keys is shared


def _elu(x: Tensor) -> Tensor:
    return F.elu(x) + 1


# elu: Katharopoulos et al. 2020, equation 7. softmax over the features: Shen et al. 2018 (1812.01243) section 3.3.
# relu is left out: where a query shares no feature with its few keys, the divisor is rounding and so is the gradient.
FEATURES: dict[str, Callable[[Tensor], Tensor]] = {"elu": _elu, "softmax": partial(torch.softmax, dim=-1)}


def reference(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, starts: Tensor | None = None, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The equation in float64, the sums written out place by place: see `causal`."""
    sums, norm, outputs = state[..., :-1].double(), state[..., -1].double(), []
    for t in range(q.shape[1]):
        if starts is not None:
            begins = starts[:, t].view(-1, 1, 1)
            sums, norm = sums.masked_fill(begins.unsqueeze(3), 0), norm.masked_fill(begins, 0)
        query, key, value = q[:, t].double(), k[:, t].double(), v[:, t].double()
        if lengths is not None:
            query, key, value = (x.masked_fill((t >= lengths).view(-1, 1, 1), 0) for x in (query, key, value))
        sums, norm = sums + torch.einsum("nhk,nhv->nhkv", key, value), norm + key
        outputs.append(torch.einsum("nhk,nhkv->nhv", query, sums) / ((query * norm).sum(2, keepdim=True) + EPS))
    return torch.stack(outputs, 1).to(q.dtype), torch.cat([sums, norm.unsqueeze(3)], 3).to(state.dtype)


def _causal(
    form: retention.Form,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    starts: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """q, k [N L H K], v [N L H V], state [N H K V+1], the divisor's sums last -> y [N L H V], the state after.

    starts, lengths: as in ops.retention.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    sums, after = form(q.to(wide), k, F.pad(v, (0, 1), value=1.0), None, state, starts, lengths)
    return (sums[..., :-1] / (sums[..., -1:] + EPS)).to(q.dtype), after


def full(q: Tensor, k: Tensor, v: Tensor, real: Tensor | None = None) -> Tensor:
    """Every place sees all of its row: q, k [N L H K], v [N L H V], real bool [N L] -> [N L H V]."""
    wide = torch.promote_types(q.dtype, torch.float32)
    if real is not None:
        k, v = (x.masked_fill(~real.unsqueeze(2).unsqueeze(3), 0) for x in (k, v))
    with exact(q.device):
        key = k.to(wide).permute(0, 2, 3, 1)
        sums = key @ v.to(wide).transpose(1, 2)  # [N H K V]
        query = q.to(wide).transpose(1, 2)
        y = query @ sums / (query @ key.sum(3, keepdim=True) + EPS)
    return y.transpose(1, 2).to(q.dtype)


FORMS = {
    "reference": reference,
    **{name: partial(_causal, form) for name, form in retention.FORMS.items() if name != "reference"},
}
