"""The contract that every mixer keeps: `[B T D] -> [B T D]`, with a state that no call ever changes.

Legend: B batch, T time, D model width, M rows of memory, S length of memory.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from jogak.errors import UserError
from jogak.ops.quantised import Form

if TYPE_CHECKING:
    from jogak.layers.step import NormBefore


@dataclass(frozen=True, eq=False)
class Context:
    """What a mixer is told of the positions it is given; every field may be left out.

    mask: bool [B T], True = a real position. positions: int64 [B T]; where not given, real positions are counted,
    so that padding changes nothing. segments: int64 [B T], the same number = the same packed document; documents
    are contiguous and padding lies between them. memory: [M S D], what a cross-mixer reads, with B a multiple of
    M (row b reads memory row b // (B / M)); memory_mask: bool [M S]; memory_segments: int64 [M S], matched
    against `segments`.
    """

    mask: Tensor | None = None
    positions: Tensor | None = None
    segments: Tensor | None = None
    memory: Tensor | None = None
    memory_mask: Tensor | None = None
    memory_segments: Tensor | None = None


EMPTY = Context()
ROOM = 8  # positions that a reordered buffer can grow by


class _Buffer:
    """Memory that several states share: each reads a prefix of it, and only the longest may write behind its end."""

    __slots__ = ("filled", "flat", "storage")

    def __init__(self, storage: Tensor, filled: int) -> None:
        self.storage = storage
        self.filled = filled
        self.flat: Any | None = None  # an array of NumPy's over it, once someone wants it


class State(Mapping[str, Tensor]):
    """What a mixer carries from one call to the next: an immutable mapping of name to tensor, batch first.

    seen: how many positions (padding included) have gone by. owner: the mixer's class, so that a state given to
    another mixer is refused.
    """

    __slots__ = ("_buffers", "_ends", "_tensors", "owner", "seen")

    def __init__(self, tensors: Mapping[str, Tensor], *, seen: int = 0, owner: str = "") -> None:
        self._tensors = dict(tensors)
        self._buffers: dict[str, _Buffer] = {}
        self._ends: dict[str, int] = {}
        self.seen = seen
        self.owner = owner

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def nbytes(self) -> int:
        """Bytes that the state's tensors say something with; room kept for growth does not count."""
        return sum(t.numel() * t.element_size() for t in self._tensors.values())

    def reorder(self, index: Tensor) -> "State":
        """The state of the batch `x[index]`, where this is the state of `x`; index: int64 [B'].

        A growing buffer is copied into one with some room, so that the next append needs no second copy.
        """
        result = self.map(lambda t: t)
        for name, tensor in self._tensors.items():
            if name not in self._buffers or tensor.requires_grad or torch.compiler.is_compiling():
                result._tensors[name] = tensor.index_select(0, index)
                continue
            length = tensor.shape[1]
            storage = tensor.new_empty(len(index), length + ROOM, *tensor.shape[2:])
            torch.index_select(tensor, 0, index, out=storage[:, :length])
            result._tensors[name] = storage[:, :length]
            result._buffers[name], result._ends[name] = _Buffer(storage, length), length
        return result

    def map(self, change: Callable[[Tensor], Tensor]) -> "State":
        """The same state with `change` applied to each tensor (`.to(device)`, `.detach()`, ...)."""
        return State({n: change(t) for n, t in self._tensors.items()}, seen=self.seen, owner=self.owner)

    def append(self, seen: int, **new: Tensor) -> "State":
        """This state with `new` (each [B n ...]) joined to the tensors of the same names along time.

        Needs no copy in the common case: the tensors are views of a buffer with room to grow. This state still
        reads its own prefix afterwards; when another state has already written behind that prefix, the prefix is
        copied first. Under autograd the tensors are concatenated, since a buffer that is written again cannot be
        differentiated. Tensors that are not named in `new` are kept.
        """
        result = State(self._tensors, seen=seen, owner=self.owner)
        for name, fresh in new.items():
            old = self._tensors.get(name)
            if old is None or old.shape[1] == 0:
                result._tensors[name] = fresh
            elif torch.compiler.is_compiling() or (
                torch.is_grad_enabled() and (fresh.requires_grad or old.requires_grad)
            ):
                result._tensors[name] = torch.cat([old, fresh], dim=1)
            else:
                buffer, end = result._grow(self, name, fresh.shape[1])
                buffer.storage[:, end - fresh.shape[1] : end] = fresh
        return result

    def extend(self, seen: int, count: int, *names: str) -> "State":
        """This state with `count` places more at the end of the tensors `names` ([B n ...]), for the caller to fill.

        As `append` does it, for what needs no gradient; see `memory` for where the places are.
        """
        result = State(self._tensors, seen=seen, owner=self.owner)
        for name in names:
            result._grow(self, name, count)
        return result

    def memory(self, name: str) -> tuple[Any, int, int]:
        """The buffer [B N ...] that a tensor [B n ...] which has grown is a view of: NumPy's flat array over it, N, and
        the place where the tensor begins."""
        buffer = self._buffers[name]
        if buffer.flat is None:
            buffer.flat = buffer.storage.view(-1).numpy()
        return buffer.flat, buffer.storage.shape[1], self._ends[name] - self._tensors[name].shape[1]

    def put(self, **tensors: Tensor) -> "State":
        """The same state with `tensors` ([B ...], of any length) added or in place of those of the same names."""
        result = State({**self._tensors, **tensors}, seen=self.seen, owner=self.owner)
        result._buffers = {n: b for n, b in self._buffers.items() if n not in tensors}
        result._ends = self._ends
        return result

    def last(self, count: int, *names: str) -> "State":
        """The same state with only the last `count` places of the tensors `names` ([B n ...]).

        They stay views of a buffer that is not much larger; otherwise they are copied, so that what is forgotten
        is freed.
        """
        result = State(self._tensors, seen=self.seen, owner=self.owner)
        result._buffers, result._ends = dict(self._buffers), self._ends
        for name in names:
            tensor = self._tensors[name]
            kept = tensor[:, max(0, tensor.shape[1] - count) :]
            buffer = self._buffers.get(name)
            if buffer is None or buffer.storage.shape[1] > 4 * (count + 8):
                kept = kept.clone()
                result._buffers.pop(name, None)
            result._tensors[name] = kept
        return result

    def _grow(self, before: "State", name: str, count: int) -> tuple[_Buffer, int]:
        """Give this state what `before` has of a tensor, with `count` places more; where it lies, and its end there."""
        old, buffer, end = before._tensors[name], before._buffers.get(name), before._ends.get(name, 0)
        reusable = (
            buffer is not None
            and buffer.filled == end
            and end + count <= buffer.storage.shape[1]
            and (not buffer.storage.is_inference() or torch.is_inference_mode_enabled())
        )
        if buffer is None or not reusable:
            length = old.shape[1]
            storage = old.new_empty(old.shape[0], max(32, 2 * (length + count)), *old.shape[2:])
            storage[:, :length] = old
            buffer, end = _Buffer(storage, length), length
        self._tensors[name] = buffer.storage[:, end - old.shape[1] : end + count]
        self._buffers[name], self._ends[name], buffer.filled = buffer, end + count, end + count
        return buffer, end + count

    def __repr__(self) -> str:
        inside = ", ".join(f"{n} {list(t.shape)}" for n, t in self._tensors.items())
        return f"State({self.owner}, seen {self.seen}: {inside})"


def _flatten(state: State) -> tuple[list[Tensor], tuple[tuple[str, ...], int, str]]:
    return list(state.values()), (tuple(state), state.seen, state.owner)


def _unflatten(tensors: Any, extra: tuple[tuple[str, ...], int, str]) -> State:  # noqa: ANN401
    names, seen, owner = extra
    return State(dict(zip(names, tensors, strict=True)), seen=seen, owner=owner)


def _flatten_with_keys(state: State) -> tuple[list[tuple[Any, Tensor]], tuple[tuple[str, ...], int, str]]:
    tensors, extra = _flatten(state)
    return [(_pytree.MappingKey(n), t) for n, t in zip(state, tensors, strict=True)], extra


# torch.export and torch.compile see a state as the tensors it holds.
_pytree.register_pytree_node(
    State,
    _flatten,
    _unflatten,
    serialized_type_name="jogak.State",
    flatten_with_keys_fn=_flatten_with_keys,
)


class InOne(Protocol):
    """A mixer's step of decoding in one compiled loop, with the norm before it and the addition behind it."""

    @property
    def kind(self) -> Form:
        """What the matrices are kept in."""
        ...

    @property
    def width(self) -> int: ...

    def serves(self, x: Tensor, state: State) -> bool:
        """Whether the loop can go on from the state with x [B 1 D], of which nothing is told."""
        ...

    def __call__(self, y: Tensor, state: State) -> State:
        """Add mixer(norm(y)) to y [B 1 D], and give the state after it."""
        ...


class Mixer(nn.Module):
    """Moves information between positions: x [B T D] -> y [B T D].

    What holds for every mixer (tests/laws): a sequence may be split anywhere; padded places never matter and give
    zeros; packed documents do not see each other; a call never changes the state that it was given.
    """

    causal_only: ClassVar[bool] = False  # cannot look ahead; an encoder wraps it in Bidirectional
    supports_cross: ClassVar[bool] = False  # reads context.memory
    wide: ClassVar[frozenset[str]] = frozenset()  # of the state: kept in float32 where x is narrower
    undecayed: ClassVar[frozenset[str]] = frozenset()  # own parameters, matrices too, that weight decay leaves alone

    def __init__(self, d_model: int) -> None:
        super().__init__()
        if d_model < 1:
            raise UserError(f"{type(self).__name__}: d_model must be at least 1, got {d_model}")
        self.d_model = d_model

    @property
    def causal(self) -> bool:
        """Whether no output depends on a later input."""
        return self.causal_only

    @property
    def state_grows(self) -> bool:
        """Whether the state takes O(T) bytes (True) or O(1) (False)."""
        raise NotImplementedError

    def in_a_row(self, longest: int) -> bool:
        """Whether training on a CPU is as fast where documents of at most so many places lie in one row.

        Then nothing need be computed for padding.
        """
        return False

    def init_state(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """The state before the first position."""
        raise NotImplementedError

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        """All positions of x [B T D] at once, after those that `state` has seen."""
        raise NotImplementedError

    def step(self, x: Tensor, state: State, context: Context = EMPTY) -> tuple[Tensor, State]:
        """One position, x [B 1 D]; may be faster than forward, never different."""
        return self.forward(x, state, context)

    def in_one(self, norm: "NormBefore") -> InOne | None:
        """The step with the norm before it in one compiled loop; None: there is none, or not for these options."""
        return None

    def check(self, x: Tensor, state: State | None, context: Context) -> None:
        """Refuse what does not fit, in one sentence.

        Raises: UserError.
        """
        name = type(self).__name__
        if x.dim() != 3 or x.shape[2] != self.d_model:
            raise UserError(f"{name}: x must be [batch, time, {self.d_model}], got {list(x.shape)}")
        if x.shape[1] == 0:
            raise UserError(f"{name}: x has no positions; give at least one")
        for field in ("mask", "positions", "segments"):
            tensor: Tensor | None = getattr(context, field)
            if tensor is not None and tensor.shape != x.shape[:2]:
                raise UserError(f"{name}: context.{field} must be {list(x.shape[:2])}, got {list(tensor.shape)}")
        if context.mask is not None and context.mask.dtype != torch.bool:
            raise UserError(f"{name}: context.mask must be bool (True = a real position), got {context.mask.dtype}")
        for field in ("positions", "segments"):
            tensor = getattr(context, field)
            if tensor is not None and not is_whole(tensor):
                raise UserError(f"{name}: context.{field} must be whole numbers (int64), got {tensor.dtype}")
        if state is None:
            return
        if state.owner != name:
            raise UserError(f"{name}: the state belongs to {state.owner or 'no mixer'}; start from init_state()")
        self.check_state(x, state)

    def check_memory(self, x: Tensor, context: Context, d_memory: int) -> Tensor:
        """context.memory [M S d_memory], where it and what belongs to it fit x; what a cross-mixer reads first.

        Raises: UserError.
        """
        name, memory = type(self).__name__, context.memory
        if memory is None:
            raise UserError(f"{name}: there is no memory to read; give context.memory at the first call")
        fits = memory.dim() == 3 and memory.shape[2] == d_memory and 0 not in memory.shape
        if not fits or x.shape[0] % memory.shape[0]:
            raise UserError(
                f"{name}: memory must be [rows, length, {d_memory}], at least 1 long, with a number of rows that "
                f"divides {x.shape[0]}, got {list(memory.shape)}"
            )
        shape, mask, segments = memory.shape[:2], context.memory_mask, context.memory_segments
        if mask is not None and (mask.shape != shape or mask.dtype != torch.bool):
            raise UserError(
                f"{name}: memory_mask must be bool {list(shape)} (True = a real position), "
                f"got {mask.dtype} {list(mask.shape)}"
            )
        if segments is not None and (segments.shape != shape or not is_whole(segments)):
            raise UserError(
                f"{name}: memory_segments must be int64 {list(shape)}, got {segments.dtype} {list(segments.shape)}"
            )
        return memory

    def check_state(self, x: Tensor, state: State) -> None:
        """Refuse a state of another batch size or dtype; tensors of whole numbers have no say in dtype.

        What a recurrence adds to many times (`wide`) is float32 at least, whatever x is.
        """
        name = type(self).__name__
        for key, tensor in state.items():
            if tensor.shape[0] != x.shape[0]:
                raise UserError(
                    f"{name}: the state's '{key}' holds {tensor.shape[0]} rows and x has {x.shape[0]}; "
                    "use state.reorder or init_state for this batch"
                )
            wanted = torch.promote_types(x.dtype, torch.float32) if key in self.wide else x.dtype
            if tensor.is_floating_point() and tensor.dtype != wanted and not torch.is_autocast_enabled(x.device.type):
                raise UserError(
                    f"{name}: the state's '{key}' is {tensor.dtype} and x is {x.dtype}; start from init_state with "
                    "x's dtype"
                )


def is_whole(tensor: Tensor) -> bool:
    """Whether it holds whole numbers."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def silence(x: Tensor, mask: Tensor | None) -> Tensor:
    """x [B T D] with zeros in padded places, whatever was there, NaN too."""
    return x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0)
