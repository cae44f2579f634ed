"""ModernBERT (Warner et al. 2024, 2412.13663): norms before each part, gated feedforwards, local and global blocks."""

from typing import Any

from jogak import config
from jogak.families._fields import Fields
from jogak.families._keys import Table, drop, rename, tie
from jogak.families._rotary import rotary_options

SUPPORTS = "masked language models, embeddings (ModernBertModel), classifiers of sequences"
_SIZES = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "local_attention": 6,
    "pad_token_id": 0,
}
TINY: dict[str, dict[str, Any]] = {
    "ModernBertForMaskedLM": _SIZES,
    "ModernBertModel": {**_SIZES, "norm_bias": True, "attention_bias": True, "mlp_bias": True},
    "ModernBertForSequenceClassification": {**_SIZES, "num_labels": 3, "classifier_pooling": "mean"},
}
_HEADS = {"ModernBertForMaskedLM": "units", "ModernBertModel": "none", "ModernBertForSequenceClassification": "classes"}
_BLOCK, _OURS = "model.layers.{i}.", "encoder.stack.blocks.{i}."


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    stack = config.Stack(
        depth=given.depth("num_hidden_layers", 22),
        pattern=_pattern(given),
        feedforward=config.FeedForward(
            width=given.integer("intermediate_size", 1152),
            activation=given.activation("hidden_activation", "gelu", gated=True),  # pyright: ignore[reportArgumentType]
            bias=given.flag("mlp_bias", False),
        ),
        placement="pre",
        norm_eps=given.positive("norm_eps", 1e-5),
        norm_bias=given.flag("norm_bias", False),
        first_norm=False,
    )
    return config.Model(
        topology="encoder",
        vocab_size=given.integer("vocab_size", 50368),
        width=given.integer("hidden_size", 768),
        position="none",
        max_length=given.integer("max_position_embeddings", 8192),
        embedding_norm=True,
        encoder=stack,
        head=_head(given),
        tie="output" if given.flag("tie_word_embeddings", True) else "none",
        scale_embedding=False,
        dropout=given.fraction("mlp_dropout", 0.0),
        init="normal",
    )


def _head(given: Fields) -> config.Head:
    kind = given.architecture(_HEADS, "ModernBertModel")
    head: dict[str, Any] = {"kind": kind}
    if kind != "none":
        head |= {"transform": given.activation("classifier_activation", "gelu")}
        head |= {"transform_bias": given.flag("classifier_bias", False)}
    if kind == "units":
        head |= {"bias": given.flag("decoder_bias", True)}
    if kind == "classes":
        head |= {"pool": given.choice("classifier_pooling", {"cls": "first", "mean": "mean"}, "cls")}
        head |= {"classes": given.classes(), "dropout": given.fraction("classifier_dropout", 0.0)}
    return config.Head.model_validate(head)


def _pattern(given: Fields) -> tuple[config.Mixer, ...]:
    """One mixer for each block; where older configurations name no layer_types, every n-th sees everything."""
    width, heads = given.integer("hidden_size", 768), given.integer("num_attention_heads", 12)
    every, depth = given.integer("global_attn_every_n_layers", 3), given.depth("num_hidden_layers", 22)
    kinds = given.texts("layer_types") or ["sliding_attention" if i % every else "full_attention" for i in range(depth)]
    bases = {
        "full_attention": given.positive("global_rope_theta", 160000.0),
        "sliding_attention": given.positive("local_rope_theta", 10000.0),
    }
    mixers: list[config.Mixer] = []
    for kind in kinds:
        Fields({"layer_types": kind}, given.where).choice("layer_types", {name: name for name in bases})
        mixer = {"name": "attention", "heads": heads, "bias": given.flag("attention_bias", False)}
        mixer |= rotary_options(given, width // heads, base=bases[kind], layer=kind)
        if kind == "sliding_attention":
            mixer["window"] = given.integer("local_attention", 128) // 2 + 1  # half on each side, and the place itself
        mixers.append(config.Mixer.model_validate(mixer))
    return tuple(mixers)


def table(model: config.Model) -> Table:
    """Kinds of checkpoints differ in their heads alone, and each leaves the others' out."""
    kind = model.head.kind
    layer = "head.transform" if kind == "units" else "transform"
    others = {"units": ("classifier.*",), "none": ("head.*", "decoder.*", "classifier.*"), "classes": ("decoder.*",)}
    return Table(
        (
            rename("model.embeddings.tok_embeddings.weight", "encoder.embedding.table.weight"),
            rename("model.embeddings.norm.{p}", "encoder.embedding.norm.{p}"),
            rename(_BLOCK + "attn_norm.{p}", _OURS + "mixer_residual.norm.{p}"),
            rename(_BLOCK + "attn.Wqkv.{p}", _OURS + "mixer.qkv.{p}"),
            rename(_BLOCK + "attn.Wo.{p}", _OURS + "mixer.out.{p}"),
            rename(_BLOCK + "mlp_norm.{p}", _OURS + "feedforward_residual.norm.{p}"),
            rename(_BLOCK + "mlp.Wi.{p}", _OURS + "feedforward.inner.{p}"),
            rename(_BLOCK + "mlp.Wo.{p}", _OURS + "feedforward.out.{p}"),
            rename("model.final_norm.{p}", "encoder.stack.final_norm.{p}"),
            rename("head.dense.{p}", layer + ".dense.linear.{p}"),
            rename("head.norm.{p}", layer + ".norm.{p}"),
            rename("decoder.{p}", "head.projection.{p}"),
            rename("classifier.{p}", "head.{p}"),
            tie("decoder.weight", "model.embeddings.tok_embeddings.weight"),
            drop(*others[kind]),
        ),
        prefix="model.",
    )
