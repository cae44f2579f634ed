"""Series of numbers as units, for models of language that forecast.

Legend: B batch, T values, S samples, H values ahead.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from jogak.errors import UserError
from jogak.families._fields import Fields


class Encoded(NamedTuple):
    """ids int64 [B T], mask bool [B T] (False: a value is missing), scale float32 [B]: what one unit of each row is."""

    ids: Tensor
    mask: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Values:
    """x / mean |x|, and the number of the bin that it falls into: values [B T] -> units [B T].

    low, high: centres of the first and last of the evenly spaced bins, in units of the scale. units: how many there are
    with the `special` ones before them. context: values at most, of which the last are kept. end: the unit behind
    them, None: none. pad: the unit of a missing value.

    Source: Ansari et al. 2024 (2403.07815) section 3.1, with its published code's borders.
    """

    low: float = -15.0
    high: float = 15.0
    units: int = 4096
    special: int = 2
    context: int = 512
    ahead: int = 64
    end: int | None = 1
    pad: int = 0

    def __post_init__(self) -> None:
        if not self.low < self.high or self.special < 1 or self.units < self.special + 3:
            raise UserError(
                f"values: there must be two bins at least, from low to high, got {self.units} units, {self.special} of "
                f"them special, from {self.low} to {self.high}"
            )

    @classmethod
    def read(cls, path: str | Path) -> "Values":
        """As `chronos_config` in config.json says, in the folder of a checkpoint or itself.

        Raises: UserError for settings that are missing, damaged, or not supported.
        """
        file = Path(path)
        file = file / "config.json" if file.is_dir() else file
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{file}: there is no such file") from None
        except (ValueError, OSError) as error:
            raise UserError(f"{file}: damaged ({error}); restore it") from None
        return cls.of(Fields(found if isinstance(found, dict) else {}, str(file)))

    @classmethod
    def of(cls, fields: Fields) -> "Values":
        """As config.json's fields say.

        Raises: UserError for settings that are missing or not supported.
        """
        if "chronos_config" not in fields:
            raise UserError(f"{fields.where}: 'chronos_config' is missing, which says how values become units")
        given = fields.section("chronos_config")
        given.only("tokenizer_class", "MeanScaleUniformBins")
        given.only("model_type", "seq2seq", "causal")
        bounds = given.section("tokenizer_kwargs")
        ends = given.flag("use_eos_token", True) and given.text("model_type", "seq2seq") == "seq2seq"
        return cls(
            low=bounds.number("low_limit", -15.0),
            high=bounds.number("high_limit", 15.0),
            units=given.integer("n_tokens"),
            special=given.integer("n_special_tokens"),
            context=given.integer("context_length"),
            ahead=given.integer("prediction_length", 64),
            end=given.integer("eos_token_id", 1, least=0) if ends else None,
            pad=given.integer("pad_token_id", 0, least=0),
        )

    @property
    def centres(self) -> Tensor:
        """The value of each bin, in units of the scale; no value falls into the first."""
        return torch.linspace(self.low, self.high, self.units - self.special - 1)

    def encode(self, values: Tensor) -> Encoded:
        """Values [T] or [B T], NaN where one is missing -> units, one more where there is an end.

        Raises: UserError for what is no series.
        """
        x = torch.as_tensor(values).float()
        x = x.unsqueeze(0) if x.dim() == 1 else x
        if x.dim() != 2 or 0 in x.shape or bool(x.isinf().any()):
            raise UserError(f"a series must be finite values [time] or [batch, time], got {list(x.shape)}")
        x = x[:, -self.context :]
        mask = ~x.isnan()
        scale = x.abs().nansum(1) / mask.sum(1)
        scale = torch.where(scale > 0, scale, 1.0)
        centres = self.centres
        borders = torch.cat([torch.tensor([-1e20]), (centres[1:] + centres[:-1]) / 2, torch.tensor([1e20])])
        ids = torch.bucketize(x / scale.unsqueeze(1), borders, right=True) + self.special
        ids = ids.clamp(0, self.units - 1).masked_fill(~mask, self.pad)
        if self.end is not None:
            ids = torch.cat([ids, torch.full((len(ids), 1), self.end)], dim=1)
            mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=torch.bool)], dim=1)
        return Encoded(ids, mask, scale)

    def decode(self, ids: Tensor, scale: Tensor) -> Tensor:
        """Units [B ...] and the scale [B] of their rows -> values of the same shape, float32."""
        bins = (ids - self.special - 1).clamp(0, self.units - self.special - 2)
        return self.centres[bins] * scale.view(-1, *[1] * (ids.dim() - 1))
