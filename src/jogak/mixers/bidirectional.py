"""An encoder of any causal mixer: the mixer run forwards, another of its kind run backwards, both heard.

Source: Schuster & Paliwal 1997. Legend: B batch, T time, D model width.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from jogak import registry
from jogak.errors import UserError
from jogak.layers.linear import Linear
from jogak.mixers.contract import EMPTY, Context, Mixer, State, silence


class Bidirectional(Mixer):
    """y = [forwards(x); reverse(backwards(reverse(x)))] W_o: [B T D] -> [B T D].

    inner: a mixer's name, or {name: ..., options}; what may be causal is built so. Both directions have weights of
    their own. They are joined by a projection of both, since not every mixer ends in one: their sum would tie
    channel i of the one to channel i of the other. Whole rows are reversed, documents and padding with them: every
    document then stands reversed among its neighbours, which it does not see. State: none, since it looks ahead.

    Raises: UserError for an inner mixer that is unknown or cannot be causal.
    """

    def __init__(self, d_model: int, inner: str | Mapping[str, object], *, bias: bool = True) -> None:
        super().__init__(d_model)
        self.forwards = _causal(inner, d_model)
        self.backwards = _causal(inner, d_model)
        self.out = Linear(2 * d_model, d_model, bias=bias)

    @property
    def state_grows(self) -> bool:
        return False

    def init_state(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        raise UserError("bidirectional: looks ahead, so it has no state; use the inner mixer where one is needed")

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        if state is not None:
            raise UserError("bidirectional: looks ahead, so its input cannot come in parts; give all of it at once")
        there, _ = self.forwards(x, None, context)
        back, _ = self.backwards(x.flip(1), None, _reversed(context))
        y = self.out(torch.cat([there, back.flip(1)], dim=-1))
        return silence(y, context.mask), State({}, seen=x.shape[1], owner="Bidirectional")


def _causal(inner: str | Mapping[str, object], d_model: int) -> Mixer:
    """The inner mixer, looking back only."""
    from jogak import mixers  # which finds this file by its name, and so cannot be imported before it

    options: dict[str, Any] = {"name": inner} if isinstance(inner, str) else dict(inner)
    name = options.pop("name", None)
    if not isinstance(name, str):
        known = ", ".join(registry.names("mixers"))
        raise UserError(f"bidirectional: inner must name a mixer, as in {{name: attention, heads: 4}}; known: {known}")
    if "causal" in options:
        raise UserError(f"bidirectional: inner '{name}' must not say 'causal'; being inside says it")
    if not mixers.kind(name).causal_only:
        if "causal" not in mixers.parameters(name):
            raise UserError(f"bidirectional: inner '{name}' looks both ways already; give a mixer that can be causal")
        options["causal"] = True
    return mixers.build(name, d_model=d_model, **options)


def _reversed(context: Context) -> Context:
    """The context of the positions in reverse order."""

    def flip(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.flip(1)

    positions = context.positions
    if positions is not None:  # counted from the other end, so that distances stay what they were
        positions = positions.amax(1, keepdim=True) - positions
    return replace(context, mask=flip(context.mask), positions=flip(positions), segments=flip(context.segments))


MIXER = Bidirectional
