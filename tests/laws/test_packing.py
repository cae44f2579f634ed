"""Law 4. Documents packed into one row with `segments` = the same documents apart."""

import math

import torch

from tests.laws.forms import Form, looks_back, over, self_mixing, splits
from tests.laws.support import (
    DEVICE,
    PAD,
    Documents,
    Layout,
    Way,
    apart,
    inputs,
    noise,
    reads_agree,
    same_bits,
    silent_run,
    split_at,
    split_randomly,
    step_by_step,
    together,
    whole,
)

LABELS = (7, 3, 12, 0, 5, 3)  # whatever tells neighbours apart: in no order, one in two rows
DENSE: Layout = [[(0, 9), (1, 1), (2, 14)], [(3, 3), (4, 20), (5, 1)]]
PADDED: Layout = [
    [(PAD, 2), (0, 9), (1, 1), (PAD, 3), (2, 14), (PAD, 1)],
    [(3, 3), (PAD, 1), (4, 20), (5, 2), (PAD, 4)],
]


def packed_equals_apart(form: Form, layout: Layout, *ways: Way, fill: float = 0.0) -> None:
    lengths = [0] * len({d for row in layout for d, _ in row if d != PAD})
    for row in layout:
        for document, count in row:
            if document != PAD:
                lengths[document] += count
    documents = Documents.make(lengths, cross=form.cross)
    mixer = form.build()
    expected = apart(mixer, documents)
    for way in ways or (whole,):
        actual = together(mixer, documents, layout, labels=LABELS, fill=fill, way=way)
        reads_agree(actual, expected, f"{form.name} packed")


@over()
def test_packed_equals_apart(form: Form) -> None:
    packed_equals_apart(form, DENSE)


@over()
def test_packed_and_padded_equals_apart(form: Form) -> None:
    """Padding before, between and behind documents, with NaN in it and a document's own number on it."""
    packed_equals_apart(form, PADDED, fill=math.nan)


@over(lengths=True)
def test_two_documents_equal_apart(form: Form, length: int) -> None:
    total, half = max(2, length), max(1, length // 2)
    packed_equals_apart(form, [[(0, half), (1, total - half)], [(2, total - 1), (3, 1)]])


@over(splits)
def test_packed_in_pieces_equals_apart(form: Form) -> None:
    """Calls that end inside a document, at its end, and in padding: the next one goes on with it, or does not."""
    ways = (split_at(9), split_at(5, 10, 17), split_at(3, 4, 23), split_randomly(5), step_by_step)
    packed_equals_apart(form, DENSE, *ways)


@over(splits)
def test_packed_and_padded_in_pieces_equals_apart(form: Form) -> None:
    packed_equals_apart(form, PADDED, split_at(1, 12, 14), split_randomly(6), step_by_step, fill=math.nan)


@over(self_mixing)
def test_another_document_changes_nothing(form: Form) -> None:
    """To the bit: what stands in one document, however large, is not even multiplied by zero in another."""
    mixer = form.build()
    x, context = inputs(form.cross, 30)
    segments = (torch.arange(30, device=DEVICE) >= 17).long().expand(len(x), 30)
    context = type(context)(segments=segments)
    other = x.clone()
    other[:, :17] = 1e3 * noise(*x[:, :17].shape, seed=11)
    before, after = silent_run(mixer, x, context).y, silent_run(mixer, other, context).y
    same_bits(after[:, 17:], before[:, 17:], f"{form.name}: the second document")


@over(looks_back)
def test_one_segment_equals_none(form: Form) -> None:
    """Numbering a single document changes nothing."""
    mixer = form.build()
    x, context = inputs(form.cross, 21)
    numbered = type(context)(segments=torch.full(x.shape[:2], 4, device=DEVICE))
    for way in (whole, split_at(8)):
        actual, expected = silent_run(mixer, x, numbered, way).y, silent_run(mixer, x, context, way).y
        assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max(), f"{form.name}: one segment"
