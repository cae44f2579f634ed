"""BERT (Devlin et al. 2019, 1810.04805): encoders with kinds of units, norms behind each part."""

from typing import Any

from jogak import config
from jogak.families._fields import Fields
from jogak.families._keys import Table, concatenate, drop, legacy, rename, tie

SUPPORTS = "masked language models, embeddings (BertModel), classifiers of sequences"
TOKENIZER = "BertTokenizer"
_SIZES = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
TINY: dict[str, dict[str, Any]] = {
    "BertForMaskedLM": _SIZES,
    "BertModel": _SIZES,
    "BertForSequenceClassification": {**_SIZES, "num_labels": 3},
}
_HEADS = {
    "BertForMaskedLM": "units",
    "BertForPreTraining": "units",
    "BertModel": "none",
    "BertForSequenceClassification": "classes",
}
_BLOCK, _OURS = "bert.encoder.layer.{i}.", "encoder.stack.blocks.{i}."


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    given.only("position_embedding_type", "absolute")
    for name in ("is_decoder", "add_cross_attention"):
        given.only(name, False)
    kind = given.architecture(_HEADS, "BertModel")
    activation = given.activation("hidden_act", "gelu")
    dropout = given.fraction("hidden_dropout_prob", 0.1)
    head: dict[str, Any] = {"kind": kind, "pool": "first"}
    if kind == "units":
        head |= {"transform": activation, "bias": True}
    else:
        head |= {"dense": "tanh"}
    if kind == "classes":
        head |= {"classes": given.classes(), "dropout": given.fraction("classifier_dropout", dropout)}
    heads = given.integer("num_attention_heads", 12)
    stack = config.Stack(
        depth=given.depth("num_hidden_layers", 12),
        pattern=(config.Mixer.model_validate({"name": "attention", "heads": heads}),),
        feedforward=config.FeedForward(
            width=given.integer("intermediate_size", 3072),
            activation=activation,  # pyright: ignore[reportArgumentType]
        ),
        placement="post",
        norm_eps=given.positive("layer_norm_eps", 1e-12),
    )
    return config.Model(
        topology="encoder",
        vocab_size=given.integer("vocab_size", 30522),
        width=given.integer("hidden_size", 768),
        position="learned",
        max_length=given.integer("max_position_embeddings", 512),
        token_types=given.integer("type_vocab_size", 2),
        embedding_norm=True,
        encoder=stack,
        head=config.Head.model_validate(head),
        tie="output" if given.flag("tie_word_embeddings", True) else "none",
        scale_embedding=False,
        dropout=dropout,
        init="normal",
    )


def table(model: config.Model) -> Table:
    """Kinds of checkpoints differ in their heads alone; a masked language model leaves the others' heads out."""
    dense = "dense.linear" if model.head.kind == "classes" else "pooler.dense.linear"
    parts = [f"{_BLOCK}attention.self.{name}.{{p}}" for name in ("query", "key", "value")]
    others = ("bert.pooler.dense.{p}", "cls.seq_relationship.{p}") if model.head.kind == "units" else ("cls.*",)
    return Table(
        (
            legacy("LayerNorm.gamma", "LayerNorm.weight"),
            legacy("LayerNorm.beta", "LayerNorm.bias"),
            rename("bert.embeddings.word_embeddings.weight", "encoder.embedding.table.weight"),
            rename("bert.embeddings.position_embeddings.weight", "encoder.embedding.position.weight"),
            rename("bert.embeddings.token_type_embeddings.weight", "encoder.embedding.types.weight"),
            rename("bert.embeddings.LayerNorm.{p}", "encoder.embedding.norm.{p}"),
            concatenate(parts, _OURS + "mixer.qkv.{p}"),
            rename(_BLOCK + "attention.output.dense.{p}", _OURS + "mixer.out.{p}"),
            rename(_BLOCK + "attention.output.LayerNorm.{p}", _OURS + "mixer_residual.norm.{p}"),
            rename(_BLOCK + "intermediate.dense.{p}", _OURS + "feedforward.inner.{p}"),
            rename(_BLOCK + "output.dense.{p}", _OURS + "feedforward.out.{p}"),
            rename(_BLOCK + "output.LayerNorm.{p}", _OURS + "feedforward_residual.norm.{p}"),
            rename("bert.pooler.dense.{p}", dense + ".{p}"),
            rename("cls.predictions.transform.dense.{p}", "head.transform.dense.linear.{p}"),
            rename("cls.predictions.transform.LayerNorm.{p}", "head.transform.norm.{p}"),
            rename("cls.predictions.decoder.weight", "head.projection.weight"),
            rename("cls.predictions.bias", "head.projection.bias"),
            rename("classifier.{p}", "head.{p}"),
            tie("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
            tie("cls.predictions.decoder.bias", "cls.predictions.bias"),
            drop("bert.embeddings.position_ids", *others),
        ),
        prefix="bert.",
    )
