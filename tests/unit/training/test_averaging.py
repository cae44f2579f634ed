import pytest
import torch
from torch import nn

from jogak.training import averaging


def walk(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("every", [1, 3])
def test_moving_average_is_its_formula(every):
    model = nn.Linear(3, 2)
    average = averaging.MovingAverage(model, 0.9, every)
    expected = model.weight.detach().double()
    for step in range(1, 40):
        walk(model, step)
        average.update(step)
        if step % every == 0:
            decay = min(0.9, (1 + step) / (10 + step)) ** every
            expected = decay * expected + (1 - decay) * model.weight.detach().double()
    torch.testing.assert_close(average.weights()["weight"].double(), expected, rtol=1e-5, atol=1e-6)


def test_last_average_is_the_mean_of_now_and_the_scheduled_checkpoints_before():
    model = nn.Linear(3, 2)
    saved = {}
    average = averaging.LastAverage(model, 3, saved.__getitem__)
    for step in range(1, 12):
        walk(model, step)
        average.update(step)
        if step % 2 == 0:
            saved[step] = {n: p.clone() for n, p in averaging.parameters_of(model).items()}
            average.snapshot(step)
    assert average.needs() == {6, 8, 10}
    now = model.weight.detach()
    torch.testing.assert_close(average.weights()["weight"], (now + saved[8]["weight"] + saved[10]["weight"]) / 3)
    average.load(None, [6, 8])
    average.update(8)
    mean = average.weights()["weight"]
    torch.testing.assert_close(mean, (now + saved[6]["weight"]) / 2)


def test_wearing_gives_the_own_weights_back_to_the_bit_whatever_happens():
    model = nn.Linear(3, 2)
    own = [p.detach().clone() for p in model.parameters()]
    other = {n: torch.full_like(p, float("nan")) for n, p in model.named_parameters()}

    def interrupted():
        with averaging.wearing(model, other):
            assert all(p.isnan().all() for p in model.parameters())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(torch.equal(a, b) for a, b in zip(own, model.parameters(), strict=True))
