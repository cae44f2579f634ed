"""Counting positions by hand."""

import pytest
import torch

from jogak.ops.positions import count

CPU = torch.device("cpu")


def test_without_padding_positions_are_places():
    assert count((2, 4), CPU).tolist() == [[0, 1, 2, 3]]
    assert count((2, 3), CPU, before=5).tolist() == [[5, 6, 7]]
    assert count((2, 2), CPU, before=torch.tensor([1, 4])).tolist() == [[1, 2], [4, 5]]


def test_padding_takes_no_position():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 0, 1, 1, 0]]).bool()
    got = count((2, 5), CPU, mask=mask)
    assert got[mask].tolist() == [0, 1, 2, 0, 1, 2]
    got = count((2, 5), CPU, mask=mask, before=torch.tensor([10, 20]))
    assert got[mask].tolist() == [10, 11, 12, 20, 21, 22]


@pytest.mark.parametrize("last", [None, torch.tensor([7])])
def test_each_document_starts_again(last):
    segments = torch.tensor([[7, 7, 7, 2, 2, 9]])
    assert count((1, 6), CPU, segments=segments, last_segment=last).tolist() == [[0, 1, 2, 0, 1, 0]]


def test_a_document_that_goes_on_keeps_counting():
    segments = torch.tensor([[7, 7, 2, 2]])
    last, before = torch.tensor([7]), torch.tensor([3])
    assert count((1, 4), CPU, segments=segments, before=before, last_segment=last).tolist() == [[3, 4, 0, 1]]
    other = torch.tensor([6])
    assert count((1, 4), CPU, segments=segments, before=before, last_segment=other).tolist() == [[0, 1, 0, 1]]


def test_padding_between_documents():
    segments = torch.tensor([[1, 1, 0, 2, 2, 0]])
    mask = segments > 0
    got = count((1, 6), CPU, mask=mask, segments=segments)
    assert got[mask].tolist() == [0, 1, 0, 1]
