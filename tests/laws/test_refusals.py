"""What does not fit is refused before anything is computed, in one sentence that says what and how to mend it."""

from collections.abc import Callable

import pytest
import torch

from jogak.errors import UserError
from jogak.mixers import Context, Mixer, State
from tests.laws.forms import Form, cross, looks_back, over, splits
from tests.laws.support import BATCH, DEVICE, MEMORY, WIDTH, cut, inputs, noise


def refused(call: Callable[[], object], *words: str) -> None:
    """Fail unless `call` raises UserError with one sentence in which the words stand."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message, f"not one line: {message!r}"
    assert len(message) > 20, f"says too little: {message!r}"
    for word in words:
        assert word in message, f"'{word}' is not in {message!r}"


@over()
def test_wrong_width_is_refused(form: Form) -> None:
    mixer = form.build()
    _, context = inputs(form.cross, 4)
    for x in (noise(BATCH, 4, WIDTH + 1, seed=0), noise(BATCH, WIDTH, seed=0), noise(1, BATCH, 4, WIDTH, seed=0)):
        refused(lambda x=x: mixer(x, None, context), str(WIDTH))


@over()
def test_no_positions_are_refused(form: Form) -> None:
    _, context = inputs(form.cross, 4)
    refused(lambda: form.build()(noise(BATCH, 0, WIDTH, seed=0), None, context), "position")


@over()
@pytest.mark.parametrize("field", ["mask", "positions", "segments"])
def test_a_context_of_another_shape_is_refused(form: Form, field: str) -> None:
    mixer = form.build()
    x, context = inputs(form.cross, 4)
    dtype = torch.bool if field == "mask" else torch.long
    for shape in ((BATCH, 5), (BATCH + 1, 4), (4,), (BATCH, 4, 1)):
        wrong = Context(memory=context.memory, **{field: torch.ones(shape, dtype=dtype, device=DEVICE)})
        refused(lambda wrong=wrong: mixer(x, None, wrong), field)


@over()
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64], ids=["float", "int"])
def test_a_mask_that_is_not_bool_is_refused(form: Form, dtype: torch.dtype) -> None:
    """A mask of 0 and 1, or one to be added to scores, would be understood wrongly in silence."""
    x, context = inputs(form.cross, 4)
    wrong = Context(mask=torch.ones(BATCH, 4, dtype=dtype, device=DEVICE), memory=context.memory)
    refused(lambda: form.build()(x, None, wrong), "mask", "bool")


@over()
@pytest.mark.parametrize("field", ["positions", "segments"])
def test_numbers_that_are_not_whole_are_refused(form: Form, field: str) -> None:
    x, context = inputs(form.cross, 4)
    wrong = Context(memory=context.memory, **{field: torch.ones(BATCH, 4, device=DEVICE)})
    refused(lambda: form.build()(x, None, wrong), field)


def _after_four(form: Form) -> tuple[Mixer, State]:
    mixer = form.build()
    x, context = inputs(form.cross, 4)
    with torch.no_grad():
        return mixer, mixer(x, None, context)[1]


@over(splits)
def test_the_state_of_another_mixer_is_refused(form: Form) -> None:
    mixer, state = _after_four(form)
    x, context = inputs(form.cross, 2)
    foreign = State(state, seen=4, owner="Stranger")
    refused(lambda: mixer(x, foreign, cut(context, 4, 6)), "Stranger")


@over(splits)
def test_the_state_of_another_batch_is_refused(form: Form) -> None:
    mixer, state = _after_four(form)
    refused(lambda: mixer(noise(BATCH + 1, 2, WIDTH, seed=0), state), str(BATCH))


@over(looks_back)
def test_the_state_of_another_dtype_is_refused(form: Form) -> None:
    mixer, state = _after_four(form)
    double = state.map(lambda t: t.double() if t.is_floating_point() else t)
    refused(lambda: mixer(noise(BATCH, 2, WIDTH, seed=0), double), "float64")


@over(cross)
def test_no_memory_is_refused(form: Form) -> None:
    mixer = form.build()
    x, _ = inputs(form.cross, 4)
    refused(lambda: mixer(x), "memory")
    refused(lambda: mixer(x, mixer.init_state(BATCH, device=DEVICE, dtype=x.dtype)), "memory")


@over(cross)
def test_a_memory_that_does_not_fit_is_refused(form: Form) -> None:
    """Another width, a number of rows that does not divide the batch, no length at all."""
    mixer = form.build()
    x, _ = inputs(form.cross, 4)
    for shape in ((BATCH, MEMORY, WIDTH + 1), (2, MEMORY, WIDTH), (2 * BATCH, MEMORY, WIDTH), (MEMORY, WIDTH)):
        refused(lambda shape=shape: mixer(x, None, Context(memory=noise(*shape, seed=0))), "memory")


@over(cross)
def test_a_memory_mask_that_does_not_fit_is_refused(form: Form) -> None:
    mixer = form.build()
    x, context = inputs(form.cross, 4)
    for mask in (torch.ones(BATCH, MEMORY), torch.ones(BATCH, MEMORY + 1, dtype=torch.bool)):
        wrong = Context(memory=context.memory, memory_mask=mask.to(DEVICE))
        refused(lambda wrong=wrong: mixer(x, None, wrong), "mask")


@over(cross)
def test_memory_segments_that_do_not_fit_are_refused(form: Form) -> None:
    """Another shape, or documents on one side only."""
    mixer = form.build()
    x, context = inputs(form.cross, 4)
    ours = torch.ones(BATCH, 4, dtype=torch.long, device=DEVICE)
    theirs = torch.ones(BATCH, MEMORY, dtype=torch.long, device=DEVICE)
    memory = context.memory
    refused(lambda: mixer(x, None, Context(memory=memory, segments=ours, memory_segments=ours)), "segments")
    refused(lambda: mixer(x, None, Context(memory=memory, memory_segments=theirs)), "segments")
