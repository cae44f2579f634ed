"""One layer of a recurrent cell over padded and packed rows, with the weights that torch's own modules have.

Legend: B batch, T time, D input width, H hidden width, G gates.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from jogak.ops.documents import Documents
from jogak.ops.recurrent import GATES, Kind, fused


class Recurrence(nn.Module):
    """x [B T D] -> h of every place [B T H], by ops.recurrent.

    The weights are torch's (weight_ih, weight_hh, bias_ih, bias_hh, gates in its order), drawn anew: W uniform with
    variance 2 / (D + H) (Glorot & Bengio 2010), U orthogonal for each gate (Saxe et al. 2014), biases zero, but 1
    for the LSTM's forget gate, which then remembers at first (Gers et al. 2000; Jozefowicz et al. 2015).
    """

    def __init__(self, kind: Kind, width: int, hidden: int) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.hidden = hidden
        gates = GATES[kind]
        self.weight_ih = nn.Parameter(torch.empty(gates * hidden, width))
        self.weight_hh = nn.Parameter(torch.empty(gates * hidden, hidden))
        self.bias_ih = nn.Parameter(torch.zeros(gates * hidden))
        self.bias_hh = nn.Parameter(torch.zeros(gates * hidden))
        with torch.no_grad():
            for gate in self.weight_ih.chunk(gates):
                nn.init.xavier_uniform_(gate)
            for gate in self.weight_hh.chunk(gates):
                nn.init.orthogonal_(gate)
            if kind == "lstm":
                self.bias_ih[hidden : 2 * hidden] = 1

    def empty(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """What is held before the first place: h (and c) [B H] of zeros, and segment [B], the open document."""
        names = ("h", "c") if self.kind == "lstm" else ("h",)
        if self.kind == "rnn":
            dtype = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
        held = {name: torch.zeros(batch, self.hidden, device=device, dtype=dtype) for name in names}
        return {**held, "segment": torch.zeros(batch, device=device, dtype=torch.int64)}

    def forward(
        self, x: Tensor, held: Mapping[str, Tensor], mask: Tensor | None, segments: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """h of every place of x [B T D], zeros in padding, and what is held afterwards."""
        documents = Documents.apart((x.shape[0], x.shape[1]), mask, segments, held["segment"])
        names = [name for name in held if name != "segment"]
        if self.kind == "rnn":
            # No gate tames what rounding does to h, and each place passes it on: float32 inside, in autocast too.
            device = "cpu" if x.is_meta else x.device.type
            with torch.autocast(device, enabled=False):
                wide = torch.promote_types(x.dtype, torch.float32)
                y, *left = self._run(documents.take(x).to(wide), held, documents)
            y = y.to(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype)
        else:
            y, *left = self._run(documents.take(x), held, documents)
        # Cloned where it may be a view of all that was computed.
        after = {name: documents.end(tensor).clone() for name, tensor in zip(names, left, strict=True)}
        return documents.put(y), {**after, "segment": documents.segment.clone()}

    def _run(self, x: Tensor, held: Mapping[str, Tensor], documents: Documents) -> tuple[Tensor, ...]:
        """ops.recurrent on rows x [N L D], in the dtype of x."""
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        start = [documents.begin(held[name]).to(x.dtype) for name in ("h", "c") if name in held]
        h, c = start if len(start) == 2 else (*start, None)
        weight, recurrent, bias, recurrent_bias = (w.to(x.dtype) for w in weights)
        return fused(x, weight, recurrent, bias, recurrent_bias, h, c, documents.lengths, kind=self.kind)
