"""wav2vec 2.0 (Baevski et al. 2020, 2006.11477): encoders of sound that read samples."""

from typing import Any

from jogak import config
from jogak.errors import UserError
from jogak.families._fields import Fields
from jogak.families._keys import Table, concatenate, drop, legacy, rename

SUPPORTS = (
    "letters by CTC (Wav2Vec2ForCTC), classifiers of sound (Wav2Vec2ForSequenceClassification), states (Wav2Vec2Model, "
    "Wav2Vec2ForPreTraining); group norm counts real places"
)
_SIZES: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 44,
    "conv_dim": [16, 12],
    "conv_kernel": [5, 3],
    "conv_stride": [3, 2],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
TINY: dict[str, dict[str, Any]] = {
    "Wav2Vec2ForCTC": {
        **_SIZES,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
        "num_conv_pos_embeddings": 7,
        "mask_time_prob": 0.0,
    },
    "Wav2Vec2ForSequenceClassification": {
        **_SIZES,
        "feat_extract_norm": "layer",
        "num_labels": 5,
        "classifier_proj_size": 24,
    },
    "Wav2Vec2Model": _SIZES,
}
_HEADS = {
    "Wav2Vec2ForCTC": "units",
    "Wav2Vec2ForSequenceClassification": "classes",
    "Wav2Vec2Model": "none",
    "Wav2Vec2ForPreTraining": "none",
}
_BLOCK, _OURS = "wav2vec2.encoder.layers.{i}.", "encoder.stack.blocks.{i}."
_FEATURES = "wav2vec2.feature_extractor.conv_layers.{i}."
_POSITION = "wav2vec2.encoder.pos_conv_embed.conv."


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    given.only("add_adapter", False)
    given.only("adapter_attn_dim", None)
    kind = given.architecture(_HEADS, "Wav2Vec2Model")
    stable, eps = given.flag("do_stable_layer_norm", False), given.positive("layer_norm_eps", 1e-5)
    mixer = {"name": "attention", "heads": given.integer("num_attention_heads", 12)}
    stack = config.Stack(
        depth=given.depth("num_hidden_layers", 12),
        pattern=(config.Mixer.model_validate(mixer),),
        feedforward=config.FeedForward(
            width=given.integer("intermediate_size", 3072),
            activation=given.activation("hidden_act", "gelu"),  # pyright: ignore[reportArgumentType]
        ),
        placement="pre" if stable else "post",
        norm_eps=eps,
    )
    return config.Model(
        topology="encoder",
        vocab_size=given.integer("vocab_size", 32),
        width=given.integer("hidden_size", 768),
        input=config.Mixer.model_validate({"name": "waves", **_waves(given), "norm_behind": not stable}),
        position="none",
        encoder=stack,
        head=_head(given, kind),
        tie="none",
        scale_embedding=False,
        dropout=given.fraction("hidden_dropout", 0.1),
        init="normal",
    )


def _head(given: Fields, kind: str) -> config.Head:
    if kind != "classes":
        return config.Head(kind="units", bias=True) if kind == "units" else config.Head(kind="none")
    given.only("use_weighted_layer_sum", False)
    # Theirs projects each position and takes the mean then, which is the projection of the mean.
    size = given.integer("classifier_proj_size", 256)
    return config.Head(kind="classes", classes=given.classes(), dense="linear", dense_size=size)


def _waves(given: Fields) -> dict[str, Any]:
    hidden = given.fraction("mask_time_prob", 0.05)
    learned = hidden > 0 or given.fraction("mask_feature_prob", 0.0) > 0
    return {
        "channels": _integers(given, "conv_dim", [512] * 7),
        "kernels": _integers(given, "conv_kernel", [10, 3, 3, 3, 3, 2, 2]),
        "strides": _integers(given, "conv_stride", [5, 2, 2, 2, 2, 2, 2]),
        "norm": given.choice("feat_extract_norm", {"group": "group", "layer": "layer"}, "group"),
        "bias": given.flag("conv_bias", False),
        "activation": given.activation("feat_extract_activation", "gelu"),
        "taps": given.integer("num_conv_pos_embeddings", 128, most=2**16),
        "groups": given.integer("num_conv_pos_embedding_groups", 16),
        "norm_eps": given.positive("layer_norm_eps", 1e-5),
        "hidden": hidden if learned else None,
        "hidden_length": given.integer("mask_time_length", 10, most=2**16),
        "dropout": given.fraction("hidden_dropout", 0.1),
    }


def _integers(given: Fields, name: str, default: list[int]) -> list[int]:
    value = given.raw(name)
    if value is None:
        return default
    if not isinstance(value, list | tuple) or not 0 < len(value) <= 64:
        raise UserError(f"{given.where}: '{name}' must be a list of whole numbers, got {value!r:.60}")
    each = Fields({f"{name}[{i}]": v for i, v in enumerate(value)}, given.where)
    return [each.integer(n, most=2**16) for n in each]


def table(model: config.Model) -> Table:
    """The norm that is shared stands behind the positions, or behind the last block where blocks begin with one."""
    behind = "encoder.input.norm.{p}" if model.stack("encoder").placement == "post" else "encoder.stack.final_norm.{p}"
    return Table(
        (
            legacy("weight_g", "parametrizations.weight.original0"),
            legacy("weight_v", "parametrizations.weight.original1"),
            rename(_FEATURES + "conv.{p}", "encoder.input.convolutions.{i}.{p}"),
            rename(_FEATURES + "layer_norm.{p}", "encoder.input.norms.{i}.{p}"),
            rename("wav2vec2.feature_projection.layer_norm.{p}", "encoder.input.feature_norm.{p}"),
            rename("wav2vec2.feature_projection.projection.{p}", "encoder.input.projection.{p}"),
            rename("wav2vec2.masked_spec_embed", "encoder.input.hidden"),
            rename(_POSITION + "parametrizations.weight.original0", "encoder.input.position.size"),
            rename(_POSITION + "parametrizations.weight.original1", "encoder.input.position.direction"),
            rename(_POSITION + "bias", "encoder.input.position.bias"),
            rename("wav2vec2.encoder.layer_norm.{p}", behind),
            concatenate([f"{_BLOCK}attention.{n}_proj.{{p}}" for n in "qkv"], _OURS + "mixer.qkv.{p}"),
            rename(_BLOCK + "attention.out_proj.{p}", _OURS + "mixer.out.{p}"),
            rename(_BLOCK + "layer_norm.{p}", _OURS + "mixer_residual.norm.{p}"),
            rename(_BLOCK + "feed_forward.intermediate_dense.{p}", _OURS + "feedforward.inner.{p}"),
            rename(_BLOCK + "feed_forward.output_dense.{p}", _OURS + "feedforward.out.{p}"),
            rename(_BLOCK + "final_layer_norm.{p}", _OURS + "feedforward_residual.norm.{p}"),
            rename("lm_head.{p}", "head.projection.{p}"),
            rename("projector.{p}", "dense.linear.{p}"),
            rename("classifier.{p}", "head.{p}"),
            drop("quantizer.*", "project_q.*", "project_hid.*"),
        ),
        prefix="wav2vec2.",
    )
