"""BART (Lewis et al. 2019, 1910.13461): the Transformer of 2017 with learned positions and normed embeddings."""

from typing import Any

from jogak import config
from jogak.families import _bart
from jogak.families._fields import Fields
from jogak.families._keys import Table, rename

SUPPORTS = "text to text (BartForConditionalGeneration), without a head (BartModel)"
_SIZES = {
    "vocab_size": 120,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 64,
    "forced_eos_token_id": None,
}
TINY: dict[str, dict[str, Any]] = {
    "BartForConditionalGeneration": _SIZES,
    "BartModel": {**_SIZES, "scale_embedding": True, "activation_function": "relu"},
}
_OFFSET = 2  # rows of the position table that no position uses


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    for name in ("normalize_before", "add_final_layer_norm", "static_position_embeddings"):
        given.only(name, False)
    given.only("normalize_embedding", True)
    given.only("extra_pos_embeddings", _OFFSET)
    return _bart.shared(
        given,
        "Bart",
        position="learned",
        position_offset=_OFFSET,
        embedding_norm=True,
        encoder=_bart.stack(given, "encoder", placement="post"),
        decoder=_bart.stack(given, "decoder", placement="post"),
    )


def table(model: config.Model) -> Table:
    """With a table of positions on each side."""
    sides = ("encoder", "decoder")
    positions = (rename(f"model.{s}.embed_positions.weight", f"{s}.embedding.position.weight") for s in sides)
    return Table((*_bart.shared_rules(model), *positions), prefix="model.")
