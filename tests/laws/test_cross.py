"""What cross-mixers owe besides: how they read the memory, share it, and keep it in the state."""

import math
from dataclasses import replace

import torch

from jogak.mixers import Context
from tests.laws.forms import Form, cross, over
from tests.laws.support import (
    BATCH,
    DEVICE,
    MEMORY,
    TOLERANCE,
    WIDTH,
    close,
    copies,
    inputs,
    noise,
    run,
    runs_agree,
    same_bits,
    silent_run,
    split_at,
    unchanged,
)


@over(cross)
def test_padded_memory_equals_shorter_memory(form: Form) -> None:
    """Left, right and in the middle, with NaN in it, forward and backward."""
    mixer = form.build()
    x, context = inputs(form.cross, 14)
    memory = context.memory
    expected = run(mixer, x, Context(memory=memory))
    for places in (slice(0, MEMORY), slice(4, 4 + MEMORY), [0, 2, 3, 5, 6, 7, 10, 11, 12]):
        mask = torch.zeros(BATCH, MEMORY + 4, dtype=torch.bool, device=DEVICE)
        mask[:, places] = True
        padded = torch.full((BATCH, MEMORY + 4, WIDTH), math.nan, device=DEVICE)
        padded[mask] = memory.flatten(0, 1)
        actual = run(mixer, x, Context(memory=padded, memory_mask=mask))
        found = actual.gradients["memory"]
        assert (found[~mask] == 0).all(), f"{form.name}: padded memory has a gradient"
        actual.gradients["memory"] = found[mask].view_as(memory)
        runs_agree(actual, expected, f"{form.name}: padded memory", states=False)


@over(cross)
def test_memory_without_a_real_place_says_nothing(form: Form) -> None:
    """Every query of such a row gets one and the same answer, finite, that nothing in the memory can change."""
    mixer = form.build()
    x, context = inputs(form.cross, 6)
    mask = torch.ones(BATCH, MEMORY, dtype=torch.bool, device=DEVICE)
    mask[1] = False
    memory = context.memory.clone()
    memory[1] = math.nan
    result = run(mixer, x, Context(memory=memory, memory_mask=mask))
    for name, gradient in {"output": result.y, **result.gradients}.items():
        assert gradient.isfinite().all(), f"{form.name}: {name} is not finite"
    nothing = result.y[1]
    assert (nothing == nothing[0]).all(), f"{form.name}: queries answer themselves"
    same_bits(nothing, silent_run(mixer, noise(1, 6, WIDTH, seed=5), _empty()).y[0], f"{form.name}: nothing to read")
    assert (result.gradients["x"][1] == 0).all(), f"{form.name}: queries of nothing have a gradient"
    assert (result.gradients["memory"][1] == 0).all(), f"{form.name}: padded memory has a gradient"
    others = torch.tensor([0, 2], device=DEVICE)
    expected = silent_run(mixer, x[others], Context(memory=memory[others]))
    close(result.y[others], expected.y, f"{form.name}: the rows beside it")


def _empty() -> Context:
    mask = torch.zeros(1, MEMORY, dtype=torch.bool, device=DEVICE)
    return Context(memory=noise(1, MEMORY, WIDTH, seed=6), memory_mask=mask)


@over(cross)
def test_groups_of_rows_share_a_row_of_memory(form: Form) -> None:
    """Row b reads memory row b // (B / M), whole and in pieces: the beams of a sentence, one memory."""
    mixer = form.build()
    _, context = inputs(form.cross, 1, batch=2)
    x = noise(6, 15, WIDTH, seed=3)
    apart = Context(
        memory=context.memory.repeat_interleave(3, 0), memory_mask=context.memory_mask.repeat_interleave(3, 0)
    )
    actual, expected = run(mixer, x, context), run(mixer, x, apart)
    summed = expected.gradients["memory"].unflatten(0, (2, 3)).sum(1)
    expected.gradients["memory"] = summed
    runs_agree(actual, expected, f"{form.name}: shared memory", states=False)
    pieces = silent_run(mixer, x, context, split_at(1, 2, 9))
    close(pieces.y, expected.y, f"{form.name}: shared memory in pieces")
    mask = torch.arange(15, device=DEVICE) >= torch.arange(6, device=DEVICE)[:, None]
    actual, expected = run(mixer, x, replace(context, mask=mask)), run(mixer, x, replace(apart, mask=mask))
    close(actual.y, expected.y, f"{form.name}: shared memory, padded queries")


@over(cross)
def test_groups_with_segments(form: Form) -> None:
    """Packed queries that share a packed memory."""
    mixer = form.build()
    x, memory = noise(4, 8, WIDTH, seed=3), noise(2, MEMORY, WIDTH, seed=4)
    segments = (torch.arange(8, device=DEVICE) >= torch.tensor([[3], [4], [5], [6]], device=DEVICE)).long()
    theirs = (torch.arange(MEMORY, device=DEVICE) >= torch.tensor([[2], [6]], device=DEVICE)).long()
    shared = Context(memory=memory, segments=segments, memory_segments=theirs)
    apart = Context(
        memory=memory.repeat_interleave(2, 0), segments=segments, memory_segments=theirs.repeat_interleave(2, 0)
    )
    close(silent_run(mixer, x, shared).y, silent_run(mixer, x, apart).y, f"{form.name}: packed groups")


@over(cross)
def test_the_state_holds_the_memory(form: Form) -> None:
    """Later calls need none, and one that is changed afterwards changes nothing."""
    mixer = form.build()
    x, context = inputs(form.cross, 10)
    expected = silent_run(mixer, x, context)
    memory = context.memory.clone()
    with torch.no_grad():
        _, state = mixer(x[:, :4], None, replace(context, memory=memory))
        kept = copies(state)
        memory.fill_(math.nan)
        y, _ = mixer(x[:, 4:], state)
        unchanged(state, kept, f"{form.name}: state")
    close(y, expected.y[:, 4:], f"{form.name}: memory from the state")


@over(cross)
def test_every_real_place_of_memory_counts(form: Form) -> None:
    """A cross-mixer reads: each real place of the memory changes what is said."""
    mixer = form.build()
    x, context = inputs(form.cross, 5)
    gradient = run(mixer, x, context).gradients["memory"]
    real = gradient.abs().amax(-1)[context.memory_mask]
    assert (real > TOLERANCE * gradient.abs().max()).all(), f"{form.name}: a place of memory is not read"
