"""Law 1. A sequence may be split anywhere: whole = chunks = step by step, and the final states agree."""

from dataclasses import replace

import torch

from tests.laws.forms import Form, over, splits
from tests.laws.support import (
    BATCH,
    DEVICE,
    inputs,
    run,
    runs_agree,
    same_bits,
    silent_run,
    split_at,
    split_randomly,
    step_by_step,
    whole,
)


@over(splits, lengths=True)
def test_whole_equals_chunks(form: Form, length: int) -> None:
    """Outputs, final state, and gradients through the carried state."""
    mixer = form.build()
    x, context = inputs(form.cross, length)
    expected = run(mixer, x, context)
    for seed in (1, 2):
        runs_agree(run(mixer, x, context, split_randomly(seed)), expected, f"{form.name} split by seed {seed}")


@over(splits, lengths=True, most=65)
def test_whole_equals_steps(form: Form, length: int) -> None:
    """One position a call, with gradients."""
    mixer = form.build()
    x, context = inputs(form.cross, length)
    runs_agree(run(mixer, x, context, step_by_step), run(mixer, x, context), f"{form.name} step by step")


@over(splits, lengths=True)
def test_whole_equals_chunks_and_steps_without_gradients(form: Form, length: int) -> None:
    """As in decoding, where the states of successive calls may share memory."""
    mixer = form.build()
    x, context = inputs(form.cross, length)
    expected = silent_run(mixer, x, context, whole)
    for way in (split_randomly(3), split_at(1, 2, 3, 40, 41), step_by_step):
        runs_agree(silent_run(mixer, x, context, way), expected, f"{form.name} in pieces")


@over(splits)
def test_steps_after_a_prompt(form: Form) -> None:
    """A prompt read in inference mode and at once, then single steps: what decoding does."""
    mixer = form.build()
    x, context = inputs(form.cross, 48)
    expected = silent_run(mixer, x, context)
    with torch.inference_mode():
        actual = silent_run(mixer, x, context, split_at(33, *range(34, 48)))
    runs_agree(actual, expected, f"{form.name} after a prompt")


@over(splits)
def test_empty_state_equals_no_state(form: Form) -> None:
    """`init_state` is the state before the first position."""
    mixer = form.build()
    x, context = inputs(form.cross, 7)
    with torch.no_grad():
        y, _ = mixer(x, mixer.init_state(BATCH, device=DEVICE, dtype=x.dtype), context)
    same_bits(y, silent_run(mixer, x, context).y, f"{form.name} from init_state")


@over(splits)
def test_mask_may_come_late(form: Form) -> None:
    """Pieces that are all real need no mask, whatever the others have."""
    mixer = form.build()
    x, context = inputs(form.cross, 24)
    mask = torch.ones(BATCH, 24, dtype=torch.bool, device=DEVICE)
    mask[0, 12:15] = mask[1, 15:] = False
    with torch.no_grad():
        first, state = mixer(x[:, :10], None, context)
        second, state = mixer(x[:, 10:20], state, replace(context, mask=mask[:, 10:20], memory=None, memory_mask=None))
        third, _ = mixer(x[:, 20:], state, replace(context, mask=mask[:, 20:], memory=None, memory_mask=None))
    expected = silent_run(mixer, x, replace(context, mask=mask))
    pieces = torch.cat([first, second, third], dim=1)
    runs_agree(replace(expected, y=pieces), expected, f"{form.name} with a late mask")


@over(splits)
def test_given_positions_equal_counted_positions(form: Form) -> None:
    """`positions` says what is counted anyway: 0, 1, 2, ... over real places."""
    mixer = form.build()
    x, context = inputs(form.cross, 24)
    mask = torch.ones(BATCH, 24, dtype=torch.bool, device=DEVICE)
    mask[0, :5] = mask[1, 9:12] = False
    context = replace(context, mask=mask)
    expected = silent_run(mixer, x, context)
    given = replace(context, positions=(mask.long().cumsum(1) - 1).clamp(min=0))
    for way in (whole, split_at(4, 11, 12)):
        runs_agree(silent_run(mixer, x, given, way), expected, f"{form.name} with positions", states=False)
