"""M2M-100 (Fan et al. 2020, 2010.11125) and NLLB-200 (NLLB Team 2022, 2207.04672): many languages to many."""

from typing import Any

from jogak import config
from jogak.families import _bart, bart
from jogak.families._fields import Fields
from jogak.families._keys import Table, drop

TOKENIZER = "M2M100Tokenizer"
SUPPORTS = "translation (M2M100ForConditionalGeneration), without a head (M2M100Model); NLLB-200's dense models"
_SIZES = {**bart.TINY["BartForConditionalGeneration"], "activation_function": "relu"}
TINY: dict[str, dict[str, Any]] = {
    "M2M100ForConditionalGeneration": _SIZES,
    "M2M100Model": {**_SIZES, "scale_embedding": False, "pad_token_id": 3},
}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes; the first position has the number after that of padding's id."""
    for name in ("normalize_before", "add_final_layer_norm", "static_position_embeddings"):
        given.only(name, True)
    given.only("normalize_embedding", False)
    return _bart.shared(
        given,
        "M2M100",
        position="sinusoidal_inclusive",
        position_offset=given.integer("pad_token_id", 1, least=0) + 1,
        scale_embedding=given.flag("scale_embedding", True),
        encoder=_bart.stack(given, "encoder", placement="pre", final_norm=True, activation="relu"),
        decoder=_bart.stack(given, "decoder", placement="pre", final_norm=True, activation="relu"),
    )


def table(model: config.Model) -> Table:
    """Positions are worked out, and left out of older checkpoints, which have them."""
    worked_out = drop("model.encoder.embed_positions.weights", "model.decoder.embed_positions.weights")
    return Table((*_bart.shared_rules(model), worked_out), prefix="model.")
