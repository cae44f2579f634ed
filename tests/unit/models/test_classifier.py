"""The classifier: its preset's size, what it refuses, and that padding does not change its answer."""

import pytest
import torch

from jogak import config, models
from jogak.errors import UserError


def test_the_sentence_cnn_has_the_papers_size():
    """Kim 2014, table 1 and section 3.1: 18,765 words of 300, widths 3, 4, 5 with 100 maps, two classes."""
    model = models.build(config.read_preset("sentence-cnn"), device="meta")
    convolutions = sum(width * 300 * 100 + 100 for width in (3, 4, 5))
    assert models.parameter_count(model) == 18_765 * 300 + convolutions + (300 * 2 + 2) == 5_990_402


@pytest.mark.parametrize("topology", ["encoder", "decoder"])
@pytest.mark.parametrize("pool", ["mean", "max", "first", "last", "convolutions"])
def test_padding_does_not_change_the_answer(topology, pool):
    stack = {"depth": 1, "pattern": [{"name": "attention", "heads": 2, "position": "rotary"}], "placement": "pre"}
    tree = {"topology": topology, "width": 16, "position": "none", topology: stack, "dropout": 0.0}
    given = config.validate(config.Model, {**tree, "head": {"kind": "classes", "classes": 3, "pool": pool}}, "t", {})
    torch.manual_seed(0)
    model = models.build(given, 20).eval()
    ids = torch.randint(20, (2, 6))
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, 6:] = False
    padded = torch.cat([ids, torch.zeros(2, 3, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(model(padded, mask), model(ids))
    assert model(ids).shape == (2, 3)


def test_what_cannot_be_is_told():
    with pytest.raises(UserError, match=r"model\.head\.classes is not set"):
        models.build(config.Model(topology="encoder", head=config.Head(kind="classes")), 10)
    with pytest.raises(ValueError, match="needs topology 'encoder' or 'decoder'"):
        config.Model(head=config.Head(kind="classes"))
