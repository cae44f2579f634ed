"""PatchTST (Nie et al. 2023, 2211.14730): encoders of series cut into patches, each channel for itself."""

from typing import Any

from jogak import config
from jogak.errors import UserError
from jogak.families._fields import Fields, activation_of, architecture_of, heads_of, width_of
from jogak.families._keys import Rule, Table, concatenate, key, rename, reshaped, stack

SUPPORTS = (
    "forecasts (PatchTSTForPrediction), classes and numbers of series (PatchTSTForClassification, "
    "PatchTSTForRegression), patches again (PatchTSTForPretraining), states (PatchTSTModel); loss mse, channels apart"
)
SETTLED = {"mask_type": "random", "random_mask_ratio": 0.0}
_SIZES: dict[str, Any] = {
    "num_input_channels": 3,
    "context_length": 21,
    "patch_length": 5,
    "patch_stride": 3,
    "prediction_length": 7,
    "num_hidden_layers": 2,
    "d_model": 32,
    "num_attention_heads": 4,
    "ffn_dim": 44,
}
TINY: dict[str, dict[str, Any]] = {
    "PatchTSTForPrediction": {**_SIZES, "pooling_type": None},
    "PatchTSTForPretraining": {**_SIZES, **SETTLED, "use_cls_token": True, "scaling": "mean", "bias": False},
    "PatchTSTForClassification": {
        **_SIZES,
        "num_targets": 5,
        "norm_type": "layernorm",
        "pre_norm": False,
        "share_embedding": False,
        "positional_encoding_type": "random",
    },
    "PatchTSTForRegression": {**_SIZES, "num_targets": 2, "output_range": [-1.0, 3.0], "pooling_type": "max"},
    "PatchTSTModel": {**_SIZES, "scaling": None},
}
_HEADS = {
    "PatchTSTForPrediction": "forecast",
    "PatchTSTForPretraining": "patches",
    "PatchTSTForClassification": "classes",
    "PatchTSTForRegression": "values",
    "PatchTSTModel": "none",
}
_NORMS = {"batchnorm": "batch", "layernorm": "layer"}
_SCALES = {"mean": "mean", "std": "std"}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    given.only("channel_attention", False)
    given.only("share_projection", True)  # theirs cannot be run with heads apart
    given.only("scaling_dim", 1)
    given.only("keepdim", True)
    mixer = {"name": "attention", "heads": given.integer("num_attention_heads", 4)}
    stacked = config.Stack(
        depth=given.depth("num_hidden_layers", 3),
        pattern=(config.Mixer.model_validate(mixer),),
        feedforward=config.FeedForward(
            width=given.integer("ffn_dim", 512),
            activation=given.activation("activation_function", "gelu"),  # pyright: ignore[reportArgumentType]
            bias=given.flag("bias", True),
        ),
        norm=given.choice("norm_type", _NORMS, "batchnorm"),  # pyright: ignore[reportArgumentType]
        norm_eps=given.positive("norm_eps", 1e-5),
        placement="pre" if given.flag("pre_norm", True) else "post",
        final_norm=False,
    )
    return config.Model(
        topology="encoder",
        width=given.integer("d_model", 128),
        input=config.Mixer.model_validate({"name": "series", **_series(given)}),
        position="none",
        encoder=stacked,
        head=config.Head.model_validate(_head(given)),
        tie="none",
        scale_embedding=False,
        dropout=given.fraction("path_dropout", 0.0),
        init="normal",
    )


def _series(given: Fields) -> dict[str, Any]:
    length, patch = given.integer("context_length", 32), given.integer("patch_length", 1)
    if patch >= length:
        raise UserError(f"{given.where}: 'patch_length' must be below 'context_length', got {patch} and {length}")
    scaling = given.raw("scaling") if "scaling" in given or "scaling" in list(given) else "std"
    if scaling not in (*_SCALES, True, False, None):
        raise UserError(f"{given.where}: 'scaling' must be mean, std, true or null, got {scaling!r:.60}")
    return {
        "length": length,
        "channels": given.integer("num_input_channels", 1),
        "patch": patch,
        "stride": given.integer("patch_stride", 1),
        "scale": "mean" if scaling is True else _SCALES.get(str(scaling), "none"),
        "least": given.positive("minimum_scale") if "minimum_scale" in given else None,
        "shared": given.flag("share_embedding", True),
        "marks": int(given.flag("use_cls_token", False)),
        "position": given.choice("positional_encoding_type", {"sincos": "sines", "random": "learned"}, "sincos"),
        "dropout": given.fraction("positional_dropout", 0.0),
    }


def _head(given: Fields) -> dict[str, Any]:
    kind = given.architecture(_HEADS, "PatchTSTModel")
    head: dict[str, Any] = {"kind": kind}
    if kind in ("forecast", "values"):
        given.only("loss", "mse")
    if kind != "none":
        head["dropout"] = given.fraction("head_dropout", 0.0)
    if kind in ("forecast", "values", "classes"):
        head["pool"] = _pool(given, kind)
    if kind == "values":
        head |= {"size": given.integer("num_targets", 1), "bounds": _bounds(given)}
    if kind == "classes":
        head["classes"] = given.integer("num_targets", 1)
    if kind == "forecast":
        head["size"] = given.integer("prediction_length", 24)
    return head


