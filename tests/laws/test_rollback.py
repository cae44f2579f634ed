"""Law 6. A call never changes the state that it was given: an old state, used again, gives what it gave."""

import pytest
import torch

from tests.laws.forms import Form, over, splits
from tests.laws.support import WIDTH, close, copies, cut, inputs, noise, same_bits, silent_run, states_agree, unchanged


@over(splits)
@pytest.mark.parametrize("gradients", [False, True], ids=["silent", "gradients"])
def test_a_call_changes_neither_state_nor_input(form: Form, gradients: bool) -> None:
    mixer = form.build()
    x, context = inputs(form.cross, 40)
    with torch.set_grad_enabled(gradients):
        states, before, state = [], [], None
        for start, stop in ((0, 7), (7, 8), (8, 9), (9, 30), (30, 31), (31, 40)):
            given = x[:, start:stop].clone()
            _, state = mixer(given, state, cut(context, start, stop))
            same_bits(given, x[:, start:stop], f"{form.name}: the input")
            states.append(state)
            before.append((state.seen, copies(state)))
        for (seen, copy), old in zip(before, states, strict=True):
            unchanged(old, copy, f"{form.name} at {seen}")
            assert old.seen == seen, f"{form.name}: seen went from {seen} to {old.seen}"


@over(splits)
def test_an_old_state_gives_what_it_gave(form: Form) -> None:
    """To the bit, from every place in the past."""
    mixer = form.build()
    x, context = inputs(form.cross, 40)
    with torch.no_grad():
        record, state = [], None
        for start, stop in ((0, 11), (11, 12), (12, 13), (13, 30), (30, 31), (31, 40)):
            y, new = mixer(x[:, start:stop], state, cut(context, start, stop))
            record.append((start, stop, state, y))
            state = new
        for start, stop, old, said in reversed(record):
            again, _ = mixer(x[:, start:stop], old, cut(context, start, stop))
            same_bits(again, said, f"{form.name} again from {start}")


@over(splits)
def test_continuations_do_not_see_each_other(form: Form) -> None:
    """Several are written behind one prompt, by turns, one of them through `step`; each goes on as if alone."""
    mixer = form.build()
    prompt, context = inputs(form.cross, 10)
    tails = [noise(len(prompt), 12, WIDTH, seed=20 + i) for i in range(3)]
    expected = [silent_run(mixer, torch.cat([prompt, tail], dim=1), context) for tail in tails]
    later = cut(context, 1, 1)
    with torch.no_grad():
        _, root = mixer(prompt, None, context)
        kept = copies(root)
        states = [root, root, root]
        for time in range(12):
            for i, tail in enumerate(tails):
                call = mixer.step if i == 1 else mixer
                y, states[i] = call(tail[:, time : time + 1], states[i], later)
                close(y, expected[i].y[:, 10 + time : 11 + time], f"{form.name}: continuation {i} at {time}")
        for state, whole in zip(states, expected, strict=True):
            states_agree(state, whole.state, f"{form.name}: state of a continuation")
        unchanged(root, kept, f"{form.name}: the prompt")
        again, _ = mixer(tails[0], root, later)
        close(again, expected[0].y[:, 10:], f"{form.name}: the prompt used again")


@over(splits)
def test_a_branch_of_a_branch(form: Form) -> None:
    """As in speculative decoding: five drafted, two kept, others written behind those."""
    mixer = form.build()
    x, context = inputs(form.cross, 30)
    other = noise(len(x), 30, WIDTH, seed=31)
    mixed = torch.cat([x[:, :14], other[:, 14:]], dim=1)
    later = cut(context, 1, 1)
    with torch.no_grad():
        _, state = mixer(x[:, :12], None, context)
        drafted = [state]
        for time in range(12, 17):
            _, state = mixer.step(x[:, time : time + 1], state, later)
            drafted.append(state)
        y, _ = mixer(other[:, 14:], drafted[2], later)
        close(y, silent_run(mixer, mixed, context).y[:, 14:], f"{form.name}: after a rejected draft")
        y, _ = mixer(x[:, 17:], drafted[5], later)
        close(y, silent_run(mixer, x, context).y[:, 17:], f"{form.name}: the draft itself")
