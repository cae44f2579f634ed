"""The loss of a head is that of its own scores, whatever stands between the stack and them."""

import pytest
import torch

from jogak import config, models
from jogak.errors import UserError
from jogak.models import Decoder
from jogak.tasks._loss import token_loss

HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"scale": 0.5},
    "softcap": {"softcap": 2.0},
    "transform": {"transform": "gelu"},
}


def model_of(head: dict[str, object]) -> Decoder:
    tree = {"topology": "decoder", "width": 16, "dropout": 0.0, "decoder": {"depth": 1}, "head": head}
    torch.manual_seed(0)
    model = models.build(config.validate(config.Model, tree, "test", {}), 11)
    assert isinstance(model, Decoder)
    for parameter in model.parameters():  # so that biases count
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_that_of_the_heads_scores(head: str, smoothing: float) -> None:
    model = model_of(HEADS[head])
    hidden, targets = torch.randn(7, 16), torch.randint(0, 11, (7,))
    log_p = model.head(hidden).double().log_softmax(-1)
    nll = -log_p[torch.arange(7), targets].sum()
    wanted = (1 - smoothing) * nll - smoothing * log_p.mean(-1).sum()
    loss, found = token_loss(model, hidden, targets, smoothing)
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert float(found) == pytest.approx(float(nll.detach()), rel=1e-5)


def test_a_head_without_scores_is_refused() -> None:
    with pytest.raises(UserError, match="no scores of units"):
        token_loss(model_of({"kind": "none"}), torch.randn(2, 16), torch.tensor([0, 1]), 0.0)
