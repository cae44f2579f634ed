"""Law 8 for whole mixers: each backend says what the reference says, and they may take over from each other."""

import torch

from tests.laws.forms import Form, over
from tests.laws.poison import poisoned
from tests.laws.support import close, cut, inputs, run, runs_agree, silent_run


@over(lambda form: form.same_as, lengths=True)
def test_backend_equals_reference(form: Form, length: int) -> None:
    """From the same parameters, on memory poisoned with NaN, forward and backward."""
    assert form.same_as is not None
    mixer, reference = form.build(), form.same_as.build()
    x, context = inputs(form.cross, length)
    expected = run(reference, x, context)
    with poisoned():
        actual = run(mixer, x, context)
    runs_agree(actual, expected, f"{form.name} against {form.same_as.name}")


@over(lambda form: form.same_as, lambda form: form.splits)
def test_backends_share_states(form: Form) -> None:
    """What one has read, the other goes on with."""
    assert form.same_as is not None
    mixer, reference = form.build(), form.same_as.build()
    x, context = inputs(form.cross, 20)
    expected = silent_run(reference, x, context)
    with torch.no_grad():
        for first, second in ((mixer, reference), (reference, mixer)):
            _, state = first(x[:, :11], None, cut(context, 0, 11))
            y, _ = second(x[:, 11:], state, cut(context, 11, 20))
            close(y, expected.y[:, 11:], f"{form.name}: the other backend's state")
