"""DistilBERT (Sanh et al. 2019, 1910.01108): half of the blocks of BERT, no kinds of units, no pooler."""

from typing import Any

from jogak import config
from jogak.families._fields import Fields
from jogak.families._keys import Table, concatenate, drop, rename, tie

SUPPORTS = "masked language models, embeddings (DistilBertModel), classifiers of sequences"
TOKENIZER = "BertTokenizer"
_SIZES = {"vocab_size": 120, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64}
TINY: dict[str, dict[str, Any]] = {
    "DistilBertForMaskedLM": _SIZES,
    "DistilBertModel": {**_SIZES, "activation": "relu"},
    "DistilBertForSequenceClassification": {**_SIZES, "num_labels": 3, "sinusoidal_pos_embds": True},
}
_HEADS = {"DistilBertForMaskedLM": "units", "DistilBertModel": "none", "DistilBertForSequenceClassification": "classes"}
_BLOCK, _OURS = "distilbert.transformer.layer.{i}.", "encoder.stack.blocks.{i}."


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes; its positions are a table, also where that began with sines."""
    kind = given.architecture(_HEADS, "DistilBertModel")
    activation = given.activation("activation", "gelu")
    head: dict[str, Any] = {"kind": kind, "pool": "first"}
    if kind == "units":
        head |= {"transform": activation, "bias": True}
    if kind == "classes":
        dropout = given.fraction("seq_classif_dropout", 0.2)
        head |= {"dense": "relu", "classes": given.classes(), "dropout": dropout}
    stack = config.Stack(
        depth=given.depth("n_layers", 6),
        pattern=(config.Mixer.model_validate({"name": "attention", "heads": given.integer("n_heads", 12)}),),
        feedforward=config.FeedForward(
            width=given.integer("hidden_dim", 3072),
            activation=activation,  # pyright: ignore[reportArgumentType]
        ),
        placement="post",
        norm_eps=1e-12,
    )
    return config.Model(
        topology="encoder",
        vocab_size=given.integer("vocab_size", 30522),
        width=given.integer("dim", 768),
        position="learned",
        max_length=given.integer("max_position_embeddings", 512),
        embedding_norm=True,
        encoder=stack,
        head=config.Head.model_validate(head),
        tie="output" if given.flag("tie_word_embeddings", True) else "none",
        scale_embedding=False,
        dropout=given.fraction("dropout", 0.1),
        init="normal",
    )


def table(model: config.Model) -> Table:
    """Kinds of checkpoints differ in their heads alone, and each leaves the others' out."""
    parts = [f"{_BLOCK}attention.{name}_lin.{{p}}" for name in "qkv"]
    others = ("pre_classifier.*", "classifier.*") if model.head.kind == "units" else ("vocab_*",)
    return Table(
        (
            rename("distilbert.embeddings.word_embeddings.weight", "encoder.embedding.table.weight"),
            rename("distilbert.embeddings.position_embeddings.weight", "encoder.embedding.position.weight"),
            rename("distilbert.embeddings.LayerNorm.{p}", "encoder.embedding.norm.{p}"),
            concatenate(parts, _OURS + "mixer.qkv.{p}"),
            rename(_BLOCK + "attention.out_lin.{p}", _OURS + "mixer.out.{p}"),
            rename(_BLOCK + "sa_layer_norm.{p}", _OURS + "mixer_residual.norm.{p}"),
            rename(_BLOCK + "ffn.lin1.{p}", _OURS + "feedforward.inner.{p}"),
            rename(_BLOCK + "ffn.lin2.{p}", _OURS + "feedforward.out.{p}"),
            rename(_BLOCK + "output_layer_norm.{p}", _OURS + "feedforward_residual.norm.{p}"),
            rename("vocab_transform.{p}", "head.transform.dense.linear.{p}"),
            rename("vocab_layer_norm.{p}", "head.transform.norm.{p}"),
            rename("vocab_projector.{p}", "head.projection.{p}"),
            rename("pre_classifier.{p}", "dense.linear.{p}"),
            rename("classifier.{p}", "head.{p}"),
            tie("vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight"),
            drop("distilbert.embeddings.position_ids", *others),
        ),
        prefix="distilbert.",
    )
