"""Marian's translation models (Junczys-Dowmunt et al. 2018; OPUS-MT): the Transformer of 2017, sines before cosines."""

from typing import Any

from jogak import config
from jogak.families import _bart
from jogak.families._fields import Fields
from jogak.families._keys import Table, drop, key, rename, reshaped, tie

TOKENIZER = "MarianTokenizer"
SUPPORTS = "translation (MarianMTModel), without a head (MarianModel); embeddings shared or apart"
_SIZES = {
    "vocab_size": 120,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 7,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
    "scale_embedding": True,
    "activation_function": "swish",
}
_APART = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 100}
TINY: dict[str, dict[str, Any]] = {"MarianMTModel": _SIZES, "MarianModel": {**_SIZES, **_APART}}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    for name in ("normalize_before", "normalize_embedding", "add_final_layer_norm", "extra_pos_embeddings"):
        given.only(name, False)
    kind = given.architecture({"MarianMTModel": "units", "MarianModel": "none"}, "MarianMTModel")
    shared = given.flag("share_encoder_decoder_embeddings", True)
    source = given.integer("vocab_size")
    sizes: dict[str, Any] = {"vocab_size": source if shared else given.integer("decoder_vocab_size", source)}
    return _bart.pair(
        given,
        {"kind": kind, "bias": kind == "units"},
        **sizes,
        source_vocab_size=None if shared else source,
        position="sinusoidal_halves",
        encoder=_bart.stack(given, "encoder", placement="post"),
        decoder=_bart.stack(given, "decoder", placement="post"),
        tie=("all" if shared else "output") if given.flag("tie_word_embeddings", True) else "none",
    )


def write_config(model: config.Model) -> dict[str, Any]:
    """config.json of a model that can be one of the family; what does not fit is seen when it is read again."""
    shared = model.source_vocab_size is None and model.tie == "all"
    return {
        **_bart.written(model, "Marian", "MarianMTModel"),
        "vocab_size": model.vocab_size if shared else model.source_vocab_size or model.vocab_size,
        "decoder_vocab_size": model.vocab_size,
        "share_encoder_decoder_embeddings": shared,
    }


def table(model: config.Model) -> Table:
    """Positions are worked out, and left out where an older checkpoint has them."""
    shared = model.tie == "all"
    here = "model.shared.weight" if shared else "model.decoder.embed_tokens.weight"
    again = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight") if shared else ()
    return Table(
        (
            rename(here, "decoder.embedding.table.weight"),
            rename("model.encoder.embed_tokens.weight", "encoder.embedding.table.weight"),
            rename("lm_head.weight", "head.projection.weight"),
            rename(key("final_logits_bias", reshaped((1, -1), (-1,))), "head.projection.bias"),
            *(tie(name, here) for name in ("lm_head.weight", *again)),
            *_bart.rules("encoder", model.width),
            *_bart.rules("decoder", model.width),
            drop("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"),
        ),
        prefix="model.",
    )
