"""ESM-1b (Rives et al. 2021) and ESM-2 (Lin et al. 2023): encoders of proteins, one unit an amino acid."""

from typing import Any

from jogak import config
from jogak.families._fields import Fields
from jogak.families._keys import Rule, Table, concatenate, drop, legacy, rename, tie

SUPPORTS = "masked language models, embeddings (EsmModel), classifiers of sequences, contacts; no folding"
TOKENIZER = "EsmTokenizer"
_SIZES = {
    "vocab_size": 33,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "mask_token_id": 32,
}
TINY: dict[str, dict[str, Any]] = {
    "EsmForMaskedLM": {**_SIZES, "position_embedding_type": "rotary", "token_dropout": True},
    "EsmModel": {**_SIZES, "emb_layer_norm_before": True},
    "EsmForSequenceClassification": {**_SIZES, "position_embedding_type": "rotary", "num_labels": 3},
}
_HEADS = {"EsmForMaskedLM": "units", "EsmModel": "none", "EsmForSequenceClassification": "classes"}
_BLOCK, _OURS = "esm.encoder.layer.{i}.", "encoder.stack.blocks.{i}."
_ANGLES = "rotary_embeddings.inv_freq"


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    for name in ("is_decoder", "add_cross_attention", "is_folding_model"):
        given.only(name, False)
    dropout = given.fraction("hidden_dropout_prob", 0.1)
    positions = {"absolute": "learned", "rotary": "none"}
    position = given.choice("position_embedding_type", positions, "absolute")
    mixer: dict[str, Any] = {"name": "attention", "heads": given.integer("num_attention_heads", 12)}
    if position == "none":
        mixer |= {"position": "rotary", "rotary_base": given.positive("rope_theta", 10000.0), "rotary_kept": True}
    offset = given.integer("pad_token_id", least=0) + 1 if position == "learned" else 0
    return config.Model(
        topology="encoder",
        vocab_size=given.integer("vocab_size"),
        width=given.integer("hidden_size", 768),
        position="learned" if position == "learned" else "none",
        position_offset=offset,
        max_length=given.integer("max_position_embeddings", 1026, least=offset + 1) - offset,
        embedding_norm=given.flag("emb_layer_norm_before", False),
        hidden_id=given.integer("mask_token_id", least=0) if given.flag("token_dropout", False) else None,
        contacts_end=2,  # whatever eos_token_id says
        encoder=config.Stack(
            depth=given.depth("num_hidden_layers", 12),
            pattern=(config.Mixer.model_validate(mixer),),
            feedforward=config.FeedForward(width=given.integer("intermediate_size", 3072), activation="gelu"),
            placement="pre",
            norm_eps=given.positive("layer_norm_eps", 1e-12),
        ),
        head=_head(given, dropout),
        tie="output" if given.flag("tie_word_embeddings", True) else "none",
        scale_embedding=False,
        dropout=dropout,
        init="normal",
    )


def _head(given: Fields, dropout: float) -> config.Head:
    kind = given.architecture(_HEADS, "EsmModel")
    if kind == "units":
        return config.Head(kind="units", transform="gelu", bias=True)
    if kind == "none":
        return config.Head(kind="none", pool="first", dense="tanh")
    return config.Head(kind="classes", pool="first", dense="tanh", classes=given.classes(), dropout=dropout)


def table(model: config.Model) -> Table:
    """Kinds of checkpoints differ in their heads alone, and each leaves the others' out.

    Older ones repeat the angles in every block, and have positions beside them that nothing reads; `transformers` 5
    writes the angles once, in a key with a `*` for the block, and the norms as they were called before them.
    """
    blocks = [*range(model.stack("encoder").depth), "*"]
    angles = [tie(f"esm.encoder.layer.{i}.attention.self.{_ANGLES}", f"esm.{_ANGLES}") for i in blocks]
    others = {
        "units": ("esm.pooler.*", "classifier.*"),
        "none": ("lm_head.*", "classifier.*"),
        "classes": ("esm.pooler.*", "lm_head.*"),
    }[model.head.kind]
    unread = ("esm.embeddings.position_embeddings.weight",) if model.position == "none" else ()
    return Table(
        (
            legacy("LayerNorm.gamma", "LayerNorm.weight"),
            legacy("LayerNorm.beta", "LayerNorm.bias"),
            rename("esm.embeddings.word_embeddings.weight", "encoder.embedding.table.weight"),
            rename("esm.embeddings.position_embeddings.weight", "encoder.embedding.position.weight"),
            rename("esm.embeddings.layer_norm.{p}", "encoder.embedding.norm.{p}"),
            *_blocks(),
            rename("esm.encoder.emb_layer_norm_after.{p}", "encoder.stack.final_norm.{p}"),
            rename("esm.contact_head.regression.{p}", "encoder.contacts.regression.{p}"),
            rename("esm.pooler.dense.{p}", "pooler.dense.linear.{p}"),
            rename("lm_head.dense.{p}", "head.transform.dense.linear.{p}"),
            rename("lm_head.layer_norm.{p}", "head.transform.norm.{p}"),
            rename("lm_head.decoder.weight", "head.projection.weight"),
            rename("lm_head.bias", "head.projection.bias"),
            rename("classifier.dense.{p}", "dense.linear.{p}"),
            rename("classifier.out_proj.{p}", "head.{p}"),
            tie("lm_head.decoder.weight", "esm.embeddings.word_embeddings.weight"),
            *angles,
            drop("esm.embeddings.position_ids", *unread, *others),
        ),
        prefix="esm.",
    )


def _blocks() -> list[Rule]:
    parts = [f"{_BLOCK}attention.self.{name}.{{p}}" for name in ("query", "key", "value")]
    return [
        concatenate(parts, _OURS + "mixer.qkv.{p}"),
        rename("esm." + _ANGLES, _OURS + "mixer.rotary.kept"),
        rename(_BLOCK + "attention.output.dense.{p}", _OURS + "mixer.out.{p}"),
        rename(_BLOCK + "attention.LayerNorm.{p}", _OURS + "mixer_residual.norm.{p}"),
        rename(_BLOCK + "intermediate.dense.{p}", _OURS + "feedforward.inner.{p}"),
        rename(_BLOCK + "output.dense.{p}", _OURS + "feedforward.out.{p}"),
        rename(_BLOCK + "LayerNorm.{p}", _OURS + "feedforward_residual.norm.{p}"),
    ]
