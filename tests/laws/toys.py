"""Four small mixers that keep every law, to try the laws on; tests/laws/broken.py breaks them one by one."""

import torch
from torch import Tensor, nn

from jogak.errors import UserError
from jogak.mixers import EMPTY, Context, Mixer, State
from jogak.mixers.contract import silence
from tests.laws.support import WIDTH


def filled(x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
    """mask and segments [B T], where not given: all real, one document."""
    ones = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    mask = ones if context.mask is None else context.mask
    return mask, ones.long() if context.segments is None else context.segments


class DecayedSum(Mixer):
    """A gated sum that fades: h_t = d h_(t-1) + sigmoid(G x_t) * V x_t, y_t = O h_t; the state is h."""

    causal_only = True

    def __init__(self, d_model: int = WIDTH) -> None:
        super().__init__(d_model)
        self.value, self.gate, self.out = (nn.Linear(d_model, d_model) for _ in range(3))
        self.rate = nn.Parameter(torch.tensor(2.0))

    @property
    def state_grows(self) -> bool:
        return False

    def init_state(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        tensors = {
            "sum": torch.zeros(batch, self.d_model, device=device, dtype=dtype),
            "segment": torch.zeros(batch, dtype=torch.long, device=device),
        }
        return State(tensors, owner=type(self).__name__)

    def read(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return silence(x, mask)

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        state = self.init_state(x.shape[0], device=x.device, dtype=x.dtype) if state is None else state
        mask, segments = filled(x, context)
        x = self.read(x, context.mask)
        value = torch.sigmoid(self.gate(x)) * self.value(x)
        count = mask.long().cumsum(1)
        last = torch.where(mask, torch.arange(x.shape[1], device=x.device), -1).amax(1)
        ending = segments.gather(1, last.clamp(min=0)[:, None])[:, 0].where(last >= 0, state["segment"])
        # One more row than positions: what is left behind at the end, for the document that is open there.
        asked, at = torch.cat([segments, ending[:, None]], 1), torch.cat([count, count[:, -1:]], 1)
        order = torch.arange(x.shape[1] + 1, device=x.device)
        seen = (order[:, None] >= order[:-1]) & mask[:, None] & (asked[:, :, None] == segments[:, None])
        carried = self.decay(at)[..., None] * state["sum"][:, None]
        carried = carried * (asked == state["segment"][:, None])[..., None]
        faded = self.decay(at[:, :, None] - count[:, None]).masked_fill(~seen, 0)
        sums = faded @ value + carried
        held = {"sum": sums[:, -1].clone(), "segment": ending}
        new = State(held, seen=state.seen + x.shape[1], owner=state.owner)
        return silence(self.out(sums[:, :-1]), context.mask), new

    def decay(self, age: Tensor) -> Tensor:
        return torch.sigmoid(self.rate) ** age.clamp(min=0)


class CausalMean(Mixer):
    """The mean of what has been so far, kept whole: y_t = O mean(V x_s for s <= t); the state grows."""

    causal_only = True

    def __init__(self, d_model: int = WIDTH) -> None:
        super().__init__(d_model)
        self.value, self.out = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    @property
    def state_grows(self) -> bool:
        return True

    def init_state(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        tensors = {
            "value": torch.zeros(batch, 0, self.d_model, device=device, dtype=dtype),
            "segment": torch.zeros(batch, 0, dtype=torch.long, device=device),
            "mask": torch.zeros(batch, 0, dtype=torch.bool, device=device),
        }
        return State(tensors, owner=type(self).__name__)

    def append(self, state: State, value: Tensor, segment: Tensor, mask: Tensor) -> State:
        return state.append(state.seen + value.shape[1], value=value, segment=segment, mask=mask)

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        state = self.init_state(x.shape[0], device=x.device, dtype=x.dtype) if state is None else state
        mask, segments = filled(x, context)
        new = self.append(state, self.value(silence(x, context.mask)), segments, mask)
        past, length = state["value"].shape[1], x.shape[1]
        order = torch.arange(past + length, device=x.device)
        seen = (order[past:, None] >= order) & new["mask"][:, None] & (segments[:, :, None] == new["segment"][:, None])
        weights = seen.to(x.dtype) / seen.sum(-1, keepdim=True).clamp(min=1)
        return silence(self.out(weights @ new["value"]), context.mask), new


class WholeMean(CausalMean):
    """The mean of a whole document, which looks ahead and so must have it all at once."""

    causal_only = False

    @property
    def state_grows(self) -> bool:
        return False

    def init_state(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return State({}, owner=type(self).__name__)

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        if state is not None and state.seen:
            raise UserError(f"{type(self).__name__}: looks ahead, so it needs the whole sequence in one call")
        mask, segments = filled(x, context)
        seen = mask[:, None] & (segments[:, :, None] == segments[:, None])
        weights = seen.to(x.dtype) / seen.sum(-1, keepdim=True).clamp(min=1)
        y = silence(self.out(weights @ self.value(silence(x, context.mask))), context.mask)
        return y, State({}, seen=x.shape[1], owner=type(self).__name__)


class MemoryMean(Mixer):
    """A gated mean of the memory: y_t = (1 + tanh(Q x_t)) * mean(V m_s); the state is V m and where it is real."""

    causal_only = True
    supports_cross = True

    def __init__(self, d_model: int = WIDTH) -> None:
        super().__init__(d_model)
        self.query, self.value = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    @property
    def state_grows(self) -> bool:
        return False

    def init_state(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return State({}, owner=type(self).__name__)

    def row(self, batch: int, rows: int) -> Tensor:
        """Which row of memory each row of x reads."""
        return torch.arange(batch) // (batch // rows)

    def read(self, memory: Tensor, mask: Tensor | None) -> Tensor:
        return silence(memory, mask)

    def remember(self, x: Tensor, state: State | None, context: Context) -> State:
        memory = context.memory
        if state is not None and state.seen:
            return state
        if memory is None:
            raise UserError(f"{type(self).__name__}: there is no memory; give context.memory at the first call")
        if memory.dim() != 3 or memory.shape[2] != self.d_model or x.shape[0] % memory.shape[0]:
            raise UserError(f"{type(self).__name__}: memory {list(memory.shape)} does not fit x {list(x.shape)}")
        given = Context(context.memory_mask, None, context.memory_segments)
        self.check(memory, None, given)
        mask, segments = filled(memory, given)
        row = self.row(x.shape[0], memory.shape[0]).to(x.device)
        value = self.value(self.read(memory, context.memory_mask))
        return State({"value": value[row], "mask": mask[row], "segment": segments[row]}, owner=type(self).__name__)

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        kept = self.remember(x, state, context)
        seen = kept["mask"][:, None].expand(-1, x.shape[1], -1)
        if context.segments is not None:
            seen = seen & (context.segments[:, :, None] == kept["segment"][:, None])
        mean = self.mean(seen, kept["value"])
        y = silence((1 + torch.tanh(self.query(silence(x, context.mask)))) * mean, context.mask)
        return y, State(kept, seen=x.shape[1] + (state.seen if state is not None else 0), owner=kept.owner)

    def mean(self, seen: Tensor, value: Tensor) -> Tensor:
        return (seen.to(value.dtype) / seen.sum(-1, keepdim=True).clamp(min=1)) @ value
