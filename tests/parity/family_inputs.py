"""What a model of `transformers` is given in the family tests, and the same for ours."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from jogak.hub.verify import OUTPUTS

ROWS, LENGTH = 3, 11
LENGTHS = torch.tensor([LENGTH, 6, 9])


@dataclass(frozen=True)
class Inputs:
    """ours: the arguments of our module. theirs: of theirs. real: which outputs count, None for all of them.

    masked: whether there is padding; without: the same with none.
    """

    ours: tuple[Tensor | None, ...]
    theirs: dict[str, Tensor]
    real: Tensor | None = None
    without: "Inputs | None" = None

    @property
    def masked(self) -> bool:
        return self.without is not None

    def bare(self) -> "Inputs":
        return self.without or self

    def output(self, model: nn.Module) -> Tensor:
        """Logits, or the last hidden states of a model without a head."""
        found = model(**self.theirs)
        for name in OUTPUTS:
            if name in found:
                return found[name]
        raise AssertionError(f"{type(model).__name__} gives {list(found)}")

    def to(self, dtype: torch.dtype) -> "Inputs":
        """Floating inputs in another dtype."""

        def cast(t: Tensor | None) -> Tensor | None:
            return t.to(dtype) if t is not None and t.is_floating_point() else t

        ours = tuple(map(cast, self.ours))
        return replace(self, ours=ours, theirs={k: cast(t) for k, t in self.theirs.items()})

    def prompt(self) -> tuple[tuple[Tensor, Tensor | None], dict[str, Tensor]]:
        """What is to be gone on from, padded on the left (a source: as it is): ours, and theirs."""
        if "decoder_input_ids" in self.theirs:
            kept = {k: t for k, t in self.theirs.items() if not k.startswith("decoder_")}
            return (self.ours[0], self.ours[2]), kept
        ids = self.bare().ours[0]
        mask = torch.arange(LENGTH) >= LENGTH - LENGTHS.unsqueeze(1)
        ids = ids.masked_fill(~mask, 0)
        return (ids, mask), {"input_ids": ids, "attention_mask": mask.long()}


def units(model: nn.Module) -> Inputs:
    """Rows of ids, padded on the right."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(10, model.config.vocab_size, (ROWS, LENGTH), generator=generator)
    mask = torch.arange(LENGTH) < LENGTHS.unsqueeze(1)
    whole = Inputs((ids,), {"input_ids": ids})
    pad = getattr(model.config, "pad_token_id", None) or 0
    ids = ids.masked_fill(~mask, pad)
    per_row = "Classification" in type(model).__name__
    theirs = {"input_ids": ids, "attention_mask": mask.long()}
    return Inputs((ids, mask), theirs, None if per_row else mask, whole)


def pairs(model: nn.Module) -> Inputs:
    """A source, padded, and a target."""
    source = units(model)
    generator = torch.Generator().manual_seed(2)
    size = getattr(model.config, "decoder_vocab_size", None) or model.config.vocab_size
    ids = torch.randint(10, size, (ROWS, 7), generator=generator)

    def joined(given: Inputs) -> Inputs:
        mask = given.ours[1] if len(given.ours) > 1 else None
        return Inputs((given.ours[0], ids, mask), {**given.theirs, "decoder_input_ids": ids})

    return replace(joined(source), without=joined(source.bare()))


def pictures(model: nn.Module) -> Inputs:
    """Random pixels; there is no padding."""
    size = model.config.image_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(ROWS, model.config.num_channels, height, width, generator=generator)
    return Inputs((pixels,), {"pixel_values": pixels})


def frames(model: nn.Module) -> Inputs:
    """Random frames of full length, and a target."""
    generator = torch.Generator().manual_seed(1)
    given = model.config
    x = torch.randn(ROWS, given.num_mel_bins, 2 * given.max_source_positions, generator=generator)
    ids = torch.randint(10, given.vocab_size, (ROWS, 7), generator=generator)
    return Inputs((x, ids, None), {"input_features": x, "decoder_input_ids": ids})


def waves(model: nn.Module) -> Inputs:
    """Samples, padded behind where theirs then norms no padding with them."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, 120, generator=generator)
    whole = Inputs((x,), {"input_values": x})
    if model.config.feat_extract_norm == "group":
        return whole
    mask = torch.arange(120) < torch.tensor([[120], [61], [90]])
    x = x.masked_fill(~mask, 0)
    lengths = model._get_feat_extract_output_lengths(mask.sum(1))
    real = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    per_row = "Classification" in type(model).__name__
    return Inputs((x, mask), {"input_values": x, "attention_mask": mask.long()}, None if per_row else real, whole)


def captions(model: nn.Module) -> Inputs:
    """Texts that end with the unit that vectors are read at, padding behind it."""
    given, config = units(model), model.config
    ids, mask = given.ours
    ends = LENGTHS.unsqueeze(1) - 1
    ids = ids.scatter(1, ends, config.eos_token_id)
    whole = given.bare().ours[0].scatter(1, ends, config.eos_token_id)
    real = None if "Projection" in type(model).__name__ else mask
    theirs = {"input_ids": ids, "attention_mask": mask.long()}
    return Inputs((ids, mask), theirs, real, Inputs((whole,), {"input_ids": whole}))


def towers(model: nn.Module) -> Inputs:
    """Pictures, and captions."""
    seen, read = pictures(model.vision_model), captions(model.text_model)

    def joined(text: Inputs) -> Inputs:
        mask = text.ours[1] if len(text.ours) > 1 else None
        return Inputs((seen.ours[0], text.ours[0], None, mask), {**seen.theirs, **text.theirs})

    return replace(joined(read), without=joined(read.bare()))


def series(model: nn.Module) -> Inputs:
    """Values of several channels, some of them missing."""
    given, generator = model.config, torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, given.context_length, given.num_input_channels, generator=generator).cumsum(1) * 3 + 2
    mask = torch.rand(x.shape, generator=generator) < 0.8
    whole = Inputs((x,), {"past_values": x})
    x = x.masked_fill(~mask, 0)
    return Inputs((x, mask), {"past_values": x, "past_observed_mask": mask.float()}, None, whole)


# By what a model of `transformers` calls its main input.
KINDS: dict[str, Callable[[nn.Module], Inputs]] = {
    "input_ids": units,
    "pixel_values": pictures,
    "input_features": frames,
    "input_values": waves,
    "past_values": series,
}


def inputs_of(model: nn.Module) -> Inputs:
    """The inputs for a model."""
    if model.config.model_type in ("clip", "clip_text_model"):
        return towers(model) if model.config.model_type == "clip" else captions(model)
    if model.config.is_encoder_decoder and model.main_input_name == "input_ids":
        return pairs(model)
    return KINDS[model.main_input_name](model)
