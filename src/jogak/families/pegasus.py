"""PEGASUS (Zhang et al. 2019, 1912.08777): norms before each part, sines before cosines."""

from typing import Any

from jogak import config
from jogak.families import _bart, bart
from jogak.families._fields import Fields
from jogak.families._keys import Table, drop

TOKENIZER = "PegasusTokenizer"
SUPPORTS = "text to text (PegasusForConditionalGeneration), without a head (PegasusModel)"
_SIZES = {**bart.TINY["BartForConditionalGeneration"], "scale_embedding": True, "activation_function": "relu"}
TINY: dict[str, dict[str, Any]] = {
    "PegasusForConditionalGeneration": _SIZES,
    "PegasusModel": {**_SIZES, "scale_embedding": False},
}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    for name in ("normalize_before", "add_final_layer_norm", "static_position_embeddings"):
        given.only(name, True)
    given.only("normalize_embedding", False)
    return _bart.shared(
        given,
        "Pegasus",
        position="sinusoidal_halves",
        encoder=_bart.stack(given, "encoder", placement="pre", final_norm=True),
        decoder=_bart.stack(given, "decoder", placement="pre", final_norm=True),
    )


def write_config(model: config.Model) -> dict[str, Any]:
    """config.json of a model that can be one of the family; what does not fit is seen when it is read again."""
    return _bart.written(model, "Pegasus", "PegasusForConditionalGeneration")


def table(model: config.Model) -> Table:
    """Positions are worked out, and left out of checkpoints that have them."""
    worked_out = drop("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
    return Table((*_bart.shared_rules(model), worked_out), prefix="model.")
