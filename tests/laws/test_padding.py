"""Law 3. Padded = unpadded, wherever the padding is; whatever stands in a padded place never gets out."""

import math
from dataclasses import replace

import pytest
import torch

from jogak.mixers import Mixer
from tests.laws.forms import Form, looks_ahead, over, splits
from tests.laws.support import (
    DEVICE,
    PAD,
    Documents,
    Layout,
    Way,
    apart,
    inputs,
    reads_agree,
    run,
    runs_agree,
    silent_run,
    split_at,
    split_randomly,
    step_by_step,
    together,
    whole,
)


def layouts(lengths: list[int]) -> dict[str, Layout]:
    """Each document in a row of its own, padded to the same length in several ways; the last row is all padding."""
    total = max(lengths) + 3
    rows = list(enumerate(lengths))
    nothing = [(PAD, total)]
    return {
        "right": [*([(d, n), (PAD, total - n)] for d, n in rows), nothing],
        "left": [*([(PAD, total - n), (d, n)] for d, n in rows), nothing],
        "both": [*([(PAD, 1), (d, n), (PAD, total - n - 1)] for d, n in rows), nothing],
        "holes": [*([(PAD, 1), (d, n // 2), (PAD, total - n - 1), (d, n - n // 2)] for d, n in rows), nothing],
    }


def padded_equals_unpadded(form: Form, length: int, where: str, *ways: Way, fill: float) -> None:
    mixer: Mixer = form.build()
    lengths = [length, max(1, length // 2), max(1, length - 1)]
    documents = Documents.make(lengths, cross=form.cross)
    layout = layouts(lengths)[where]
    if form.cross:  # a row without a document has no memory to read, so give it none of the batch
        layout = layout[:-1]
    expected = apart(mixer, documents)
    for way in ways or (whole,):
        actual = together(mixer, documents, layout, fill=fill, way=way)
        reads_agree(actual, expected, f"{form.name} padded {where} with {fill}")


@over(lengths=True)
def test_right_padded_equals_unpadded(form: Form, length: int) -> None:
    padded_equals_unpadded(form, length, "right", fill=0.0)


@over(lengths=True)
def test_left_padded_equals_unpadded(form: Form, length: int) -> None:
    padded_equals_unpadded(form, length, "left", fill=0.0)


@over(lengths=True, most=65)
def test_padded_on_both_sides_equals_unpadded(form: Form, length: int) -> None:
    padded_equals_unpadded(form, length, "both", fill=7.0)


@over(lengths=True, most=65)
def test_holes_change_nothing(form: Form, length: int) -> None:
    """Padding in the middle: what a row of a batch has that went on after a shorter prompt."""
    padded_equals_unpadded(form, length, "holes", fill=7.0)


@over(splits)
@pytest.mark.parametrize("where", ["right", "left", "holes"])
def test_padding_changes_nothing_in_pieces(form: Form, where: str) -> None:
    """The state knows which of the positions it has seen were real."""
    padded_equals_unpadded(form, 33, where, split_randomly(4), split_at(1, 18, 19), step_by_step, fill=math.nan)


@over()
@pytest.mark.parametrize("where", ["right", "left", "both", "holes"])
def test_nan_in_padded_places_never_gets_out(form: Form, where: str) -> None:
    """Neither into outputs nor into gradients, the parameters' included."""
    padded_equals_unpadded(form, 33, where, fill=math.nan)


@over()
def test_infinity_in_padded_places_never_gets_out(form: Form) -> None:
    padded_equals_unpadded(form, 33, "left", fill=math.inf)


@over()
def test_full_mask_equals_no_mask(form: Form) -> None:
    mixer = form.build()
    x, context = inputs(form.cross, 31)
    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=DEVICE)
    actual = run(mixer, x, replace(context, mask=mask))
    runs_agree(actual, run(mixer, x, context), f"{form.name} with a full mask", states=False)


@over()
def test_a_row_of_padding_is_silent(form: Form) -> None:
    """Zeros, and zero gradients, not NaN."""
    mixer = form.build()
    x, context = inputs(form.cross, 9)
    mask = torch.zeros(x.shape[:2], dtype=torch.bool, device=DEVICE)
    result = run(mixer, x * math.nan, replace(context, mask=mask))
    assert (result.y == 0).all(), f"{form.name}: padding says something"
    for name, gradient in result.gradients.items():
        assert (gradient == 0).all(), f"{form.name}: padding has a gradient for {name}"


@over(splits)
def test_a_piece_of_padding_changes_no_later_output(form: Form) -> None:
    """A call that has only padding for a row leaves that row where it was."""
    mixer = form.build()
    x, context = inputs(form.cross, 20)
    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=DEVICE)
    mask[0, 8:13] = False
    x[0, 8:13] = math.nan
    kept = torch.cat([x[:, :8], x[:, 13:]], dim=1)
    in_pieces = silent_run(mixer, x, replace(context, mask=mask), split_at(8, 13))
    expected = silent_run(mixer, kept, context)
    runs_agree(
        replace(expected, y=in_pieces.y[:1, 13:]), replace(expected, y=expected.y[:1, 8:]), f"{form.name} after a gap"
    )


@over(looks_ahead)
def test_padding_changes_nothing_that_looks_ahead(form: Form) -> None:
    """At a length with several tiles of padding before and behind."""
    padded_equals_unpadded(form, 130, "both", fill=math.nan)
