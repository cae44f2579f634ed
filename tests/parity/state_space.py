"""What the parity tests of Mamba and Mamba-2 share: weights copied by name, and the same questions to both sides."""

import torch
from torch import Tensor, nn

from jogak import config, models
from jogak.mixers import Mixer
from jogak.models import Decoder
from tests.laws.support import close, close_all, noise

VOCABULARY, WIDTH, DEPTH = 50, 24, 2
TOLERANCE = 1e-4


def stirred(model: nn.Module) -> nn.Module:
    """Every parameter far from where it started."""
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(noise(*parameter.shape, seed=number), alpha=0.2)
    return model.eval()


def decoder(**mixer: object) -> Decoder:
    """Pre-norm RMS blocks of the mixer alone, with a tied head."""
    stack = {"depth": DEPTH, "pattern": [mixer], "feedforward": None, "norm": "rms", "placement": "pre"}
    given = {
        "topology": "decoder",
        "width": WIDTH,
        "position": "none",
        "tie": "output",
        "scale_embedding": False,
        "dropout": 0.0,
        "decoder": stack,
    }
    model = models.build(config.validate(config.Model, given, "test", {}), VOCABULARY)
    assert isinstance(model, Decoder)
    return model.eval()


def named(mixer: dict[str, str]) -> dict[str, str]:
    """Our names of a full model's parameters, and theirs."""
    table = {
        "decoder.embedding.table.weight": "backbone.embeddings.weight",
        "decoder.stack.final_norm.weight": "backbone.norm_f.weight",
    }
    for i in range(DEPTH):
        block, layer = f"decoder.stack.blocks.{i}", f"backbone.layers.{i}"
        table[f"{block}.mixer_residual.norm.weight"] = f"{layer}.norm.weight"
        table |= {f"{block}.mixer.{a}": f"{layer}.mixer.{b}" for a, b in mixer.items()}
    return table


def copy(ours: nn.Module, other: nn.Module, table: dict[str, str]) -> None:
    """Every parameter of ours from theirs; none is left over on either side."""
    mine, given = dict(ours.named_parameters()), dict(other.named_parameters())
    assert set(table) == set(mine)
    assert set(table.values()) == set(given)
    with torch.no_grad():
        for name, source in table.items():
            mine[name].copy_(given[source].view_as(mine[name]))


def _gradients(model: nn.Module, y: Tensor, names: dict[str, str]) -> dict[str, Tensor]:
    """Of a weighted sum of y, by our names, of what is called by theirs."""
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(y, [parameters[n] for n in names.values()], noise(*y.shape, seed=2))
    return dict(zip(names, found, strict=True))


def _agree(ours: nn.Module, other: nn.Module, y: Tensor, expected: Tensor, table: dict[str, str]) -> None:
    close(y.detach(), expected.detach(), "output", tolerance=TOLERANCE)
    actual, wanted = _gradients(ours, y, {n: n for n in table}), _gradients(other, expected, table)
    wanted = {n: g.view_as(actual[n]) for n, g in wanted.items()}
    close_all(actual, wanted, "gradient", tolerance=TOLERANCE)


def layers_agree(ours: Mixer, other: nn.Module, table: dict[str, str], length: int) -> None:
    """Output, and gradients of parameters and of the input."""
    copy(ours, other, table)
    x = noise(2, length, WIDTH, seed=1)
    _agree(ours, other, ours(x)[0], other(x), table)
    first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = ours(first)[0]
    found = torch.autograd.grad(y, first, noise(*y.shape, seed=2))[0]
    close(found, torch.autograd.grad(other(second), second, noise(*y.shape, seed=2))[0], "gradient of x")


def models_agree(ours: Decoder, other: nn.Module, table: dict[str, str]) -> None:
    """Logits, and gradients of all parameters."""
    copy(ours, other, table)
    ids = torch.randint(VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(3))
    _agree(ours, other, ours(ids), other(ids).logits, table)


def steps_agree(ours: Decoder, other: nn.Module, table: dict[str, str]) -> None:
    """Logits of a prompt, then of ten cached steps."""
    copy(ours, other, table)
    ids = torch.randint(VOCABULARY, (2, 30), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        result = other(ids[:, :20], use_cache=True)
        logits, state = ours.decode(ids[:, :20])
        close(logits, result.logits, "prompt", tolerance=TOLERANCE)
        for t in range(20, 30):
            result = other(ids[:, t : t + 1], cache_params=result.cache_params, use_cache=True)
            logits, state = ours.decode(ids[:, t : t + 1], state)
            close(logits, result.logits, f"step {t}", tolerance=TOLERANCE)
