"""Chronos: a T5 whose units are bins of values. The codec by its published definition, the model beside theirs."""

import json
from pathlib import Path

import pytest
import torch

import jogak
from jogak.codecs.values import Values
from jogak.errors import UserError
from jogak.families import t5

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
SETTINGS = {
    "tokenizer_class": "MeanScaleUniformBins",
    "tokenizer_kwargs": {"low_limit": -15.0, "high_limit": 15.0},
    "n_tokens": 120,
    "n_special_tokens": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "use_eos_token": True,
    "model_type": "seq2seq",
    "context_length": 20,
    "prediction_length": 6,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    sizes = {**t5.TINY["T5ForConditionalGeneration"], "pad_token_id": 0, "eos_token_id": 1}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, chronos_config=SETTINGS))
    model.save_pretrained(tmp_path)
    return tmp_path


def test_values_to_bins_and_back(folder: Path) -> None:
    """Bin by bin: a scaled value has the unit of the nearest centre, and comes back as that centre."""
    codec = Values.read(folder)
    torch.manual_seed(1)
    series = torch.randn(3, 17).cumsum(1) * torch.tensor([[1.0], [1e-3], [1e4]])
    series[0, 3:5] = torch.nan
    ids, mask, scale = codec.encode(series)
    assert ids.shape == mask.shape == (3, 18)
    assert ids[:, -1].tolist() == [1, 1, 1]
    assert ids[0, 3:5].tolist() == [0, 0]
    assert not mask[0, 3:5].any()
    assert int(mask.sum()) == 3 * 18 - 2
    assert torch.allclose(scale, torch.stack([row[~row.isnan()].abs().mean() for row in series]))
    scaled = series / scale.unsqueeze(1)
    nearest = (scaled.unsqueeze(-1) - codec.centres).abs().argmin(-1)
    assert torch.equal((ids[:, :-1] - 3)[mask[:, :-1]], nearest[mask[:, :-1]])
    back = codec.decode(ids[:, :-1], scale)
    spacing = 30 / (117 - 1)
    assert float(((back / scale.unsqueeze(1)) - scaled)[mask[:, :-1]].abs().max()) <= spacing / 2 + 1e-5


def test_edges(folder: Path) -> None:
    codec = Values.read(folder)
    ids, mask, scale = codec.encode(torch.zeros(30))
    assert scale.tolist() == [1.0]
    assert ids.shape == (1, 21)  # the last 20, and the end
    assert mask.all()
    ids, _, scale = codec.encode(torch.tensor([1e-9] * 19 + [1e9]))
    assert int(ids[0, 19]) == 119  # beyond the last bin
    assert float(codec.decode(ids[:, 19:20], scale)[0, 0] / scale[0]) == 15.0
    assert codec.encode(torch.full((4,), torch.nan)).scale.tolist() == [1.0]
    for wrong in (torch.tensor([1.0, torch.inf]), torch.zeros(0), torch.zeros(1, 2, 3)):
        with pytest.raises(UserError, match="a series must be"):
            codec.encode(wrong)
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(UserError, match="chronos_config"):
        Values.read(folder)


@torch.no_grad()
def test_forecasts_as_theirs(folder: Path) -> None:
    """The likeliest units after a series with missing values, and so its forecast."""
    model, codec = jogak.load(str(folder)), Values.read(folder)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    torch.manual_seed(2)
    series = torch.randn(2, 20).cumsum(1)
    series[1, :6] = torch.nan
    ids, mask, scale = codec.encode(series)
    start = torch.zeros(2, 1, dtype=torch.int64)
    wanted = theirs(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=start).logits
    found = model.module(ids, start, mask)
    assert torch.allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()), rtol=0)
    plain = transformers.GenerationConfig(pad_token_id=0, eos_token_id=None, decoder_start_token_id=0)
    told = theirs.generate(ids, attention_mask=mask.long(), generation_config=plain, max_new_tokens=6, do_sample=False)
    units = torch.tensor(model.generate(ids, max_new_tokens=6, mask=mask, end=-1).ids)
    assert torch.equal(units, told[:, 1:])
    assert codec.decode(units, scale).shape == (2, 6)


@torch.no_grad()
def test_missing_values_keep_their_places(folder: Path) -> None:
    """A hole in the middle of a series, as theirs reads it with an attention mask."""
    model, codec = jogak.load(str(folder)), Values.read(folder)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    series = torch.randn(2, 20, generator=torch.Generator().manual_seed(3)).cumsum(1)
    series[0, 8:12] = torch.nan
    ids, mask, _ = codec.encode(series)
    wanted = theirs.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    found = model.module.read(ids, mask, positions=torch.arange(21).expand(2, -1)).memory
    assert torch.allclose(found[mask], wanted[mask], atol=1e-5)


@torch.no_grad()
def test_forecast_draws_as_the_scores_say(folder: Path) -> None:
    """Units of the first step come as often as theirs are likely; the seed decides; further on it reads itself."""
    model, codec = jogak.load(str(folder)), Values.read(folder)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    series = torch.randn(20, generator=torch.Generator().manual_seed(4)).cumsum(0)
    found = model.forecast(series, 1, samples=4000, seed=1)
    ids, mask, scale = codec.encode(series)
    start = torch.zeros(1, 1, dtype=torch.int64)
    logits = theirs(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=start).logits[0, -1]
    kept = logits.topk(50)
    wanted = (codec.decode(kept.indices.unsqueeze(0), scale)[0] * kept.values.softmax(-1)).sum()
    spread = found.samples.std() / 4000**0.5
    assert abs(found.samples.mean() - wanted) < 5 * spread
    again = model.forecast(series, samples=5, seed=1)
    assert again.samples.shape == (1, 5, 6, 1)
    assert torch.equal(again.samples, model.forecast(series, samples=5, seed=1).samples)
    assert not torch.equal(again.samples, model.forecast(series, samples=5, seed=2).samples)
    assert torch.equal(again.quantile(0.5), again.values)
    assert torch.equal(model.forecast(series, 15, samples=5, seed=1).samples[:, :, :6], again.samples)
    assert model.forecast(torch.randn(2, 9), 15, samples=3).values.shape == (2, 15, 1)


def test_what_does_not_forecast(folder: Path) -> None:
    model = jogak.load(str(folder))
    for settings, told in [({"ahead": 0}, "ahead must be"), ({"samples": 0}, "samples must be")]:
        with pytest.raises(UserError, match=told):
            model.forecast([1.0, 2.0], **settings)
    model.fields.pop("chronos_config")
    with pytest.raises(UserError, match="forecasts nothing"):
        model.forecast([1.0, 2.0])
