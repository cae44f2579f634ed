"""Law 9, second half. `torch.compile` and `torch.export` take every mixer, with a state going in and coming out."""

import shutil
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from jogak.mixers import Context, Mixer, State
from tests.laws.forms import Form, over, splits
from tests.laws.support import DEVICE, close, cut, inputs, run, runs_agree, silent_run, states_agree


class Call(nn.Module):
    """A mixer's call with everything as plain arguments, as export wants it."""

    def __init__(self, mixer: Mixer) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(
        self, x: Tensor, state: State | None, mask: Tensor | None, memory: Tensor | None
    ) -> tuple[Tensor, State]:
        return self.mixer(x, state, Context(mask=mask, memory=memory))


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _mask(x: Tensor) -> Tensor:
    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=DEVICE)
    mask[0, 2:5] = False
    return mask


def compiled_equals_eager(form: Form, backend: str) -> None:
    """The whole sequence with gradients, then a prompt and steps; no graph breaks."""
    mixer = form.build()
    x, context = inputs(form.cross, 21)
    call = torch.compile(mixer, backend=backend, fullgraph=True)

    def through(_: Mixer, x: Tensor, context: Context) -> tuple[Tensor, State]:
        return call(x, None, context)

    runs_agree(run(mixer, x, context, through), run(mixer, x, context), f"{form.name} compiled")
    if not form.splits:
        return
    expected = silent_run(mixer, x, context)
    with torch.no_grad():
        y, state = call(x[:, :17], None, cut(context, 0, 17))
        close(y, expected.y[:, :17], f"{form.name} compiled prompt")
        for time in range(17, 21):
            y, state = call(x[:, time : time + 1], state, cut(context, time, time + 1))
            close(y, expected.y[:, time : time + 1], f"{form.name} compiled step at {time}")
    states_agree(state, expected.state, f"{form.name} compiled: state")


@over()
def test_compile_takes_it(form: Form) -> None:
    """Traced whole by dynamo and autograd's tracer, run without a code generator."""
    compiled_equals_eager(form, "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
@over(lambda form: form.compiled)
def test_inductor_takes_it(form: Form) -> None:
    """Down to generated code, for the forms that say so."""
    compiled_equals_eager(form, "inductor")


@over()
def test_export_takes_it(form: Form) -> None:
    """The whole sequence with a mask."""
    mixer = form.build()
    x, context = inputs(form.cross, 21)
    call = Call(mixer)
    arguments = (x, None, _mask(x), context.memory)
    exported = torch.export.export(call, arguments).module()
    with torch.no_grad():
        (y, state), (expected, expected_state) = exported(*arguments), call(*arguments)
    close(y, expected, f"{form.name} exported")
    states_agree(state, expected_state, f"{form.name} exported: state")


@over(splits)
def test_export_takes_a_step(form: Form) -> None:
    """With a state in and a state out, which lead on to the same future."""
    mixer = form.build()
    x, context = inputs(form.cross, 12)
    call = Call(mixer)
    with torch.no_grad():
        _, state = call(x[:, :9], None, None, context.memory)
        arguments = (x[:, 9:10], state, None, None)
        exported = torch.export.export(call, arguments).module()
        y, after = exported(*arguments)
        rest, _ = call(x[:, 10:], after, None, None)
        expected, _ = call(x, None, None, context.memory)
    close(torch.cat([y, rest], dim=1), expected[:, 9:], f"{form.name} exported step")
