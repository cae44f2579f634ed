"""How a series goes on, by a checkpoint that tells so at once, or that writes units of values.

Legend: B batch, L values, C channels, H values ahead, S samples, V units.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jogak.codecs.values import Values
from jogak.decoding.processors import Chain
from jogak.decoding.sampling import draw, generator
from jogak.decoding.settings import Sampling
from jogak.errors import UserError
from jogak.families._fields import Fields
from jogak.models import EncoderDecoder, Forecaster, Source

if TYPE_CHECKING:
    from jogak.hub.pretrained import Pretrained

SETTINGS = "chronos_config"


@dataclass(frozen=True)
class Forecast:
    """values: float32 [B H C], of samples their medians. samples: float32 [B S H C]; None where nothing was drawn."""

    values: Tensor
    samples: Tensor | None = None

    def quantile(self, q: float) -> Tensor:
        """What a part q of the samples is below: float32 [B H C].

        Raises: UserError where nothing was drawn, or q is no part.
        """
        if self.samples is None:
            raise UserError("this model tells one value and draws no samples; there are no quantiles")
        if not 0 <= q <= 1:
            raise UserError(f"a quantile is from 0 to 1, got {q}")
        return self.samples.quantile(q, dim=1)


def can_forecast(model: "Pretrained") -> bool:
    """Whether a checkpoint is one of series."""
    return isinstance(model.module, Forecaster) or SETTINGS in model.fields


def forecast(
    model: "Pretrained",
    series: Tensor | Sequence[float],
    ahead: int | None = None,
    *,
    samples: int | None = None,
    seed: int = 0,
) -> Forecast:
    """The next values of series [B L C] ([L] and [B L]: of one channel; NaN: a value is missing).

    ahead: how many; None: as far as the model was trained to look. Further, what was told is read again.
    samples: how many ways to go on are drawn, by a model that draws; None: as the checkpoint says. seed: of the draws.

    Raises: UserError for a model that does not forecast, or a series that does not fit.
    """
    if not can_forecast(model):
        raise UserError(f"{model.folder}: this model forecasts nothing; patchtst and chronos do")
    if ahead is not None and ahead < 1:
        raise UserError(f"ahead must be at least 1, got {ahead}")
    x = _batch(series).to(model.device)
    with torch.inference_mode():
        if isinstance(model.module, Forecaster):
            if samples is not None:
                raise UserError(f"{model.folder}: this model tells one value and draws no samples; leave them out")
            return _told(model, model.module, x, ahead)
        if samples is not None and samples < 1:
            raise UserError(f"samples must be at least 1, got {samples}")
        return _drawn(model, x, ahead, samples, seed)


def _batch(series: Tensor | Sequence[float]) -> Tensor:
    x = torch.as_tensor(series).float()
    x = x.unsqueeze(0) if x.dim() == 1 else x
    x = x.unsqueeze(2) if x.dim() == 2 else x
    if x.dim() != 3 or 0 in x.shape or bool(x.isinf().any()):
        raise UserError(f"a series must be finite values [time] or [batch, time, channels], got {list(x.shape)}")
    return x


def _told(model: "Pretrained", module: Forecaster, x: Tensor, ahead: int | None) -> Forecast:
    wanted, length, channels = ahead or module.ahead, module.length, module.series.rows
    if x.shape[1] < length or x.shape[2] != channels:
        raise UserError(
            f"{model.folder}: reads {length} values of {channels} channels, got {list(x.shape)}; values that are "
            "missing may be NaN"
        )
    begin = x.shape[1]
    while x.shape[1] < begin + wanted:
        x = torch.cat([x, module(x[:, -length:]).float()], dim=1)
    return Forecast(x[:, begin : begin + wanted].cpu())


# ---------------------------------------------------------------- models of language


def _drawn(model: "Pretrained", x: Tensor, ahead: int | None, samples: int | None, seed: int) -> Forecast:
    """Every channel for itself; beyond the codec's own reach it goes on from the medians of what was drawn."""
    module = model.module
    if not isinstance(module, EncoderDecoder):
        raise UserError(f"{model.folder}: only encoder-decoders draw forecasts")
    where = str(model.folder / "config.json")
    codec, given = Values.of(Fields(model.fields, where)), Fields(model.fields, where).section(SETTINGS)
    count = samples or given.integer("num_samples", 20, most=2**16)
    rows, left = x.transpose(1, 2).flatten(0, 1).cpu(), ahead or codec.ahead
    found: list[Tensor] = []
    while left > 0:
        asked = Sampling(
            max_new_tokens=min(left, codec.ahead),
            temperature=given.positive("temperature", 1.0),
            top_k=given.integer("top_k", 50, least=0),
            top_p=given.positive("top_p", 1.0),
            seed=seed + len(found),
        )
        ids, mask, scale = codec.encode(rows)
        places = torch.arange(ids.shape[1]).expand_as(ids)  # a missing value has a place too
        source = module.read(ids.to(x.device), mask.to(x.device), positions=places.to(x.device))
        units = _units(module, source, len(ids) * count, asked, model.special("decoder_start_token_id", codec.pad))
        found.append(codec.decode(units.view(len(ids), count, -1).cpu(), scale))
        rows = torch.cat([rows, found[-1].median(1).values], dim=1)
        left -= asked.max_new_tokens
    whole = torch.cat(found, dim=2).unflatten(0, (x.shape[0], x.shape[2])).permute(0, 2, 3, 1)  # [B S H C]
    return Forecast(whole.median(1).values, whole)


def _units(module: EncoderDecoder, source: Source, rows: int, asked: Sampling, start: int) -> Tensor:
    """Units that are drawn one after another, each row by a stream of chance of its own: int64 [rows H]."""
    device = module.decoder.embedding.device
    streams = [generator(asked.seed or 0, row) for row in range(rows)]
    chance = torch.stack([torch.rand(asked.max_new_tokens, generator=g, dtype=torch.float64) for g in streams])
    chance = chance.clamp(max=1 - 1e-12).to(device)
    chain = Chain.of([asked] * rows, (), device)
    unit, state, found = torch.full((rows,), start, device=device), None, list[Tensor]()
    for step in range(asked.max_new_tokens):
        logits, state = module.decode(unit.unsqueeze(1), state, source)
        unit = draw(chain(logits[:, -1].float(), unit.unsqueeze(1), 1), chance[:, step])
        found.append(unit)
    return torch.stack(found, dim=1)
