import pytest
import torch
from torch import nn
from torch.optim import AdamW

from jogak import config, mixers
from jogak.errors import UserError
from jogak.layers.moe import Experts
from jogak.layers.votes import Votes
from jogak.models import decay
from jogak.training import optimiser
from tests.unit.training.tiny import Tiny


def test_decay_shrinks_matrices_only():
    model = Tiny(weight_decay=0.5, rate=0.1).model
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    made = optimiser.build(model, config.Train(weight_decay=0.5, rate=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    for name, parameter in model.named_parameters():
        shrunk = 0.95 if parameter.ndim >= 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * shrunk, msg=name)
    assert {p.ndim for p in model.parameters()} == {1, 2, 3}


# What is pulled towards zero: projections, taps, and the inner models that test-time training starts from. Not there:
# biases, gains, steps, time constants, decays, skips, and the B of a state space.
PULLED = {
    "additive": {"q.weight", "k.weight", "out.weight"},
    "attention": {"qkv.weight", "out.weight"},
    "bidirectional": {
        *("forwards.read", "forwards.output.out.weight", "backwards.read", "backwards.output.out.weight"),
        "out.weight",
    },
    "convolution": {"weight"},
    "dot": {"k.weight", "out.weight"},
    "gru": {"cell.weight_ih", "cell.weight_hh"},
    "linear_attention": {"qkv.weight", "out.weight"},
    "lstm": {"cell.weight_ih", "cell.weight_hh"},
    "mamba": {"inner.weight", "conv_weight", "select.weight", "dt_weight", "out.weight"},
    "mamba2": {"inner.weight", "conv_weight", "out.weight"},
    "retention": {"inner.weight", "out.weight"},
    "rglru": {"inner.weight", "conv_weight", "gate_weight", "out.weight"},
    "rnn": {"cell.weight_ih", "cell.weight_hh"},
    "s4": {"read", "output.out.weight"},
    "s4d": {"read", "output.out.weight"},
    "ttt": {"read.weight", "conv_weight", "rate_weight", "weight_1", "weight_2", "out.weight"},
}
OPTIONS = {"ttt": {"inner": "mlp"}, "bidirectional": {"inner": "s4d"}}


@pytest.mark.parametrize("name", mixers.names())
def test_decay_spares_what_is_no_projection(name):
    cross = name in ("additive", "dot")
    mixer = mixers.build(name, d_model=64, cross=cross, **OPTIONS.get(name, {}))
    decayed, kept = decay.split(mixer)
    names = {id(p): n for n, p in mixer.named_parameters()}
    pulled, left = ({names[id(p)] for p in group} for group in (decayed, kept))
    assert pulled | left == set(names.values())
    assert pulled == PULLED[name]
    made = optimiser.build(mixer, config.Train(weight_decay=0.5))
    assert {names[id(p)] for g in made.param_groups if g["weight_decay"] for p in g["params"]} == pulled


@pytest.mark.parametrize("name", mixers.names())
def test_what_is_spared_is_there(name):
    """A name that no parameter has would spare nothing, in silence."""
    cross = name in ("additive", "dot")
    for module in mixers.build(name, d_model=64, cross=cross, **OPTIONS.get(name, {})).modules():
        own = {n for n, _ in module.named_parameters(recurse=False)}
        assert set(getattr(module, "undecayed", ())) <= own, f"{name}: {type(module).__name__} names what it has not"


def test_biases_of_experts_and_votes_do_not_decay():
    layers = nn.ModuleList([Experts(8, 16, "relu", 4, 2, bias=True), Votes(8, 3, 2)])
    names = {id(p): n for n, p in layers.named_parameters()}
    assert {names[id(p)] for p in decay.split(layers)[1]} == {"0.inner_bias", "0.out_bias", "1.bias"}


def test_state_comes_back_to_the_bit():
    one, two = Tiny(), Tiny()
    first, second = (optimiser.build(t.model, t.recipe.train) for t in (one, two))

    def update(task, made, seed):
        torch.manual_seed(seed)
        for parameter in task.model.parameters():
            parameter.grad = torch.randn_like(parameter)
        made.step()

    assert optimiser.tensors(first, one.model) == {}
    update(one, first, 1)
    with torch.no_grad():
        for ours, theirs in zip(two.model.parameters(), one.model.parameters(), strict=True):
            ours.copy_(theirs)
    saved = {n: t.clone() for n, t in optimiser.tensors(first, one.model).items()}
    optimiser.load(second, two.model, saved)
    update(one, first, 2)
    update(two, second, 2)
    for ours, theirs in zip(two.model.parameters(), one.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_state_of_another_model_is_refused():
    task = Tiny()
    made = optimiser.build(task.model, task.recipe.train)
    saved = {f"{k}/{n}": p for k in ("exp_avg", "exp_avg_sq", "step") for n, p in task.model.named_parameters()}
    del saved["exp_avg/norm.bias"]
    with pytest.raises(UserError, match=r"of another model: 'exp_avg/norm\.bias'"):
        optimiser.load(made, task.model, saved)


@pytest.mark.parametrize("limit", [None, 0.5, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_update_after_clip_is_of_clipped_gradients(limit, dtype):
    torch.manual_seed(0)
    layer = nn.Linear(200, 300).to(dtype)  # more numbers than one part of the norm
    made = AdamW(layer.parameters(), betas=(0.5, 0.9), fused=True)
    for parameter in layer.parameters():
        parameter.grad = torch.randn_like(parameter)
    gradients = torch.cat([p.grad.flatten().double() for p in layer.parameters()])
    assert float(optimiser.clip(made, limit)) == pytest.approx(float(gradients.norm()), rel=1e-6)
    made.step()
    means = torch.cat([made.state[p]["exp_avg"].flatten().double() for p in layer.parameters()])
    scale = 1.0 if limit != 0.5 else 0.5 / float(gradients.norm())
    torch.testing.assert_close(means, 0.5 * gradients * scale, rtol=1e-5, atol=1e-9)


def test_a_clipped_update_does_not_scale_the_next():
    layer = nn.Linear(3, 3)
    made = AdamW(layer.parameters(), betas=(0.5, 0.9), fused=True)
    for size in (100.0, 1e-3):
        for parameter in layer.parameters():
            parameter.grad = torch.full_like(parameter, size)
        optimiser.clip(made, 1.0)
        made.step()
        made.state.clear()
    for parameter in layer.parameters():
        assert torch.equal(parameter.grad, torch.full_like(parameter, 1e-3))


def test_the_norm_of_what_is_infinite_or_no_number_is_not_finite():
    for value in (torch.inf, torch.nan):
        layer = nn.Linear(50, 50)
        for parameter in layer.parameters():
            parameter.grad = torch.ones_like(parameter)
        layer.weight.grad[3, 4] = value
        assert not torch.isfinite(optimiser.clip(AdamW(layer.parameters(), fused=True), 1.0))


def test_nothing_to_train_is_refused():
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(UserError, match="no parameter to train"):
        optimiser.build(model, config.Train())
