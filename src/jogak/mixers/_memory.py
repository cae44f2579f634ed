"""What cross-mixers share: the memory read once and kept in the state, and rows of x that share a row of it.

Legend: B batch, T time, D model width, M rows of memory (B a multiple of M), S length of memory.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from jogak.errors import UserError
from jogak.mixers.contract import Context, Mixer, State, silence
from jogak.ops.attention import Visible


def read(
    mixer: Mixer,
    x: Tensor,
    state: State | None,
    context: Context,
    d_memory: int,
    project: Callable[[Tensor], Mapping[str, Tensor]],
) -> State:
    """The state after x [B T D], with what `project` makes of the memory [M S d_memory] in it.

    The first call makes it, `k` among it, later ones find it; project is given zeros in padded places.
    """
    owner, seen = type(mixer).__name__, x.shape[1] + (state.seen if state is not None else 0)
    if state is not None and "k" in state:
        return State(state, seen=seen, owner=owner)
    memory, mask = mixer.check_memory(x, context, d_memory), context.memory_mask
    held = dict(project(silence(memory, mask)))
    if mask is not None:
        held["mask"] = mask
    if context.memory_segments is not None:
        held["segments"] = context.memory_segments
    return State(held, seen=seen, owner=owner)


def visible(mixer: Mixer, x: Tensor, state: State, context: Context) -> Visible:
    """What the queries may see once those that share a row of memory stand in one row: [M (B/M * T)].

    Raises: UserError where only the memory has segments.
    """
    rows, length = state["k"].shape[:2]
    theirs, mine = state.get("segments"), context.segments
    if theirs is not None and mine is None:
        name = type(mixer).__name__
        raise UserError(f"{name}: the memory has segments and x has none; give context.segments")
    mine = None if theirs is None or mine is None else mine.reshape(rows, -1)
    queries = x.shape[0] // rows * x.shape[1]
    return Visible(queries, length, mask=state.get("mask"), q_segments=mine, k_segments=theirs)


def per_row(weights: Tensor, x: Tensor, rows: slice) -> Tensor:
    """weights [M H (B/M * T) S] of queries that stood in rows of memory, each in its row of x: [B H t S]."""
    return weights.unflatten(2, (-1, x.shape[1])).transpose(1, 2).flatten(0, 1)[:, :, rows]


def check_rows(mixer: Mixer, x: Tensor, state: State) -> None:
    """Refuse a state whose rows of memory do not divide the rows of x.

    Raises: UserError.
    """
    if "k" in state and x.shape[0] % max(1, state["k"].shape[0]):
        raise UserError(
            f"{type(mixer).__name__}: x has {x.shape[0]} rows, which is no multiple of the {state['k'].shape[0]} rows "
            "of memory in the state"
        )
