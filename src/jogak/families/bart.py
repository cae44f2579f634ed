"""BART (Lewis et al. 2019, 1910.13461): the Transformer of 2017 with learned positions and normed embeddings."""

from typing import Any

from jogak import config
from jogak.families import _bart
from jogak.families._fields import Fields
from jogak.families._keys import Table, rename

SUPPORTS = (
    "text to text (BartForConditionalGeneration), classifiers (BartForSequenceClassification), without a head "
    "(BartModel)"
)
TOKENIZER = "BartTokenizer"
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
    "BartForSequenceClassification": {**_SIZES, "pad_token_id": 1},
    "BartModel": {**_SIZES, "scale_embedding": True, "activation_function": "relu"},
}
_CLASSES = 3  # of a classifier that does not say: those of entailment
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
        classes=_CLASSES,
        position="learned",
        position_offset=_OFFSET,
        embedding_norm=True,
        encoder=_bart.stack(given, "encoder", placement="post"),
        decoder=_bart.stack(given, "decoder", placement="post"),
    )


def write_config(model: config.Model) -> dict[str, Any]:
    """config.json of a model that can be one of the family; what does not fit is seen when it is read again."""
    fields = _bart.written(model, "Bart", "BartForConditionalGeneration")
    if model.head.kind != "classes":
        return fields
    judge = {"architectures": ["BartForSequenceClassification"], "num_labels": model.head.classes}
    marks = {"decoder_start_token_id": model.head.start_id, "eos_token_id": model.head.pool_id}
    return {**fields, **judge, **marks, "classifier_dropout": model.head.dropout}


def table(model: config.Model) -> Table:
    """With a table of positions on each side."""
    sides = ("encoder", "decoder")
    positions = (rename(f"model.{s}.embed_positions.weight", f"{s}.embedding.position.weight") for s in sides)
    judge = (
        rename("classification_head.dense.{p}", "dense.linear.{p}"),
        rename("classification_head.out_proj.{p}", "head.{p}"),
    )
    return Table((*_bart.shared_rules(model), *positions, *judge), prefix="model.")
