"""What the laws share: seeded inputs, ways of running a mixer, and comparison relative to the largest entry.

Legend: B batch, T time, D width, S length of memory.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from jogak.mixers import Context, Mixer, State

DEVICE = torch.device(os.environ.get("JOGAK_TEST_DEVICE", "cpu"))
WIDTH = 32
BATCH = 3
MEMORY = 9
TOLERANCE = 2e-5  # of the largest entry, in float32; the design allows 1e-4


def noise(*shape: int, seed: int, device: torch.device | str = DEVICE) -> Tensor:
    """Standard normal numbers, the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


# ---------------------------------------------------------------- comparison


def close(actual: Tensor, expected: Tensor, what: str, *, tolerance: float = TOLERANCE, scale: float = 0.0) -> None:
    """Fail unless `actual` is near `expected`, relative to the largest entry of `expected` (or `scale` if larger)."""
    assert actual.shape == expected.shape, f"{what}: shape {list(actual.shape)}, not {list(expected.shape)}"
    if expected.numel() == 0:
        return
    if not expected.is_floating_point():
        assert torch.equal(actual, expected), f"{what}: whole numbers differ"
        return
    actual, expected = actual.double(), expected.double()
    assert expected.isfinite().all(), f"{what}: what is expected is not finite"
    assert actual.isfinite().all(), f"{what}: {int((~actual.isfinite()).sum())} entries are not finite"
    error = float((actual - expected).abs().max())
    limit = tolerance * max(float(expected.abs().max()), scale)
    assert error <= limit, f"{what}: differs by {error:.3g}, allowed {limit:.3g}"


def same_bits(actual: Tensor, expected: Tensor, what: str) -> None:
    """Fail unless two tensors are equal bit for bit (NaN equals NaN)."""
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype}, not {expected.dtype}"
    assert actual.shape == expected.shape, f"{what}: shape {list(actual.shape)}, not {list(expected.shape)}"
    unequal = (actual != expected) & ~((actual != actual) & (expected != expected))  # noqa: PLR0124 (finds NaN)
    assert not unequal.any(), f"{what}: {int(unequal.sum())} entries changed"


def close_all(
    actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str, *, tolerance: float = TOLERANCE
) -> None:
    """`close` for gradients by name, each relative to its own largest entry.

    A gradient that is zero by mathematics (a key's bias under softmax) is noise with no scale of its own, so a
    twentieth of the largest gradient of all is the smallest scale.
    """
    assert actual.keys() == expected.keys(), f"{what}: {sorted(actual)}, not {sorted(expected)}"
    largest = max((float(t.abs().max()) for t in expected.values() if t.numel()), default=0.0)
    for name, tensor in expected.items():
        close(actual[name], tensor, f"{what} of {name}", tolerance=tolerance, scale=0.05 * largest)


def states_agree(actual: State, expected: State, what: str) -> None:
    """Two states that have seen the same hold the same, whatever way they came to it."""
    assert actual.seen == expected.seen, f"{what}: has seen {actual.seen}, not {expected.seen}"
    assert actual.owner == expected.owner, f"{what}: belongs to {actual.owner}, not {expected.owner}"
    assert set(actual) == set(expected), f"{what}: holds {sorted(actual)}, not {sorted(expected)}"
    for name in expected:
        assert actual[name].dtype == expected[name].dtype, f"{what} '{name}': {actual[name].dtype}"
        close(actual[name], expected[name], f"{what} '{name}'")


# ---------------------------------------------------------------- inputs and ways of running


def inputs(cross: bool, length: int, *, batch: int = BATCH, seed: int = 0) -> tuple[Tensor, Context]:
    """x [B T D] and, for a cross-mixer, a memory [B S D] whose rows end at different places."""
    x = noise(batch, length, WIDTH, seed=seed)
    if not cross:
        return x, Context()
    ends = MEMORY - torch.arange(batch, device=DEVICE) % 3
    mask = torch.arange(MEMORY, device=DEVICE) < ends[:, None]
    return x, Context(memory=noise(batch, MEMORY, WIDTH, seed=seed + 1), memory_mask=mask)


