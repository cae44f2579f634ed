"""The towers of CLIP (Radford et al. 2021, 2103.00020), which are checkpoints of their own too (clip_*_model)."""

from typing import Any, Literal

from jogak import config
from jogak.families import _pictures
from jogak.families._fields import Fields
from jogak.families._keys import Drop, Rule, concatenate, drop, key, rename, reshaped

TEXT: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "projection_dim": 20,
    "bos_token_id": 1,
    "eos_token_id": 5,
    "pad_token_id": 0,
}
PICTURES: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 44,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 12,
    "patch_size": 4,
    "projection_dim": 20,
}
Kind = Literal["vector", "none"]


def words(given: Fields, kind: Kind, size: int) -> config.Model:
    """The tower of text: causal; its vector is read where the text ends."""
    end = given.integer("eos_token_id", 49407, least=0)
    head: dict[str, Any] = {"kind": kind, "pool": "unit", "pool_id": None if end == 2 else end}
    return config.Model(
        topology="encoder",
        vocab_size=given.integer("vocab_size", 49408),
        width=given.integer("hidden_size", 512),
        position="learned",
        max_length=given.integer("max_position_embeddings", 77),
        encoder=_stack(given, heads=8, width=2048, causal=True),
        head=_head(head, kind, size),
        tie="none",
        scale_embedding=False,
        dropout=0.0,
        init="normal",
    )


def pictures(given: Fields, kind: Kind, size: int) -> config.Model:
    """The tower of pictures: patches normed; its vector is its class token, normed."""
    patches = {
        "name": "patches",
        "image_size": _pictures.sides(given, "image_size", 224),
        "patch_size": _pictures.sides(given, "patch_size", 32),
        "channels": given.integer("num_channels", 3, most=4096),
        "bias": False,
        "norm_eps": given.positive("layer_norm_eps", 1e-5),
    }
    return config.Model(
        topology="encoder",
        width=given.integer("hidden_size", 768),
        input=config.Mixer.model_validate(patches),
        position="none",
        encoder=_stack(given, heads=12, width=3072, causal=None),
        head=_head({"kind": kind, "pool": "first", "pool_norm": True}, kind, size),
        tie="none",
        scale_embedding=False,
        dropout=0.0,
        init="normal",
    )


def _head(head: dict[str, Any], kind: Kind, size: int) -> config.Head:
    return config.Head.model_validate(head | ({"size": size} if kind == "vector" else {}))


def _stack(given: Fields, *, heads: int, width: int, causal: bool | None) -> config.Stack:
    mixer = {"name": "attention", "heads": given.integer("num_attention_heads", heads)}
    return config.Stack(
        depth=given.depth("num_hidden_layers", 12),
        pattern=(config.Mixer.model_validate(mixer),),
        causal=causal,
        feedforward=config.FeedForward(
            width=given.integer("intermediate_size", width),
            activation=given.activation("hidden_act", "quick_gelu"),  # pyright: ignore[reportArgumentType]
        ),
        placement="pre",
        norm_eps=given.positive("layer_norm_eps", 1e-5),
        final_norm=bool(causal),
    )


def word_rules(ours: str = "") -> list[Rule | Drop]:
    """Keys of the tower of text; ours: what stands before its name among our tensors."""
    theirs = "text_model."
    return [
        rename(theirs + "embeddings.token_embedding.weight", ours + "encoder.embedding.table.weight"),
        rename(theirs + "embeddings.position_embedding.weight", ours + "encoder.embedding.position.weight"),
        *_blocks(theirs, ours),
        rename(theirs + "final_layer_norm.{p}", ours + "encoder.stack.final_norm.{p}"),
        rename("text_projection.weight", ours + "head.projection.weight"),
        drop(theirs + "embeddings.position_ids"),
    ]


def picture_rules(width: int, ours: str = "") -> list[Rule | Drop]:
    """Keys of the tower of pictures."""
    theirs, mark = "vision_model.", reshaped((width,), (1, width))
    return [
        rename(key(theirs + "embeddings.class_embedding", mark), ours + "encoder.input.marks"),
        rename(theirs + "embeddings.patch_embedding.weight", ours + "encoder.input.projection.weight"),
        rename(theirs + "embeddings.position_embedding.weight", ours + "encoder.input.position"),
        rename(theirs + "pre_layrnorm.{p}", ours + "encoder.input.norm.{p}"),
        *_blocks(theirs, ours),
        rename(theirs + "post_layernorm.{p}", ours + "head.pooler.norm.{p}"),
        rename(theirs + "post_layernorm.{p}", ours + "pooler.norm.{p}"),
        rename("visual_projection.weight", ours + "head.projection.weight"),
        drop(theirs + "embeddings.position_ids"),
    ]


def _blocks(theirs: str, ours: str) -> list[Rule]:
    theirs, ours = theirs + "encoder.layers.{i}.", ours + "encoder.stack.blocks.{i}."
    return [
        concatenate([f"{theirs}self_attn.{n}_proj.{{p}}" for n in "qkv"], ours + "mixer.qkv.{p}"),
        rename(theirs + "self_attn.out_proj.{p}", ours + "mixer.out.{p}"),
        rename(theirs + "layer_norm1.{p}", ours + "mixer_residual.norm.{p}"),
        rename(theirs + "mlp.fc1.{p}", ours + "feedforward.inner.{p}"),
        rename(theirs + "mlp.fc2.{p}", ours + "feedforward.out.{p}"),
        rename(theirs + "layer_norm2.{p}", ours + "feedforward_residual.norm.{p}"),
    ]
