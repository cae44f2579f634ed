"""GPT-NeoX (Black et al. 2022, 2204.06745; Pythia: Biderman et al. 2023, 2304.01373).

Mixer and feedforward side by side, each behind a norm of its own; a quarter of every head is turned.
"""

from typing import Any

from jogak import config
from jogak.families._fields import Fields, activation_of, architecture_of, heads_of, width_of
from jogak.families._keys import Rule, Table, drop, key, regrouped, rename, tie
from jogak.families._rotary import rotary_options

SUPPORTS = (
    "language models (GPTNeoXForCausalLM), classifiers (GPTNeoXForSequenceClassification), without a head "
    "(GPTNeoXModel); blocks parallel or one after another"
)
TOKENIZER = "GPTNeoXTokenizer"
_SIZES = {
    "vocab_size": 120,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 64,
}
TINY: dict[str, dict[str, Any]] = {
    "GPTNeoXForCausalLM": _SIZES,
    "GPTNeoXForSequenceClassification": {**_SIZES, "num_labels": 5, "pad_token_id": 0},
    "GPTNeoXModel": {**_SIZES, "use_parallel_residual": False, "attention_bias": False, "rotary_pct": 0.5},
}
_HEADS = {"GPTNeoXForCausalLM": "units", "GPTNeoXForSequenceClassification": "classes", "GPTNeoXModel": "none"}
_BLOCK, _OURS = "gpt_neox.layers.{i}.", "decoder.stack.blocks.{i}."


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    given.only("is_decoder", False, True)
    head = given.architecture(_HEADS, "GPTNeoXForCausalLM")
    width, heads = given.integer("hidden_size", 6144), given.integer("num_attention_heads", 64)
    mixer = {"name": "attention", "heads": heads, "bias": given.flag("attention_bias", True)}
    stack = config.Stack(
        depth=given.depth("num_hidden_layers", 44),
        pattern=(config.Mixer.model_validate({**mixer, **_rotary(given, width // heads)}),),
        feedforward=config.FeedForward(
            width=given.integer("intermediate_size", 24576),
            activation=given.activation("hidden_act", "gelu"),  # pyright: ignore[reportArgumentType]
        ),
        placement="parallel_apart" if given.flag("use_parallel_residual", True) else "pre",
        norm_eps=given.positive("layer_norm_eps", 1e-5),
    )
    return config.Model(
        topology="decoder",
        vocab_size=given.integer("vocab_size", 50432),
        width=width,
        position="none",
        max_length=given.integer("max_position_embeddings", 2048),
        decoder=stack,
        head=given.decoder_head(head),
        tie="output" if given.flag("tie_word_embeddings", False) else "none",
        scale_embedding=False,
        dropout=given.fraction("hidden_dropout", 0.0),
        init="normal",
    )


def _rotary(given: Fields, head_dim: int) -> dict[str, Any]:
    """Older configurations call base and share rotary_emb_base and rotary_pct; a quarter is turned where none says."""
    options = rotary_options(given, head_dim, base=given.positive("rotary_emb_base", 10000.0))
    said = any("partial_rotary_factor" in part for part in (given, given.section("rope_parameters")))
    turned = int(head_dim * given.positive("rotary_pct", 0.25))
    return options if said or turned == head_dim else {**options, "rotary_dim": turned}


def write_config(model: config.Model) -> dict[str, Any]:
    """config.json of a model that can be one of the family; what does not fit is seen when it is read again."""
    stack = model.stack("decoder")
    options, heads = stack.pattern[0].options, heads_of(stack)
    head_dim, theta = model.width // heads, options.get("rotary_base", 10000.0)
    share = (options.get("rotary_dim") or head_dim) / head_dim
    return {
        "architectures": architecture_of(model, {kind: name for name, kind in _HEADS.items()}),
        **({"num_labels": model.head.classes} if model.head.kind == "classes" else {}),
        "model_type": "gpt_neox",
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "intermediate_size": width_of(stack, model.width),
        "num_hidden_layers": stack.depth,
        "num_attention_heads": heads,
        "attention_bias": options.get("bias", True),
        "hidden_act": activation_of(stack),
        "max_position_embeddings": model.max_length,
        "use_parallel_residual": stack.placement == "parallel_apart",
        "layer_norm_eps": stack.norm_eps,
        "rotary_emb_base": theta,
        "rotary_pct": share,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": share},
        "tie_word_embeddings": model.tie in ("output", "all"),
        **dict.fromkeys(("hidden_dropout", "attention_dropout"), model.dropout),
    }


def table(model: config.Model) -> Table:
    """Their projections hold query, key and value of one head after another."""
    stack = model.stack("decoder")
    heads = stack.pattern[0].options["heads"]
    by_head = regrouped((heads, 3, model.width // heads), (1, 0, 2))
    apart = stack.placement == "parallel_apart"
    norms: list[Rule] = [
        rename(_BLOCK + "input_layernorm.{p}", _OURS + ("residual.norm.{p}" if apart else "mixer_residual.norm.{p}")),
        rename(
            _BLOCK + "post_attention_layernorm.{p}",
            _OURS + ("feedforward_norm.{p}" if apart else "feedforward_residual.norm.{p}"),
        ),
    ]
    return Table(
        (
            rename("gpt_neox.embed_in.weight", "decoder.embedding.table.weight"),
            *norms,
            rename(key(_BLOCK + "attention.query_key_value.{p}", by_head), _OURS + "mixer.qkv.{p}"),
            rename(_BLOCK + "attention.dense.{p}", _OURS + "mixer.out.{p}"),
            rename(_BLOCK + "mlp.dense_h_to_4h.{p}", _OURS + "feedforward.inner.{p}"),
            rename(_BLOCK + "mlp.dense_4h_to_h.{p}", _OURS + "feedforward.out.{p}"),
            rename("gpt_neox.final_layer_norm.{p}", "decoder.stack.final_norm.{p}"),
            rename("embed_out.weight", "head.projection.weight"),
            rename("score.weight", "head.weight"),
            tie("embed_out.weight", "gpt_neox.embed_in.weight"),
            drop(_BLOCK + "attention.bias", _BLOCK + "attention.masked_bias", _BLOCK + "attention.rotary_emb.inv_freq"),
        ),
        prefix="gpt_neox.",
    )