def cut(context: Context, start: int, stop: int) -> Context:
    """The context of positions start to stop; only the first piece is given the memory."""

    def piece(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[:, start:stop]

    part = replace(
        context, mask=piece(context.mask), positions=piece(context.positions), segments=piece(context.segments)
    )
    return part if start == 0 else replace(part, memory=None, memory_mask=None, memory_segments=None)


Way = Callable[[Mixer, Tensor, Context], tuple[Tensor, State]]


def whole(mixer: Mixer, x: Tensor, context: Context) -> tuple[Tensor, State]:
    """All positions in one call."""
    return mixer(x, None, context)


def split_at(*places: int) -> Way:
    """Calls for the pieces between `places`, each given the state that the one before it left."""

    def way(mixer: Mixer, x: Tensor, context: Context) -> tuple[Tensor, State]:
        ends = sorted({0, *(p for p in places if p < x.shape[1]), x.shape[1]})
        outputs, state = [], None
        for start, stop in pairwise(ends):
            y, state = mixer(x[:, start:stop], state, cut(context, start, stop))
            outputs.append(y)
        assert state is not None
        return torch.cat(outputs, dim=1), state

    return way


def split_randomly(seed: int, pieces: int = 5) -> Way:
    """Up to `pieces` calls, cut at random places."""

    def way(mixer: Mixer, x: Tensor, context: Context) -> tuple[Tensor, State]:
        generator = torch.Generator().manual_seed(seed)
        places = torch.randint(1, max(2, x.shape[1]), (pieces - 1,), generator=generator)
        return split_at(*places.tolist())(mixer, x, context)

    return way


def step_by_step(mixer: Mixer, x: Tensor, context: Context) -> tuple[Tensor, State]:
    """One position a call, from the empty state, through `step`."""
    state = mixer.init_state(x.shape[0], device=x.device, dtype=x.dtype)
    outputs = []
    for time in range(x.shape[1]):
        y, state = mixer.step(x[:, time : time + 1], state, cut(context, time, time + 1))
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


@dataclass
class Run:
    """What a mixer said, and the gradients of a weighted sum of it."""

    y: Tensor
    state: State
    gradients: dict[str, Tensor] = field(default_factory=dict)


def silent_run(mixer: Mixer, x: Tensor, context: Context, way: Way = whole) -> Run:
    """Without gradients, where caches may share memory."""
    with torch.no_grad():
        return Run(*way(mixer, x, context))


def run(mixer: Mixer, x: Tensor, context: Context, way: Way = whole, weight: Tensor | None = None) -> Run:
    """With gradients of sum(weight * y) for x, the memory and every parameter."""
    x = x.detach().clone().requires_grad_()
    named = {"x": x, **dict(mixer.named_parameters())}
    if context.memory is not None:
        named["memory"] = context.memory.detach().clone().requires_grad_()
        context = replace(context, memory=named["memory"])
    y, state = way(mixer, x, context)
    weight = noise(*y.shape, seed=77).to(y.dtype) if weight is None else weight
    found = torch.autograd.grad(y, list(named.values()), weight, allow_unused=True)
    gradients = {n: torch.zeros_like(t) if g is None else g for (n, t), g in zip(named.items(), found, strict=True)}
    return Run(y.detach(), state, gradients)


def runs_agree(actual: Run, expected: Run, what: str, *, states: bool = True, tolerance: float = TOLERANCE) -> None:
    """Outputs, final states and gradients are the same up to rounding."""
    close(actual.y, expected.y, f"{what}: output", tolerance=tolerance)
    if states:
        states_agree(actual.state, expected.state, f"{what}: state")
    close_all(actual.gradients, expected.gradients, f"{what}: gradient", tolerance=tolerance)


def copies(state: State) -> dict[str, Tensor]:
    """What the state holds now, in memory of its own."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def unchanged(state: State, before: Mapping[str, Tensor], what: str) -> None:
    """Fail if a call has changed the state that it was given."""
    assert set(state) == set(before), f"{what}: now holds {sorted(state)}, not {sorted(before)}"
    for name, tensor in before.items():
        same_bits(state[name], tensor, f"{what}: the given state's '{name}'")


# ---------------------------------------------------------------- documents in a layout

PAD = -1
Layout = Sequence[Sequence[tuple[int, int]]]  # rows of (document or PAD, how many positions)


@dataclass
class Documents:
    """Sequences of different lengths; for a cross-mixer each with a memory of its own."""

    x: list[Tensor]
    weights: list[Tensor]
    memories: list[Tensor]

    @classmethod
    def make(cls, lengths: Sequence[int], *, cross: bool, seed: int = 0) -> "Documents":
        seeds = range(seed, seed + 3 * len(lengths), 3)
        return cls(
            [noise(n, WIDTH, seed=s) for n, s in zip(lengths, seeds, strict=True)],
            [noise(n, WIDTH, seed=s + 1) for n, s in zip(lengths, seeds, strict=True)],
            [noise(MEMORY - i % 3, WIDTH, seed=s + 2) for i, s in enumerate(seeds)] if cross else [],
        )


@dataclass
class Read:
    """What each document got: outputs and gradients [n D], and the gradients of the parameters."""

    y: list[Tensor]
    x: list[Tensor]
    memories: list[Tensor]
    parameters: dict[str, Tensor]


def apart(mixer: Mixer, documents: Documents) -> Read:
    """Each document alone, unpadded; gradients of the parameters summed."""
    read = Read([], [], [], {})
    for i, (x, weight) in enumerate(zip(documents.x, documents.weights, strict=True)):
        memory = documents.memories[i][None] if documents.memories else None
        alone = run(mixer, x[None], Context(memory=memory), weight=weight[None])
        read.y.append(alone.y[0])
        read.x.append(alone.gradients.pop("x")[0])
        if memory is not None:
            read.memories.append(alone.gradients.pop("memory")[0])
        for name, gradient in alone.gradients.items():
            read.parameters[name] = read.parameters.get(name, 0) + gradient
    return read


def together(
    mixer: Mixer,
    documents: Documents,
    layout: Layout,
    *,
    labels: Sequence[int] | None = None,
    fill: float = 0.0,
    way: Way = whole,
) -> Read:
    """The documents laid out in rows of one batch; padded places hold `fill`, with weights that must not count.

    labels: the segment number of each document, for rows that hold several.
    """
    place = torch.tensor([[d for d, count in row for _ in range(count)] for row in layout], device=DEVICE)
    mask = place != PAD
    x = torch.full((*place.shape, WIDTH), fill, device=DEVICE)
    weight = 1000 * noise(*x.shape, seed=5)
    for i, (rows, weights) in enumerate(zip(documents.x, documents.weights, strict=True)):
        x[place == i], weight[place == i] = rows, weights
    context = Context(mask=mask if (~mask).any() else None)
    where = torch.empty(0)
    if documents.memories:
        where, memory = _lay_memories(documents.memories, layout, fill)
        context = replace(context, memory=memory, memory_mask=where != PAD)
    if labels is not None:
        numbers = torch.tensor([*labels, labels[0]], device=DEVICE)  # padded places repeat a number on purpose
        context = replace(context, segments=numbers[place])
        if documents.memories:
            context = replace(context, memory_segments=numbers[where])
    result = run(mixer, x, context, way, weight)
    assert (result.y[~mask] == 0).all(), "padded places do not say zero"
    assert (result.gradients["x"][~mask] == 0).all(), "padded places have a gradient"
    count = len(documents.x)
    memories = result.gradients.pop("memory", torch.empty(0))
    if documents.memories:
        assert (memories[where == PAD] == 0).all(), "padded memory has a gradient"
    given = result.gradients.pop("x")
    return Read(
        [result.y[place == i] for i in range(count)],
        [given[place == i] for i in range(count)],
        [memories[where == i] for i in range(count)] if documents.memories else [],
        result.gradients,
    )


def _lay_memories(memories: Sequence[Tensor], layout: Layout, fill: float) -> tuple[Tensor, Tensor]:
    """Which document each place of memory [B S] belongs to, and the memory [B S D]."""
    rows = [[d for d in dict(row) if d != PAD] for row in layout]
    longest = 2 + max(sum(len(memories[d]) for d in row) for row in rows)
    where = torch.full((len(rows), longest), PAD, device=DEVICE)
    memory = torch.full((len(rows), longest, WIDTH), fill, device=DEVICE)
    for b, row in enumerate(rows):
        end = 0
        for d in row:
            start, end = end, end + len(memories[d])
            where[b, start:end], memory[b, start:end] = d, memories[d]
    return where, memory


def reads_agree(actual: Read, expected: Read, what: str) -> None:
    """Every document got the same, forward and backward."""
    for i, (a, e) in enumerate(zip(actual.y, expected.y, strict=True)):
        close(a, e, f"{what}: output of document {i}")
    named = {f"x {i}": t for i, t in enumerate(expected.x)} | {
        f"memory {i}": t for i, t in enumerate(expected.memories)
    }
    got = {f"x {i}": t for i, t in enumerate(actual.x)} | {f"memory {i}": t for i, t in enumerate(actual.memories)}
    close_all(got, named, f"{what}: gradient")
    close_all(actual.parameters, expected.parameters, f"{what}: gradient")