def _pool(given: Fields, kind: str) -> str:
    if given.flag("use_cls_token", False):
        return "first"
    if "pooling_type" not in given and "pooling_type" in list(given) and kind == "forecast":
        return "all"
    return given.choice("pooling_type", {"mean": "mean", "max": "max"}, "mean")


def _bounds(given: Fields) -> tuple[float, float] | None:
    value = given.raw("output_range")
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise UserError(f"{given.where}: 'output_range' must be two numbers, got {value!r:.60}")
    pair = Fields({f"output_range[{i}]": v for i, v in enumerate(value)}, given.where)
    return pair.number("output_range[0]"), pair.number("output_range[1]")


def write_config(model: config.Model) -> dict[str, Any]:
    """config.json of a model that can be one of the family; what does not fit is seen when it is read again."""
    given, head = model.stack("encoder"), model.head
    options = model.input.options if model.input is not None else {}
    names = {ours: theirs for theirs, ours in _HEADS.items()}
    patch = options.get("patch", 16)
    return {
        "architectures": architecture_of(model, names),
        "model_type": "patchtst",
        "num_input_channels": options.get("channels", 1),
        "context_length": options.get("length", 512),
        "patch_length": patch,
        "patch_stride": options.get("stride") or patch,
        "scaling": None if options.get("scale") == "none" else options.get("scale", "std"),
        **({} if options.get("least") is None else {"minimum_scale": options["least"]}),
        "share_embedding": options.get("shared", True),
        "use_cls_token": bool(options.get("marks", 0)),
        "positional_encoding_type": "random" if options.get("position") == "learned" else "sincos",
        "num_hidden_layers": given.depth,
        "d_model": model.width,
        "num_attention_heads": heads_of(given),
        "ffn_dim": width_of(given, model.width),
        "activation_function": activation_of(given),
        "bias": given.feedforward is None or given.feedforward.bias,
        "norm_type": next((theirs for theirs, ours in _NORMS.items() if ours == given.norm), "layernorm"),
        "norm_eps": given.norm_eps,
        "pre_norm": given.placement == "pre",
        "path_dropout": model.dropout,
        "head_dropout": head.dropout,
        "pooling_type": None if head.pool == "all" else head.pool,
        "prediction_length": head.size or 1,
        "num_targets": head.classes or head.size or 1,
        "output_range": None if head.bounds is None else list(head.bounds),
    }


_BLOCK, _OURS = "model.encoder.layers.{i}.", "encoder.stack.blocks.{i}."


def table(model: config.Model) -> Table:
    """One embedding for all channels, or one for each; running means and variances are kept."""
    options = model.input.options if model.input is not None else {}
    shared, channels = options.get("shared", True), options.get("channels", 1)
    embedding = "model.encoder.embedder.input_embedding."
    position = "model.encoder.positional_encoder."
    projection = {"classes": "head.linear.{p}", "patches": "head.linear.{p}"}.get(
        model.head.kind, "head.projection.{p}"
    )
    return Table(
        (
            *(_shared(embedding, model.width, options.get("patch", 16)) if shared else _apart(embedding, channels)),
            rename(position + "position_enc", "encoder.input.position"),
            rename(key(position + "cls_token", reshaped((1, 1, 1, -1), (1, -1))), "encoder.input.marks"),
            concatenate([f"{_BLOCK}self_attn.{n}_proj.{{p}}" for n in "qkv"], _OURS + "mixer.qkv.{p}"),
            rename(_BLOCK + "self_attn.out_proj.{p}", _OURS + "mixer.out.{p}"),
            *_norm(model, _BLOCK + "norm_sublayer1.", _OURS + "mixer_residual."),
            rename(_BLOCK + "ff.0.{p}", _OURS + "feedforward.inner.{p}"),
            rename(_BLOCK + "ff.3.{p}", _OURS + "feedforward.out.{p}"),
            *_norm(model, _BLOCK + "norm_sublayer3.", _OURS + "feedforward_residual."),
            rename(projection, "head.projection.{p}" if model.head.kind == "patches" else "head.{p}"),
        ),
        prefix="model.",
    )


def _shared(theirs: str, width: int, patch: int) -> list[Rule]:
    return [
        rename(key(theirs + "weight", reshaped((width, patch), (1, width, patch))), "encoder.input.weight"),
        rename(key(theirs + "bias", reshaped((width,), (1, width))), "encoder.input.bias"),
    ]


def _apart(theirs: str, channels: int) -> list[Rule]:
    return [stack(f"{theirs}{{e}}.{name}", f"encoder.input.{name}", channels) for name in ("weight", "bias")]


def _norm(model: config.Model, theirs: str, ours: str) -> list[Rule]:
    if model.stack("encoder").norm == "batch":
        return [rename(theirs + "batchnorm.{q}", ours + "norm.norm.{q}")]
    return [rename(theirs + "{p}", ours + "norm.{p}")]
