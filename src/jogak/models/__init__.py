"""Models: embeddings, one or two stacks, a head; they know no mixer by name."""

from contextlib import nullcontext

import torch

from jogak import config
from jogak.errors import UserError
from jogak.models.block import BlockState, Stack, build_stack, with_mixer
from jogak.models.classifier import Classifier
from jogak.models.forecaster import Forecaster
from jogak.models.topologies import Coder, Decoder, Encoder, EncoderDecoder, ModelState, Source
from jogak.models.towers import Towers
from jogak.models.undrawn import Undrawn

__all__ = [
    "BlockState",
    "Classifier",
    "Coder",
    "Decoder",
    "Encoder",
    "EncoderDecoder",
    "Forecaster",
    "Model",
    "ModelState",
    "Source",
    "Stack",
    "Towers",
    "build",
    "build_stack",
    "parameter_count",
    "with_mixer",
]

Model = Encoder | Decoder | EncoderDecoder | Classifier | Forecaster | Towers
TOPOLOGIES: dict[str, type[Encoder] | type[Decoder]] = {
    "encoder": Encoder,
    "decoder": Decoder,
    "encoder-decoder": EncoderDecoder,
}


def build(given: config.Model, vocab_size: int | None = None, *, device: torch.device | str | None = None) -> Model:
    """The model that the configuration describes, its weights freshly drawn; device="meta" builds none.

    Raises: UserError where a mixer does not fit its place, or no vocabulary size is known.
    """
    place = torch.device(device or "cpu")
    with place, Undrawn() if place.type == "meta" else nullcontext():
        return Towers(given) if given.towers is not None else _one(given, vocab_size)


def _one(given: config.Model, vocab_size: int | None) -> Model:
    """The model of one topology."""
    size = vocab_size or given.vocab_size
    if given.input is not None and given.topology != "encoder-decoder" and given.head.kind != "units":
        size = size or 1  # no unit goes in or out
    if size is None:
        raise UserError("model.vocab_size is not set and no codec says it; set model.vocab_size")
    if given.head.kind in ("classes", "values"):
        return Classifier(given, size)
    return Forecaster(given, size) if given.head.kind == "forecast" else TOPOLOGIES[given.topology](given, size)


def parameter_count(model: torch.nn.Module) -> int:
    """Numbers that are learned; tied ones count once."""
    return sum(p.numel() for p in model.parameters())
