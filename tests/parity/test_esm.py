"""What ESM has beside other encoders: older layouts of its files, contacts, hidden units."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from jogak import models
from jogak.families import esm
from jogak.families._fields import Fields
from jogak.hub.checkpoint import Checkpoint
from jogak.hub.read import read
from jogak.layers.masking import HiddenAsZero
from jogak.models import Encoder

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")
ANGLES = "rotary_embeddings.inv_freq"
IDS = torch.tensor([[0, 5, 9, 32, 7, 12, 2], [0, 5, 32, 32, 2, 1, 1]])
MASK = IDS != 1


def theirs() -> Any:
    torch.manual_seed(0)
    given = transformers.EsmConfig(**esm.TINY["EsmForMaskedLM"], attn_implementation="eager")
    model = transformers.EsmForMaskedLM(given).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@torch.no_grad()
@pytest.mark.parametrize("layout", ["by block", "with a star", "present"])
def test_layouts(layout: str, tmp_path: Path) -> None:
    """Files on the hub have the angles in every block and unread positions; what transformers writes has a `*`."""
    model = theirs()
    model.save_pretrained(tmp_path, save_original_format=layout == "with a star")
    file = tmp_path / "model.safetensors"
    if layout == "by block":
        tensors = load_file(file)
        angles = tensors.pop("esm." + ANGLES)
        blocks = range(model.config.num_hidden_layers)
        tensors |= {f"esm.encoder.layer.{i}.attention.self.{ANGLES}": angles.clone() for i in blocks}
        tensors["esm.embeddings.position_embeddings.weight"] = torch.zeros(64, 32)
        tensors["esm.embeddings.position_ids"] = torch.arange(64).unsqueeze(0)
        save_file(tensors, file, {"format": "pt"})
    ours = read(Checkpoint(tmp_path)).model(IDS, MASK)
    wanted = model(IDS, attention_mask=MASK.long()).logits
    torch.testing.assert_close(ours[MASK], wanted[MASK], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_contacts(tmp_path: Path) -> None:
    model = theirs()
    model.save_pretrained(tmp_path, save_original_format=False)
    ours = read(Checkpoint(tmp_path)).model
    assert isinstance(ours, Encoder)
    found = ours.encoder.touching(IDS, MASK)
    wanted = model.predict_contacts(IDS, MASK.long())
    assert found.shape == (2, 5, 5)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_hidden_units_of_packed_documents_are_counted_apart() -> None:
    layer, ids = HiddenAsZero(9), torch.tensor([[1, 9, 2, 3, 4, 9, 9]])
    x = torch.randn(1, 7, 4)
    packed = layer(x, ids, None, torch.tensor([[0, 0, 0, 1, 1, 1, 1]]))
    apart = torch.cat([layer(x[:, :3], ids[:, :3]), layer(x[:, 3:], ids[:, 3:])], dim=1)
    torch.testing.assert_close(packed, apart)
    assert bool((layer(x, torch.full((1, 7), 9)) == 0).all())


def test_a_decoder_cannot_hide_units() -> None:
    fields = {**esm.TINY["EsmForMaskedLM"], "architectures": ["EsmForMaskedLM"]}
    given = esm.read_config(Fields(fields, "esm"))
    assert given.hidden_id == 32
    assert models.build(given, device="meta")
    with pytest.raises(ValueError, match="hidden_id"):
        type(given).model_validate({**given.model_dump(), "topology": "decoder", "encoder": None, "contacts_end": None})
