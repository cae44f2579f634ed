"""Whisper (Radford et al. 2022, 2212.04356): log-mel frames in, text out."""

from typing import Any

from jogak import config
from jogak.families import _bart
from jogak.families._fields import Fields
from jogak.families._keys import Table, rename, tie

SUPPORTS = "transcription and translation of log-mel frames (WhisperForConditionalGeneration), without a head"
_SIZES: dict[str, Any] = {
    "vocab_size": 120,
    "num_mel_bins": 6,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_source_positions": 9,
    "max_target_positions": 30,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 7,
    "decoder_start_token_id": 3,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
TINY: dict[str, dict[str, Any]] = {"WhisperForConditionalGeneration": _SIZES, "WhisperModel": _SIZES}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    given.only("scale_embedding", False)
    heads = {"WhisperForConditionalGeneration": "units", "WhisperModel": "none"}
    kind = given.architecture(heads, "WhisperForConditionalGeneration")
    dropout = given.fraction("dropout", 0.0)
    frames = {
        "name": "frames",
        "channels": given.integer("num_mel_bins", 80, most=4096),
        "max_length": given.integer("max_source_positions", 1500, most=2**20),
        "dropout": dropout,
    }
    return _bart.pair(
        given,
        {"kind": kind},
        vocab_size=given.integer("vocab_size"),
        input=frames,
        position="learned",
        max_length=given.integer("max_target_positions", 448),
        encoder=_bart.stack(given, "encoder", placement="pre", final_norm=True),
        decoder=_bart.stack(given, "decoder", placement="pre", final_norm=True),
        tie="output" if given.flag("tie_word_embeddings", True) else "none",
        dropout=dropout,
    )


def table(model: config.Model) -> Table:
    """Keys have no bias."""
    tied = [tie("proj_out.weight", "model.decoder.embed_tokens.weight")] if model.tie == "output" else []
    return Table(
        (
            rename("model.encoder.conv1.{p}", "encoder.input.conv1.{p}"),
            rename("model.encoder.conv2.{p}", "encoder.input.conv2.{p}"),
            rename("model.encoder.embed_positions.weight", "encoder.input.position"),
            rename("model.decoder.embed_tokens.weight", "decoder.embedding.table.weight"),
            rename("model.decoder.embed_positions.weight", "decoder.embedding.position.weight"),
            rename("proj_out.weight", "head.projection.weight"),
            *tied,
            *_bart.rules("encoder", model.width, key_bias=False),
            *_bart.rules("decoder", model.width, key_bias=False),
        ),
        prefix="model.",
    )
