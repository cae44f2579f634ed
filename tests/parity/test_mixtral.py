"""The load-balancing loss of a mixture of experts, beside that of `transformers`."""

from pathlib import Path

import pytest
import torch

from jogak.families import mixtral
from jogak.hub.checkpoint import Checkpoint
from jogak.hub.read import read
from jogak.layers.moe import Experts, balance_loss
from jogak.models import Decoder

transformers = pytest.importorskip("transformers")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("padded", [False, True])
def test_load_balancing_loss(tmp_path: Path, padded: bool) -> None:
    torch.manual_seed(0)
    fields = mixtral.TINY["MixtralForCausalLM"]
    theirs = transformers.MixtralForCausalLM(transformers.MixtralConfig(**fields)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path)
    ours = read(Checkpoint(tmp_path)).model
    assert isinstance(ours, Decoder)
    ids = torch.randint(10, 120, (3, 11))
    mask = torch.arange(11) < torch.tensor([11, 6, 9]).unsqueeze(1) if padded else None
    given = None if mask is None else mask.long()
    wanted = theirs(input_ids=ids, attention_mask=given, output_router_logits=True).aux_loss
    ours.train()
    ours(ids, mask)
    found = balance_loss(ours, mask)
    assert found is not None
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    gates = [f"model.layers.{i}.mlp.gate.weight" for i in range(2)]
    slopes = torch.autograd.grad(wanted, [dict(theirs.named_parameters())[g] for g in gates])
    for block, slope in zip(ours.decoder.stack.blocks, slopes, strict=True):
        assert isinstance(block.feedforward, Experts)
        found_slope = torch.autograd.grad(found, block.feedforward.router.weight, retain_graph=True)[0]
        torch.testing.assert_close(found_slope, slope, rtol=1e-4, atol=1e-6)
