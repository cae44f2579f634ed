import pytest
import torch
from torch import nn

from jogak import config
from jogak.errors import UserError
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
def test_clip(limit):
    torch.manual_seed(0)
    layer = nn.Linear(20, 30)
    for parameter in layer.parameters():
        parameter.grad = torch.randn_like(parameter)
    gradients = torch.cat([p.grad.flatten().double() for p in layer.parameters()])
    norm = optimiser.clip(list(layer.parameters()), limit)
    assert float(norm) == pytest.approx(float(gradients.norm()), rel=1e-6)
    after = torch.cat([p.grad.flatten().double() for p in layer.parameters()])
    scale = 1.0 if limit != 0.5 else 0.5 / float(gradients.norm())
    torch.testing.assert_close(after, gradients * scale, rtol=1e-5, atol=0)


def test_nothing_to_train_is_refused():
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(UserError, match="no parameter to train"):
        optimiser.build(model, config.Train())
