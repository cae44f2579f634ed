"""One tiny training run for every registered mixer, so that a change of its numbers is seen.

python -m tests.golden.losses      writes losses.json anew: only where the numbers were meant to change
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F

from jogak import config, mixers, models, registry
from jogak.errors import UserError
from jogak.models import Decoder

FILE = Path(__file__).with_name("losses.json")
STEPS, ROWS, LENGTH, WIDTH = 6, 3, 20, 16
TEXT = ("조각보는 여러 조각을 이어 만든다. A patchwork is sewn from many pieces. " * 4).encode()
# What a mixer needs at this width besides its defaults.
OPTIONS: dict[str, dict[str, object]] = {
    "attention": {"heads": 2, "position": "rotary"},
    "bidirectional": {"inner": {"name": "attention", "heads": 2}},
    "linear_attention": {"heads": 2},
    "mamba": {"state": 4},
    "mamba2": {"state": 8, "head_dim": 8},
    "retention": {"heads": 2},
    "rglru": {"blocks": 2},
    "s4": {"size": 8},
    "s4d": {"size": 8},
    "ttt": {"heads": 2},
}


def names() -> list[str]:
    """The mixers that mix a sequence with itself."""
    return [name for name in registry.names("mixers") if hasattr(registry.find("mixers", name), "MIXER")]


def model_of(name: str) -> models.Model:
    """A decoder of two blocks of the mixer; an encoder, where it looks ahead."""
    options = OPTIONS.get(name, {})
    for topology in ("decoder", "encoder"):
        stack = {"depth": 2, "pattern": [{"name": name, **options}], "feedforward": {"width": 32}, "placement": "pre"}
        tree = {"topology": topology, "width": WIDTH, "position": "none", "dropout": 0.0, topology: stack}
        given = config.validate(config.Model, tree, name, {})
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = models.build(given, 256)
                model(torch.zeros(1, 2, dtype=torch.int64))
        except UserError:
            if topology == "encoder":
                raise
        else:
            return model
    raise AssertionError


def loss_of(name: str) -> float:
    """The loss after the last step, in nats, of the next byte (of the byte itself, for an encoder)."""
    model = model_of(name).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)  # without moments, whose division would amplify rounding
    data, ahead = torch.tensor(list(TEXT)), int(isinstance(model, Decoder))
    loss = torch.zeros(())
    for step in range(STEPS + 1):
        at = torch.arange(ROWS).unsqueeze(1) * 37 + step * 11 + torch.arange(LENGTH)
        loss = F.cross_entropy(model(data[at]).flatten(0, 1), data[at + ahead].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    return float(loss.detach())


def read() -> dict[str, float]:
    return json.loads(FILE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    FILE.write_text(json.dumps({name: loss_of(name) for name in names()}, indent=2) + "\n", encoding="utf-8")
    print(FILE.read_text(encoding="utf-8"), end="")
    assert set(read()) <= set(mixers.names())
