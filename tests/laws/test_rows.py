"""Law 5. A row alone = the row in a batch; `state.reorder` = running the reordered batch."""

from dataclasses import replace

import torch

from jogak.mixers import Context
from tests.laws.forms import Form, over, splits
from tests.laws.support import (
    DEVICE,
    close,
    close_all,
    cut,
    inputs,
    noise,
    run,
    runs_agree,
    silent_run,
    split_at,
    states_agree,
    step_by_step,
    whole,
)


def _row(context: Context, index: torch.Tensor) -> Context:
    """The context of the rows `index`."""
    fields = ("mask", "positions", "segments", "memory", "memory_mask", "memory_segments")
    given = {name: getattr(context, name) for name in fields}
    return replace(context, **{name: tensor[index] for name, tensor in given.items() if tensor is not None})


@over(lengths=True)
def test_row_alone_equals_row_in_batch(form: Form, length: int) -> None:
    """Outputs and the gradient of its own input; the gradients of the parameters add up."""
    mixer = form.build()
    x, context = inputs(form.cross, length)
    weight = noise(*x.shape, seed=8)
    batch = run(mixer, x, context, weight=weight)
    summed = {name: torch.zeros_like(p) for name, p in mixer.named_parameters()}
    for b in range(len(x)):
        index = torch.tensor([b], device=DEVICE)
        alone = run(mixer, x[index], _row(context, index), weight=weight[index])
        close(batch.y[index], alone.y, f"{form.name}: row {b}")
        close(batch.gradients["x"][index], alone.gradients["x"], f"{form.name}: gradient of row {b}")
        for name in summed:
            summed[name] += alone.gradients[name]
    close_all({name: batch.gradients[name] for name in summed}, summed, f"{form.name}: gradient")


@over(splits)
def test_rows_alone_in_pieces_equal_the_batch(form: Form) -> None:
    mixer = form.build()
    x, context = inputs(form.cross, 21)
    batch = silent_run(mixer, x, context, step_by_step)
    for b in range(len(x)):
        index = torch.tensor([b], device=DEVICE)
        alone = silent_run(mixer, x[index], _row(context, index), split_at(9, 10))
        close(batch.y[index], alone.y, f"{form.name}: row {b}")


@over(splits)
def test_reordered_state_equals_reordered_batch(form: Form) -> None:
    """Rows may change places, be left out, and be there twice, as in a beam; also more than once."""
    mixer = form.build()
    x, context = inputs(form.cross, 24)
    index = torch.tensor([2, 0, 0, 2, 1], device=DEVICE)
    again = torch.tensor([4, 4, 1], device=DEVICE)
    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=DEVICE)
    mask[1, :4] = False
    for told in (context, replace(context, mask=mask)):
        with torch.no_grad():
            _, state = whole(mixer, x[:, :13], cut(told, 0, 13))
            second, state = mixer(x[index, 13:14], state.reorder(index), cut(_row(told, index), 13, 14))
            twice = index[again]
            third, state = mixer(x[twice, 14:], state.reorder(again), cut(_row(told, twice), 14, 24))
        expected = silent_run(mixer, x[index], _row(told, index))
        close(second, expected.y[:, 13:14], f"{form.name}: after reorder")
        close(third, expected.y[again, 14:], f"{form.name}: after a second reorder")
        states_agree(state, expected.state.reorder(again), f"{form.name}: state")


@over(splits)
def test_reorder_leaves_the_old_state_alone(form: Form) -> None:
    """And what is written behind the reordered state does not show in the other."""
    mixer = form.build()
    x, context = inputs(form.cross, 20)
    index = torch.tensor([1, 2, 0], device=DEVICE)
    expected = silent_run(mixer, x, context)
    with torch.no_grad():
        _, state = mixer(x[:, :9], None, cut(context, 0, 9))
        _, state = mixer(x[:, 9:10], state, cut(context, 9, 10))
        _, other = mixer(x[index, 10:11], state.reorder(index), cut(context, 10, 11))
        y, state = mixer(x[:, 10:], state, cut(context, 10, 20))
        close(y, expected.y[:, 10:], f"{form.name}: the state that was reordered")
        y, _ = mixer(x[index, 11:], other, cut(context, 11, 20))
        close(y, expected.y[index, 11:], f"{form.name}: the reordered state")
    states_agree(state, expected.state, f"{form.name}: state")


@over()
def test_rows_have_nothing_to_do_with_each_other(form: Form) -> None:
    """No gradient goes from one row's output to another row's input."""
    mixer = form.build()
    x, context = inputs(form.cross, 12)
    result = run(mixer, x, context, weight=torch.eye(len(x), device=DEVICE)[1][:, None, None].expand_as(x))
    for b in (0, 2):
        assert (result.gradients["x"][b] == 0).all(), f"{form.name}: row 1 depends on row {b}"
    expected = run(mixer, x.roll(1, 0), _row(context, torch.tensor([2, 0, 1], device=DEVICE)))
    runs_agree(
        replace(expected, y=run(mixer, x, context).y.roll(1, 0)), expected, f"{form.name}: rows in another order"
    )
