"""Law 9, first half. bfloat16 stays near float32, from the same rounded parameters and inputs."""

from dataclasses import replace

import torch

from jogak.mixers import Context
from tests.laws.forms import Form, over, splits
from tests.laws.support import BATCH, DEVICE, close, close_all, inputs, run, silent_run, split_at, step_by_step

NEAR = 0.03  # bfloat16 keeps 8 bits: 0.4% an operation


def _rounded(context: Context, dtype: torch.dtype) -> Context:
    return context if context.memory is None else replace(context, memory=context.memory.bfloat16().to(dtype))


@over()
def test_bfloat16_stays_near_float32(form: Form) -> None:
    """Outputs and gradients, over enough positions for sums to drift."""
    low = form.build(dtype=torch.bfloat16)
    high = form.build(dtype=torch.bfloat16).float()
    x, context = inputs(form.cross, 260)
    x = x.bfloat16()
    actual = run(low, x, _rounded(context, torch.bfloat16))
    expected = run(high, x.float(), _rounded(context, torch.float32))
    assert actual.y.dtype == torch.bfloat16, f"{form.name}: bfloat16 in, {actual.y.dtype} out"
    close(actual.y, expected.y, f"{form.name}: output", tolerance=NEAR)
    close_all(actual.gradients, expected.gradients, f"{form.name}: gradient", tolerance=2 * NEAR)


@over(splits)
def test_bfloat16_in_pieces_stays_near_float32(form: Form) -> None:
    """Rounding the state between calls does not add up."""
    low = form.build(dtype=torch.bfloat16)
    high = form.build(dtype=torch.bfloat16).float()
    x, context = inputs(form.cross, 130)
    x = x.bfloat16()
    expected = silent_run(high, x.float(), _rounded(context, torch.float32))
    for way in (split_at(50, 51), step_by_step):
        actual = silent_run(low, x, _rounded(context, torch.bfloat16), way)
        close(actual.y, expected.y, f"{form.name}: output", tolerance=NEAR)


@over()
def test_autocast_stays_near_float32(form: Form) -> None:
    """Training in bfloat16 autocast: parameters and their gradients stay float32."""
    mixer = form.build()
    x, context = inputs(form.cross, 65)
    expected = run(mixer, x, context)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        actual = run(mixer, x, context)
    close(actual.y, expected.y, f"{form.name}: output", tolerance=NEAR)
    close_all(actual.gradients, expected.gradients, f"{form.name}: gradient", tolerance=2 * NEAR)
    assert all(g.dtype == torch.float32 for g in actual.gradients.values())


@over(splits)
def test_autocast_in_pieces_stays_near_float32(form: Form) -> None:
    mixer = form.build()
    x, context = inputs(form.cross, 24)
    expected = silent_run(mixer, x, context)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        for way in (split_at(10, 11), step_by_step):
            close(silent_run(mixer, x, context, way).y, expected.y, f"{form.name}: output", tolerance=NEAR)


@over(splits)
def test_the_state_is_of_the_dtype_that_was_asked_for(form: Form) -> None:
    mixer = form.build(dtype=torch.bfloat16)
    x, context = inputs(form.cross, 5)
    state = mixer.init_state(BATCH, device=DEVICE, dtype=torch.bfloat16)
    _, after = mixer(x.bfloat16(), state, _rounded(context, torch.bfloat16))
    for held in (state, after):
        kinds = {tensor.dtype for tensor in held.values() if tensor.is_floating_point()}
        assert kinds <= {torch.bfloat16, torch.float32}, f"{form.name}: a bfloat16 state holds {kinds}"
