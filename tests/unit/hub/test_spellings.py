"""Every spelling of a model computes what the model does, and says so by its configuration."""

import pytest
import torch

from jogak import config, models
from jogak.hub.spellings import CHANGES, spellings

PLAIN = {"width": 10, "vocab_size": 30, "max_length": 16, "position": "sinusoidal", "dropout": 0.0}
STACK = {"depth": 2, "pattern": [{"name": "attention", "heads": 2}], "placement": "pre", "feedforward": {"width": 12}}
GIVEN = {
    "encoder-decoder": {**PLAIN, "encoder": STACK, "decoder": {**STACK, "cross": {"name": "attention", "heads": 5}}},
    "decoder": {**PLAIN, "tie": "output", "decoder": {**STACK, "placement": "parallel", "norm": "rms"}},
    "encoder": {
        **PLAIN,
        "width": 11,
        "tie": "none",
        "encoder": {**STACK, "pattern": [{"name": "bidirectional", "inner": "gru"}]},
    },
}


@torch.no_grad()
@pytest.mark.parametrize("topology", GIVEN)
def test_every_spelling_computes_the_same(topology):
    given = config.Model.model_validate({"topology": topology, **GIVEN[topology]})
    torch.manual_seed(0)
    model = models.build(given).eval()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    ids = torch.randint(30, (2, 7))
    inputs = (ids, ids[:, :5]) if topology == "encoder-decoder" else (ids,)
    wanted, seen = model(*inputs), []
    for spelling in spellings(given):
        seen.append(spelling.given)
        found = spelling.module(model, given)(*inputs)
        assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
    assert seen[0] == given
    assert len({s.model_dump_json() for s in seen}) == len(seen)
    assert len(seen) >= 4
    assert len(CHANGES) >= 5


def test_halves_need_tensors_that_are_known():
    """A recurrent mixer's own order of the stream is not touched."""
    given = config.Model.model_validate({"topology": "encoder", **GIVEN["encoder"]})
    assert all(s.given.position != "sinusoidal_halves" for s in spellings(given))
