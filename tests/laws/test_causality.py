"""Law 2. A later input never changes an earlier output, to the bit; a form that looks ahead does so."""

from dataclasses import replace

import pytest
import torch

from jogak.errors import UserError
from jogak.mixers import Context
from tests.laws.forms import Form, looks_ahead, looks_back, over, splits
from tests.laws.support import DEVICE, WIDTH, inputs, noise, same_bits, silent_run, split_at, whole


@over(splits, lengths=True)
def test_later_inputs_change_no_earlier_output(form: Form, length: int) -> None:
    """Not by one bit, however large they are, in one call or in several."""
    mixer = form.build()
    x, context = inputs(form.cross, length)
    for place in sorted({1, length // 2, length - 1} - {0}):
        later = x.clone()
        later[:, place:] = 1e3 * noise(x.shape[0], length - place, WIDTH, seed=9)
        for way in (whole, split_at(place // 2, place + 1)):
            before, after = silent_run(mixer, x, context, way).y, silent_run(mixer, later, context, way).y
            same_bits(after[:, :place], before[:, :place], f"{form.name}: outputs before {place}")


@over(splits)
def test_later_inputs_change_no_earlier_output_in_packed_and_padded_rows(form: Form) -> None:
    """With masks and segments, which take other paths through a mixer."""
    mixer = form.build()
    x, context = inputs(form.cross, 20)
    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=DEVICE)
    mask[0, :3] = mask[1, 15:] = mask[2, 8:10] = False
    segments = (torch.arange(20, device=DEVICE) >= 9).long().expand(len(x), 20)
    for extra in ({"mask": mask}, {"segments": segments}, {"mask": mask, "segments": segments}):
        if form.cross and "segments" in extra:
            continue
        told = replace(context, **extra)
        later = x.clone()
        later[:, 12:] *= -50
        before, after = silent_run(mixer, x, told).y, silent_run(mixer, later, told).y
        same_bits(after[:, :12], before[:, :12], f"{form.name} with {sorted(extra)}: outputs before 12")


@over(splits)
def test_earlier_outputs_have_no_gradient_for_later_inputs(form: Form) -> None:
    mixer = form.build()
    x, context = inputs(form.cross, 33)
    x.requires_grad_()
    y, _ = mixer(x, None, context)
    (gradient,) = torch.autograd.grad(y[:, :17].square().sum(), x)
    assert (gradient[:, 17:] == 0).all(), f"{form.name}: a later input has a gradient"
    assert gradient[:, :17].abs().amax(dim=(0, 2)).min() > 0, f"{form.name}: an earlier input has none"


@over(looks_back, lambda form: form.options.get("window") != 1)
def test_earlier_inputs_change_later_outputs(form: Form) -> None:
    """Causality is no feat for who does not mix at all."""
    _reaches(form, source=6, target=8)


@over(looks_ahead)
def test_later_inputs_change_earlier_outputs(form: Form) -> None:
    """What does not call itself causal looks ahead."""
    _reaches(form, source=8, target=6)


def _reaches(form: Form, source: int, target: int) -> None:
    mixer = form.build()
    x, context = inputs(form.cross, 12)
    other = x.clone()
    other[:, source] = noise(len(x), WIDTH, seed=9)
    difference = (silent_run(mixer, x, context).y - silent_run(mixer, other, context).y)[:, target].abs().amax(1)
    assert (difference > 1e-4).all(), f"{form.name}: place {source} does not reach place {target}"


@over(looks_ahead)
def test_a_form_that_looks_ahead_refuses_to_continue(form: Form) -> None:
    """It cannot say what it would have said with the rest in sight, so it says that it cannot."""
    mixer = form.build()
    x, _ = inputs(form.cross, 6)
    _, state = mixer(x, None, Context())
    assert state.seen == 6
    with pytest.raises(UserError):
        mixer(x, state, Context())
