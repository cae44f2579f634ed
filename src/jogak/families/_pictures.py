"""What the encoders of pictures share (vit, deit): sizes, stack, keys."""

from typing import Any

from jogak import config
from jogak.errors import UserError
from jogak.families._fields import Fields
from jogak.families._keys import Rule, concatenate, key, rename, reshaped

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 44,
    "image_size": [12, 8],
    "patch_size": 4,
    "layer_norm_eps": 1e-6,
}


def sides(given: Fields, name: str, default: int) -> list[int]:
    """A size in pixels, [height, width]; in config.json one number or both.

    Raises: UserError naming the field.
    """
    value = given.raw(name)
    if not isinstance(value, list):
        side = given.integer(name, default, most=2**15)
        return [side, side]
    if len(value) != 2:
        raise UserError(f"{given.where}: '{name}' must be a number, or height and width, got {value}")
    pair = Fields({f"{name}[{i}]": v for i, v in enumerate(value)}, given.where)
    return [pair.integer(n, most=2**15) for n in pair]


def encoder(given: Fields, kind: str, *, marks: int, voters: int = 1) -> config.Model:
    """An encoder with norms before each part, whose first position is read; the fields' names are ViT's."""
    width, dropout = given.integer("hidden_size", 768), given.fraction("hidden_dropout_prob", 0.0)
    given.only("pooler_output_size", width)
    mixer = {
        "name": "attention",
        "heads": given.integer("num_attention_heads", 12),
        "bias": given.flag("qkv_bias", True),
        "out_bias": True,
    }
    stack = config.Stack(
        depth=given.depth("num_hidden_layers", 12),
        pattern=(config.Mixer.model_validate(mixer),),
        feedforward=config.FeedForward(
            width=given.integer("intermediate_size", 3072),
            activation=given.activation("hidden_act", "gelu"),  # pyright: ignore[reportArgumentType]
        ),
        placement="pre",
        norm_eps=given.positive("layer_norm_eps", 1e-12),
    )
    patches = {
        "name": "patches",
        "image_size": sides(given, "image_size", 224),
        "patch_size": sides(given, "patch_size", 16),
        "channels": given.integer("num_channels", 3, most=4096),
        "marks": marks,
        "dropout": dropout,
    }
    head: dict[str, Any] = {"kind": kind, "pool": "first"}
    if kind == "classes":
        head |= {"classes": given.classes(), "voters": voters}
    elif _has_pooler(given):
        head |= {"dense": given.activation("pooler_act", "tanh")}
    return config.Model(
        topology="encoder",
        width=width,
        input=config.Mixer.model_validate(patches),
        position="none",
        encoder=stack,
        head=config.Head.model_validate(head),
        tie="none",
        scale_embedding=False,
        dropout=dropout,
        init="normal",
    )


def _has_pooler(given: Fields) -> bool:
    """Whether there is a layer behind the first position: the weights alone say so."""
    return not given.keys or any("pooler." in name for name in given.keys)


def rules(model: config.Model, base: str) -> list[Rule]:
    """All but the marks and the heads; base: the prefix of the model without its head."""
    theirs, ours = f"{base}encoder.layer.{{i}}.", "encoder.stack.blocks.{i}."
    position = key(f"{base}embeddings.position_embeddings", reshaped((1, -1, model.width), (-1, model.width)))
    return [
        rename(f"{base}embeddings.patch_embeddings.projection.{{p}}", "encoder.input.projection.{p}"),
        rename(position, "encoder.input.position"),
        concatenate(
            [f"{theirs}attention.attention.{n}.{{p}}" for n in ("query", "key", "value")], ours + "mixer.qkv.{p}"
        ),
        rename(theirs + "attention.output.dense.{p}", ours + "mixer.out.{p}"),
        rename(theirs + "layernorm_before.{p}", ours + "mixer_residual.norm.{p}"),
        rename(theirs + "intermediate.dense.{p}", ours + "feedforward.inner.{p}"),
        rename(theirs + "output.dense.{p}", ours + "feedforward.out.{p}"),
        rename(theirs + "layernorm_after.{p}", ours + "feedforward_residual.norm.{p}"),
        rename(f"{base}layernorm.{{p}}", "encoder.stack.final_norm.{p}"),
        rename(f"{base}pooler.dense.{{p}}", "pooler.dense.linear.{p}"),
    ]
