"""RoBERTa (Liu et al. 2019, 1907.11692): BERT, with positions that count from behind the padding's id."""

from typing import Any

from jogak import config
from jogak.families._fields import Fields
from jogak.families._keys import Rule, Table, concatenate, drop, legacy, rename, tie

SUPPORTS = "masked language models, embeddings (RobertaModel), classifiers of sequences"
TOKENIZER = "RobertaTokenizer"
_SIZES = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
    "type_vocab_size": 1,
}
TINY: dict[str, dict[str, Any]] = {
    "RobertaForMaskedLM": _SIZES,
    "RobertaModel": {**_SIZES, "type_vocab_size": 2, "pad_token_id": 3},
    "RobertaForSequenceClassification": {**_SIZES, "num_labels": 3},
}
_HEADS = {"RobertaForMaskedLM": "units", "RobertaModel": "none", "RobertaForSequenceClassification": "classes"}
_BLOCK, _OURS = "roberta.encoder.layer.{i}.", "encoder.stack.blocks.{i}."


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    given.only("position_embedding_type", "absolute")
    for name in ("is_decoder", "add_cross_attention"):
        given.only(name, False)
    kind = given.architecture(_HEADS, "RobertaModel")
    dropout = given.fraction("hidden_dropout_prob", 0.1)
    head: dict[str, Any] = {"kind": kind, "pool": "first"}
    # The masked language model's layer is a gelu and the others' a tanh, whatever hidden_act says.
    head |= {"transform": "gelu", "bias": True} if kind == "units" else {"dense": "tanh"}
    if kind == "classes":
        head |= {"classes": given.classes(), "dropout": given.fraction("classifier_dropout", dropout)}
    offset = given.integer("pad_token_id", 1, least=0) + 1
    stack = config.Stack(
        depth=given.depth("num_hidden_layers", 12),
        pattern=(
            config.Mixer.model_validate({"name": "attention", "heads": given.integer("num_attention_heads", 12)}),
        ),
        feedforward=config.FeedForward(
            width=given.integer("intermediate_size", 3072),
            activation=given.activation("hidden_act", "gelu"),  # pyright: ignore[reportArgumentType]
        ),
        placement="post",
        norm_eps=given.positive("layer_norm_eps", 1e-12),
    )
    return config.Model(
        topology="encoder",
        vocab_size=given.integer("vocab_size", 50265),
        width=given.integer("hidden_size", 768),
        position="learned",
        position_offset=offset,
        max_length=given.integer("max_position_embeddings", 512, least=offset + 1) - offset,
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
    """Kinds of checkpoints differ in their heads alone; one without the pooler leaves it out."""
    others = {
        "units": ("roberta.pooler.dense.{p}", "classifier.*"),
        "none": ("lm_head.*", "classifier.*"),
        "classes": ("roberta.pooler.dense.{p}", "lm_head.*"),
    }[model.head.kind]
    return Table(
        (
            legacy("LayerNorm.gamma", "LayerNorm.weight"),
            legacy("LayerNorm.beta", "LayerNorm.bias"),
            rename("roberta.embeddings.word_embeddings.weight", "encoder.embedding.table.weight"),
            rename("roberta.embeddings.position_embeddings.weight", "encoder.embedding.position.weight"),
            rename("roberta.embeddings.token_type_embeddings.weight", "encoder.embedding.types.weight"),
            rename("roberta.embeddings.LayerNorm.{p}", "encoder.embedding.norm.{p}"),
            *_blocks(),
            rename("roberta.pooler.dense.{p}", "pooler.dense.linear.{p}"),
            rename("lm_head.dense.{p}", "head.transform.dense.linear.{p}"),
            rename("lm_head.layer_norm.{p}", "head.transform.norm.{p}"),
            rename("lm_head.decoder.weight", "head.projection.weight"),
            rename("lm_head.bias", "head.projection.bias"),
            rename("classifier.dense.{p}", "dense.linear.{p}"),
            rename("classifier.out_proj.{p}", "head.{p}"),
            tie("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"),
            tie("lm_head.decoder.bias", "lm_head.bias"),
            drop("roberta.embeddings.position_ids", *others),
        ),
        prefix="roberta.",
    )


def _blocks() -> list[Rule]:
    parts = [f"{_BLOCK}attention.self.{name}.{{p}}" for name in ("query", "key", "value")]
    return [
        concatenate(parts, _OURS + "mixer.qkv.{p}"),
        rename(_BLOCK + "attention.output.dense.{p}", _OURS + "mixer.out.{p}"),
        rename(_BLOCK + "attention.output.LayerNorm.{p}", _OURS + "mixer_residual.norm.{p}"),
        rename(_BLOCK + "intermediate.dense.{p}", _OURS + "feedforward.inner.{p}"),
        rename(_BLOCK + "output.dense.{p}", _OURS + "feedforward.out.{p}"),
        rename(_BLOCK + "output.LayerNorm.{p}", _OURS + "feedforward_residual.norm.{p}"),
    ]
