"""Law 7. The bytes of a state follow what the mixer says of itself: `state_grows` or not."""

import torch

from jogak.mixers import State
from tests.laws.forms import Form, over, splits
from tests.laws.support import BATCH, DEVICE, inputs, silent_run, split_randomly, step_by_step, whole


def held(state: State) -> int:
    """Bytes of memory that a state keeps from being freed, room and forgotten positions included."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state.values()}
    return sum(storages.values())


@over()
def test_state_size_is_what_the_mixer_says(form: Form) -> None:
    """Measured after 64, 256 and 1,024 positions: equal, or so much for each position."""
    mixer = form.build()
    sizes = {}
    for length in (64, 256, 1024):
        x, context = inputs(form.cross, length, batch=2)
        state = silent_run(mixer, x, context).state
        assert state.seen == length, f"{form.name}: has seen {state.seen} of {length}"
        sizes[length] = state.nbytes
    if form.grows:
        early, late = (sizes[256] - sizes[64]) / 192, (sizes[1024] - sizes[256]) / 768
        assert 0 < early == late, f"{form.name}: says it grows, and takes {sizes}"
    else:
        assert sizes[64] == sizes[256] == sizes[1024], f"{form.name}: says it does not grow, and takes {sizes}"


@over()
def test_a_state_holds_no_more_memory_than_it_says(form: Form) -> None:
    """A small view of a large tensor keeps all of it alive; room to grow may be some times what is used."""
    mixer = form.build()
    ways = [(whole, 512), (split_randomly(3), 512), (step_by_step, 130)] if form.splits else [(whole, 512)]
    for way, length in ways:
        x, context = inputs(form.cross, length, batch=2)
        state = silent_run(mixer, x, context, way).state
        limit = 4 * state.nbytes + 4096
        assert held(state) <= limit, f"{form.name}: says {state.nbytes} bytes and holds {held(state)}"


@over(splits)
def test_nbytes_counts_every_tensor(form: Form) -> None:
    state = form.build().init_state(BATCH, device=DEVICE, dtype=torch.float32)
    assert state.nbytes == sum(t.numel() * t.element_size() for t in state.values())
    assert all(tensor.shape[0] == BATCH for tensor in state.values()), f"{form.name}: batch is not first"
