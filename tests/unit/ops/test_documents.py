"""Real places to the front, documents told apart, and back again."""

import torch

from jogak.ops.documents import Documents

SEGMENTS = torch.tensor([[4, 4, 7, 7, 7, 4], [9, 9, 9, 9, 9, 9], [3, 5, 5, 5, 6, 6]])
MASK = torch.tensor([[0, 1, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 1]]).bool()
OPEN = torch.tensor([4, 2, 8])
X = torch.arange(18.0).view(3, 6, 1).masked_fill(~MASK.unsqueeze(2), torch.nan)


def test_nothing_given_needs_nothing_done():
    for layout in (Documents.in_place((3, 6), None, None, OPEN), Documents.apart((3, 6), None, None, OPEN)):
        assert layout.take(X) is X
        assert layout.put(X) is X
        assert layout.begin(OPEN) is OPEN
        assert layout.end(OPEN) is OPEN
        assert layout.segment is OPEN
        assert layout.lengths is None
        assert layout.starts is None
        assert layout.real is None


def test_real_places_come_first():
    layout = Documents.in_place((3, 6), MASK, None, OPEN)
    assert layout.take(X)[..., 0].tolist() == [[1, 2, 4, 5, 0, 0], [0] * 6, [12, 13, 15, 16, 17, 0]]
    assert layout.lengths is not None
    assert layout.lengths.tolist() == [4, 0, 5]
    assert layout.starts is None
    assert layout.segment.tolist() == OPEN.tolist()


def test_documents_begin_where_the_number_changes():
    layout = Documents.in_place((3, 6), None, SEGMENTS, OPEN)
    assert layout.starts is not None
    assert layout.starts.int().tolist() == [[0, 0, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 1, 0]]
    assert layout.segment.tolist() == [4, 9, 6]


def test_a_number_on_padding_says_nothing():
    layout = Documents.in_place((3, 6), MASK, SEGMENTS, OPEN)
    assert layout.starts is not None
    assert layout.starts.int().tolist() == [[0, 1, 0, 1, 0, 0], [0] * 6, [1, 1, 0, 1, 0, 0]]
    assert layout.segment.tolist() == [4, 2, 6], "a row without a real place leaves its document open"


def test_documents_apart_have_a_row_each():
    layout = Documents.apart((3, 6), MASK, SEGMENTS, OPEN)
    rows = [[1, 0], [2, 4], [5, 0], [0, 0], [0, 0], [12, 0], [13, 15], [16, 17]]
    assert layout.take(X)[..., 0].tolist() == rows
    assert layout.lengths is not None
    assert layout.lengths.tolist() == [1, 2, 1, 0, 0, 1, 2, 2]
    assert layout.starts is None
    held = torch.tensor([[10.0], [20.0], [30.0]])
    assert layout.begin(held).flatten().tolist() == [10, 0, 0, 20, 30, 0, 0, 0]
    assert layout.begin(held, fresh=-1.0).flatten().tolist() == [10, -1, -1, 20, 30, -1, -1, -1]
    assert layout.end(torch.arange(8)).tolist() == [2, 3, 7]


def test_put_undoes_take_and_silences_padding():
    known = X.nan_to_num(0.0)
    for mask in (None, MASK):
        for segments in (None, SEGMENTS):
            given = known if mask is None else X
            for how in (Documents.in_place, Documents.apart):
                layout = how((3, 6), mask, segments, OPEN)
                rows = layout.take(given)
                assert rows.isfinite().all()
                assert torch.equal(layout.put(rows), known)


def test_gradients_pass_and_none_reaches_padding():
    x = X.clone().requires_grad_()
    layout = Documents.apart((3, 6), MASK, SEGMENTS, OPEN)
    layout.put(layout.take(x) * 3).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, 3.0 * MASK.unsqueeze(2))


def test_positions_are_counted_from_the_start_of_each_document():
    """In the rows, and what the open document has afterwards, whatever number stands on padding."""
    before = torch.tensor([10, 20, 30])
    at, after = Documents.in_place((3, 6), None, None, OPEN).count(before)
    assert at.tolist() == [[n + i for i in range(6)] for n in (10, 20, 30)]
    assert after.tolist() == [16, 26, 36]
    at, after = Documents.in_place((3, 6), None, SEGMENTS, OPEN).count(before)
    assert at.tolist() == [[10, 11, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 0, 1]]
    assert after.tolist() == [1, 6, 2]
    at, after = Documents.in_place((3, 6), MASK, SEGMENTS, OPEN).count(before)
    assert at[:, :2].tolist() == [[10, 0], [20, 21], [0, 0]]
    assert after.tolist() == [1, 20, 2]
    _, after = Documents.in_place((3, 6), MASK, None, OPEN).count(before)
    assert after.tolist() == [14, 20, 35]
