"""Law 10. Parameters counted on the meta device = parameters built."""

import torch

from jogak.mixers import Context
from tests.laws.forms import Form, count, over, splits
from tests.laws.support import BATCH, WIDTH, inputs


@over()
def test_meta_equals_built(form: Form) -> None:
    """The same names and shapes, and nothing allocated."""
    built = form.make()
    with torch.device("meta"):
        counted = form.make()
    assert count(counted) == count(built), f"{form.name}: {count(counted)} counted and {count(built)} built"
    assert {n: p.shape for n, p in counted.state_dict().items()} == {n: p.shape for n, p in built.state_dict().items()}
    real = [n for n, t in [*counted.named_parameters(), *counted.named_buffers()] if t.device.type != "meta"]
    assert not real, f"{form.name}: {real} were allocated on the meta device"


@over()
def test_shapes_without_numbers(form: Form) -> None:
    """`jogak plan` runs a model on the meta device: shapes and state bytes, no arithmetic."""
    with torch.device("meta"):
        mixer = form.make()
    x, context = inputs(form.cross, 12)
    if context.memory is not None:
        context = Context(memory=context.memory.to("meta"))
    y, state = mixer(x.to("meta"), None, context)
    real, _ = inputs(form.cross, 12)
    _, expected = form.build()(real, None, inputs(form.cross, 12)[1] if not form.cross else _plain(form))
    assert y.shape == (BATCH, 12, WIDTH)
    assert state.nbytes == expected.nbytes, f"{form.name}: {state.nbytes} bytes planned, {expected.nbytes} taken"


def _plain(form: Form) -> Context:
    return Context(memory=inputs(form.cross, 12)[1].memory)


@over(splits)
def test_empty_state_on_the_meta_device(form: Form) -> None:
    with torch.device("meta"):
        mixer = form.make()
    state = mixer.init_state(BATCH, device="meta", dtype=torch.bfloat16)
    assert all(tensor.device.type == "meta" for tensor in state.values())


@over()
def test_the_same_seed_builds_the_same(form: Form) -> None:
    """Random only through the generator that is seeded, and saved parameters are all that a mixer is."""
    first, second, other = form.build(seed=1), form.build(seed=1), form.build(seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    other.load_state_dict(first.state_dict(), strict=True)
    x, context = inputs(form.cross, 12)
    assert torch.equal(first(x, None, context)[0], other(x, None, context)[0]), f"{form.name}: parameters are not all"
