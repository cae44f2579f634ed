"""Models in fewer bits: which matrices change, what stays tied, and that every mixer works with them."""

import copy

import pytest
import torch
from torch import nn

from jogak import config, mixers, models
from jogak.errors import UserError
from jogak.layers.linear import Linear
from jogak.layers.quantised import QuantisedEmbedding, QuantisedLinear, is_quantised, quantise
from jogak.ops import quantised

WIDTH = 64


def _model(mixer: object, **changes: object) -> models.Model:
    tree = {
        "topology": "decoder",
        "vocab_size": 90,
        "width": WIDTH,
        "tie": "output",
        "decoder": {"depth": 2, "placement": "pre", "pattern": [mixer]},
        **changes,
    }
    torch.manual_seed(0)
    return models.build(config.validate(config.Model, tree, "test", {})).eval()


def _causal() -> list[str]:
    return [n for n in mixers.names() if n not in ("bidirectional", "additive", "dot")]


def _logits(model: models.Model, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.decode(ids)[0]


@pytest.mark.parametrize("name", ["attention", *(n for n in _causal() if n != "attention")])
@pytest.mark.parametrize(("kind", "off"), [("bfloat16", 0.03), ("int8", 0.05), ("int4", 0.5)])
def test_every_mixer_says_nearly_the_same(name, kind, off):
    """And step by step what it says at once."""
    model = _model(name)
    ids = torch.randint(90, (2, 40), generator=torch.Generator().manual_seed(0))
    exact = _logits(model, ids)
    quantise(model, kind)
    found = _logits(model, ids)
    assert is_quantised(model) == kind
    assert (found - exact).norm() < off * exact.norm()
    with torch.inference_mode():
        state, steps = None, []
        for at in range(40):
            y, state = model.decode(ids[:, at : at + 1], state)
            steps.append(y)
    together = torch.cat(steps, 1)
    assert (together - found).norm() < (0.02 if kind == "bfloat16" else 1e-4) * found.norm()


def test_a_tied_table_is_one_matrix_of_int8():
    model = _model("attention")
    quantise(model, "int4")
    table, head = model.decoder.embedding.table, model.head.projection
    assert isinstance(table, QuantisedEmbedding)
    assert isinstance(head, QuantisedLinear)
    assert table.kind == head.kind == "int8"
    assert table.matrix is head.matrix
    assert model.decoder.stack.blocks[0].feedforward.inner.kind == "int4"
    assert model.decoder.embedding.units == 90


def test_what_does_not_fit_stays():
    """Too few outputs, and inputs that are no multiple of 32."""
    model = nn.Sequential(Linear(64, 3), Linear(40, 64), Linear(64, 64), nn.LayerNorm(64))
    quantise(model, "int8")
    assert [type(m) for m in model] == [Linear, Linear, QuantisedLinear, nn.LayerNorm]


def test_converting_a_model_converts_no_matrix():
    model = _model("attention")
    quantise(model, "int4")
    ids = torch.arange(30).unsqueeze(0)
    before = _logits(model, ids)
    matrices = {n: t.dtype for n, t in model.named_buffers() if n.endswith(("matrix", "scales"))}
    model.double().float()
    assert {n: t.dtype for n, t in model.named_buffers() if n.endswith(("matrix", "scales"))} == matrices
    assert torch.equal(_logits(model, ids), before)


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4"])
def test_room_without_numbers_takes_them(kind):
    """As a folder is loaded: the same names and shapes, filled from a state dict, ties kept."""
    model, other = _model("attention"), _model("attention")
    quantise(model, kind)
    quantise(other, kind, numbers=False)
    other.load_state_dict(model.state_dict())
    ids = torch.arange(30).unsqueeze(0)
    assert torch.equal(_logits(other, ids), _logits(model, ids))
    assert other.decoder.embedding.table.matrix is other.head.projection.matrix


def test_a_copy_reads_its_own_matrices():
    model = _model("attention")
    quantise(model, "int8")
    ids = torch.arange(5).unsqueeze(0)
    expected = _logits(model, ids)
    other = copy.deepcopy(model)
    for tensor in model.buffers():
        tensor.zero_()
    assert torch.equal(_logits(other, ids), expected)


def test_gradients_pass_through_to_what_is_before():
    """The matrices do not learn, a layer under them may."""
    layer = nn.Sequential(Linear(64, 64))
    quantise(layer, "int4")
    x = torch.randn(2, 64, requires_grad=True)
    y = layer(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    weight = quantised.unpack(layer[0].packed, "int4")
    assert torch.allclose(gradient, weight.sum(0).expand(2, -1), atol=1e-4)


def test_twice_and_what_is_not_finite_are_refused():
    model = _model("attention")
    quantise(model, "int8")
    with pytest.raises(UserError, match="is int8 already"):
        quantise(model, "int4")
    broken = nn.Sequential(Linear(32, 32))
    nn.init.constant_(broken[0].weight, float("nan"))
    with pytest.raises(UserError, match="not finite cannot be int8"):
        quantise(broken, "int8")
