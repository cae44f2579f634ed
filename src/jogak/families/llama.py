"""Llama (Touvron et al. 2023, 2302.13971; Llama Team 2024, 2407.21783) and decoders laid out like it.

`read_decoder` and `table` serve the families that differ from it in a few options.
"""

from typing import Any

from jogak import config
from jogak.families._fields import Fields
from jogak.families._keys import Rule, Table, concatenate, drop, rename, tie
from jogak.families._rotary import rotary_options

SUPPORTS = "language models (LlamaForCausalLM), without a head (LlamaModel); linear, llama3 and yarn scaling"
_SIZES = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
TINY: dict[str, dict[str, Any]] = {"LlamaForCausalLM": _SIZES, "LlamaModel": {**_SIZES, "attention_bias": True}}

BLOCK, OURS = "model.layers.{i}.", "decoder.stack.blocks.{i}."


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    bias = given.flag("attention_bias", False)
    return read_decoder(given, "Llama", {"bias": bias, "out_bias": bias}, ff_bias=given.flag("mlp_bias", False))


def read_decoder(
    given: Fields, family: str, attention: dict[str, Any], *, ff_bias: bool = False, base: float = 10000.0
) -> config.Model:
    """A decoder laid out like Llama; attention: options of the mixer beside heads and rotary positions."""
    head = given.architecture({f"{family}ForCausalLM": "units", f"{family}Model": "none"}, f"{family}ForCausalLM")
    width, heads = given.integer("hidden_size"), given.integer("num_attention_heads")
    head_dim = given.integer("head_dim", width // heads)
    mixer = {
        "name": "attention",
        "heads": heads,
        "kv_heads": given.integer("num_key_value_heads", heads),
        "head_dim": head_dim,
        **rotary_options(given, head_dim, base=base),
        **attention,
    }
    stack = config.Stack(
        depth=given.depth("num_hidden_layers"),
        pattern=(config.Mixer.model_validate(mixer),),
        feedforward=config.FeedForward(
            width=given.integer("intermediate_size"),
            activation=given.activation("hidden_act", "silu", gated=True),  # pyright: ignore[reportArgumentType]
            bias=ff_bias,
        ),
        placement="pre",
        norm="rms",
        norm_eps=given.positive("rms_norm_eps", 1e-6),
    )
    return config.Model(
        topology="decoder",
        vocab_size=given.integer("vocab_size"),
        width=width,
        position="none",
        max_length=given.integer("max_position_embeddings", 2048),
        decoder=stack,
        head=config.Head(kind="units" if head == "units" else "none"),
        tie="output" if given.flag("tie_word_embeddings", False) else "none",
        scale_embedding=False,
        dropout=0.0,
        init="normal",
    )


def attention_rules(model: config.Model) -> tuple[Rule, ...]:
    """Queries, keys and values apart in theirs, together in ours."""
    mixer = model.stack("decoder").pattern[0].options
    heads, groups, wide = mixer["heads"], mixer["kv_heads"], mixer["head_dim"]
    parts = [f"{BLOCK}self_attn.{n}_proj.{{p}}" for n in "qkv"]
    return (
        concatenate(parts, OURS + "mixer.qkv.{p}", sizes=(heads * wide, groups * wide, groups * wide)),
        rename(BLOCK + "self_attn.o_proj.{p}", OURS + "mixer.out.{p}"),
    )


FEEDFORWARD = (
    concatenate((BLOCK + "mlp.gate_proj.{p}", BLOCK + "mlp.up_proj.{p}"), OURS + "feedforward.inner.{p}"),
    rename(BLOCK + "mlp.down_proj.{p}", OURS + "feedforward.out.{p}"),
)
NORMS = (
    rename(BLOCK + "input_layernorm.weight", OURS + "mixer_residual.norm.weight"),
    rename(BLOCK + "post_attention_layernorm.weight", OURS + "feedforward_residual.norm.weight"),
)
ENDS = (
    rename("model.embed_tokens.weight", "decoder.embedding.table.weight"),
    rename("model.norm.weight", "decoder.stack.final_norm.weight"),
    rename("lm_head.weight", "head.projection.weight"),
    tie("lm_head.weight", "model.embed_tokens.weight"),
    drop(BLOCK + "self_attn.rotary_emb.inv_freq"),
)


def table(model: config.Model) -> Table:
    """The keys of every decoder laid out like Llama."""
    return Table((*ENDS, *NORMS, *attention_rules(model), *FEEDFORWARD), prefix="model.")
