"""GPT-2 (Radford et al. 2019) and what shares its code: decoders with learned positions, norms before each part."""

from typing import Any

from jogak import config
from jogak.families._fields import Fields
from jogak.families._keys import Table, drop, rename, tie, transpose

SUPPORTS = "language models (GPT2LMHeadModel), without a head (GPT2Model)"
TOKENIZER = "GPT2Tokenizer"
_SIZES = {"vocab_size": 120, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
TINY: dict[str, dict[str, Any]] = {"GPT2LMHeadModel": _SIZES, "GPT2Model": _SIZES}

_BLOCK, _OURS = "transformer.h.{i}.", "decoder.stack.blocks.{i}."


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        given.only(name, False)
    given.only("scale_attn_weights", True)
    head = given.architecture({"GPT2LMHeadModel": "units", "GPT2Model": "none"}, "GPT2LMHeadModel")
    width = given.integer("n_embd", 768)
    stack = config.Stack(
        depth=given.depth("n_layer", 12),
        pattern=(config.Mixer.model_validate({"name": "attention", "heads": given.integer("n_head", 12)}),),
        feedforward=config.FeedForward(
            width=given.maybe_integer("n_inner") or 4 * width,
            activation=given.activation("activation_function", "gelu_new"),  # pyright: ignore[reportArgumentType]
        ),
        placement="pre",
        norm_eps=given.positive("layer_norm_epsilon", 1e-5),
    )
    return config.Model(
        topology="decoder",
        vocab_size=given.integer("vocab_size", 50257),
        width=width,
        position="learned",
        max_length=given.integer("n_positions", 1024),
        decoder=stack,
        head=config.Head(kind="units" if head == "units" else "none"),
        tie="output" if given.flag("tie_word_embeddings", True) else "none",
        scale_embedding=False,
        dropout=given.fraction("resid_pdrop", 0.1),
        init="normal",
    )


def table(model: config.Model) -> Table:
    """Their linear weights are [in, out]."""
    return Table(
        (
            rename("transformer.wte.weight", "decoder.embedding.table.weight"),
            rename("transformer.wpe.weight", "decoder.embedding.position.weight"),
            rename(_BLOCK + "ln_1.{p}", _OURS + "mixer_residual.norm.{p}"),
            transpose(_BLOCK + "attn.c_attn.{p}", _OURS + "mixer.qkv.{p}"),
            transpose(_BLOCK + "attn.c_proj.{p}", _OURS + "mixer.out.{p}"),
            rename(_BLOCK + "ln_2.{p}", _OURS + "feedforward_residual.norm.{p}"),
            transpose(_BLOCK + "mlp.c_fc.{p}", _OURS + "feedforward.inner.{p}"),
            transpose(_BLOCK + "mlp.c_proj.{p}", _OURS + "feedforward.out.{p}"),
            rename("transformer.ln_f.{p}", "decoder.stack.final_norm.{p}"),
            rename("lm_head.weight", "head.projection.weight"),
            tie("lm_head.weight", "transformer.wte.weight"),
            drop(_BLOCK + "attn.bias", _BLOCK + "attn.masked_bias"),
        ),
        prefix="transformer.",
    )
