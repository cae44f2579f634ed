import numpy as np
import pytest

from jogak.errors import UserError
from jogak.looking import Panel, write


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def panel(layers=2, heads=3, queries=4, keys=5, seed=0, **more):
    weights = softmax(np.random.default_rng(seed).normal(0, 2, (layers, heads, queries, keys)))
    names = [f"q{i}" for i in range(queries)], [f"k{i}" for i in range(keys)]
    return Panel("Cross-attention", "cross", *names, weights, **more)


def test_layers_are_numbered_from_one():
    assert panel(layers=3).layers == (1, 2, 3)


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (2, 3, 5, 5), (3, 4, 5)])
def test_weights_must_fit_the_labels(shape):
    with pytest.raises(UserError, match=r"must be \[layers, heads, 4, 5\]"):
        Panel("P", "cross", list("abcd"), list("abcde"), np.zeros(shape))


def test_layer_numbers_must_fit_the_weights():
    with pytest.raises(UserError, match="1 layer numbers for 2 layers"):
        Panel("P", "cross", ["a"], ["b"], np.ones((2, 1, 1, 1)), (3,))


@pytest.mark.parametrize("bad", [-0.5, 1.5, np.inf])
def test_scores_are_refused(bad):
    weights = np.full((1, 1, 1, 2), 0.5)
    weights[0, 0, 0, 1] = bad
    with pytest.raises(UserError, match="layer 7 holds weights outside 0 to 1"):
        Panel("P", "cross", ["a"], ["b", "c"], weights, (7,))


def test_one_undefined_weight_is_refused():
    weights = np.full((1, 2, 1, 2), 0.5)
    weights[0, 0, 0, 1] = np.nan  # a head of which only a part is missing
    with pytest.raises(UserError, match="outside 0 to 1"):
        Panel("P", "cross", ["a"], ["b", "c"], weights)


def test_missing_heads_are_left_out_of_the_mean():
    weights = np.full((2, 3, 1, 2), np.nan)
    weights[0, :3] = [[[1.0, 0.0]], [[0.0, 1.0]], [[0.5, 0.5]]]
    weights[1, :2] = [[[0.2, 0.8]], [[0.4, 0.6]]]
    two = Panel("P", "encoder", ["a"], ["a", "b"], weights)
    assert two.heads == (3, 2)
    np.testing.assert_allclose(two.head_mean(1), [[0.3, 0.7]])
    assert len(two.spread(0)) == 4
    assert len(two.spread(1)) == 3


def test_spread_counts_the_positions_that_are_read():
    one, four = np.eye(4)[None], np.full((1, 4, 4), 0.25)
    spread = Panel("P", "encoder", list("abcd"), list("abcd"), np.stack([one[0], four[0]])[None]).spread(0)
    assert spread[:2] == pytest.approx([1, 4])
    # The mean map holds 0.625 once and 0.125 three times in each row.
    assert spread[2] == pytest.approx(2 ** -(0.625 * np.log2(0.625) + 3 * 0.125 * np.log2(0.125)))


def test_the_ending_chooses_the_writer(tmp_path):
    write(tmp_path / "a.html", [panel()], title="t")
    write(tmp_path / "a.PNG", [panel()], title="t")
    assert (tmp_path / "a.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"\.html or \.png"):
        write(tmp_path / "a.svg", [panel()], title="t")
