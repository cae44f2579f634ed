"""PatchTST: a checkpoint that forecasts as theirs does, further than one look ahead too."""

from pathlib import Path

import pytest
import torch

import jogak
from jogak.errors import UserError
from jogak.families import patchtst
from jogak.families._fields import Fields

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()


@torch.no_grad()
def test_forecast(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = transformers.PatchTSTConfig(**patchtst.TINY["PatchTSTForPrediction"])
    theirs = transformers.PatchTSTForPrediction(given).eval()
    theirs.save_pretrained(tmp_path)
    model = jogak.load(str(tmp_path), device="cpu")
    x = torch.randn(2, 25, 3).cumsum(1)
    wanted = theirs(past_values=x[:, -21:]).prediction_outputs
    further = theirs(past_values=torch.cat([x, wanted], dim=1)[:, -21:]).prediction_outputs
    found = model.forecast(x, 10)
    assert torch.allclose(found.values, torch.cat([wanted, further], dim=1)[:, :10], atol=1e-4)
    assert found.samples is None
    with pytest.raises(UserError, match="draws no samples"):
        found.quantile(0.5)
    with pytest.raises(UserError, match="draws no samples"):
        model.forecast(x, samples=3)
    with pytest.raises(UserError, match="reads 21 values of 3 channels"):
        model.forecast(x[:, :20])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"channel_attention": True}, "'channel_attention' is True"),
        ({"share_projection": False}, "'share_projection' is False"),
        ({"loss": "nll"}, "'loss' is 'nll'"),
        ({"scaling": "max"}, "'scaling' must be mean, std"),
        ({"patch_length": 21}, "'patch_length' must be below"),
        ({"output_range": [1]}, "'output_range' must be two numbers"),
    ],
)
def test_refusals(changes: dict[str, object], told: str) -> None:
    name = "PatchTSTForRegression" if "output_range" in changes else "PatchTSTForPrediction"
    with pytest.raises(UserError, match=told):
        patchtst.read_config(Fields({**patchtst.TINY[name], "architectures": [name], **changes}, "config.json"))
