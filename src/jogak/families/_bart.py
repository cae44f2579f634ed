"""What the encoder-decoders that go back to fairseq share (bart, marian, pegasus, m2m_100, whisper): keys, stacks."""

from collections.abc import Sequence
from typing import Any, Literal

from jogak import config
from jogak.families._fields import Fields, activation_of, architecture_of, heads_of, width_of
from jogak.families._keys import ZEROS, Given, Rule, Tie, concatenate, key, rename, reshaped, tie

Side = Literal["encoder", "decoder"]
SIDES: tuple[Side, ...] = ("encoder", "decoder")


def stack(
    given: Fields,
    side: Side,
    *,
    placement: Literal["pre", "post"],
    final_norm: bool = False,
    activation: str = "gelu",
) -> config.Stack:
    """One side, its sizes in the fields `encoder_*` or `decoder_*`."""
    heads = {"name": "attention", "heads": given.integer(f"{side}_attention_heads")}
    return config.Stack(
        depth=given.depth(f"{side}_layers"),
        pattern=(config.Mixer.model_validate(heads),),
        cross=config.Mixer.model_validate(heads) if side == "decoder" else None,
        feedforward=config.FeedForward(
            width=given.integer(f"{side}_ffn_dim"),
            activation=given.activation("activation_function", activation),  # pyright: ignore[reportArgumentType]
        ),
        placement=placement,
        norm_eps=1e-5,
        final_norm=final_norm,
    )


def rules(side: Side, width: int, *, key_bias: bool = True, base: str = "model.") -> list[Rule]:
    """The blocks and the norm behind them; key_bias: whether keys have a bias (it changes no weight, and ours has one).

    base: the prefix of the model without its head.
    """
    theirs, ours = f"{base}{side}.layers.{{i}}.", f"{side}.stack.blocks.{{i}}."
    found = [
        *_joined(theirs + "self_attn.", "qkv", ours + "mixer.qkv", width, key_bias=key_bias),
        rename(theirs + "self_attn.out_proj.{p}", ours + "mixer.out.{p}"),
        rename(theirs + "self_attn_layer_norm.{p}", ours + "mixer_residual.norm.{p}"),
        rename(theirs + "fc1.{p}", ours + "feedforward.inner.{p}"),
        rename(theirs + "fc2.{p}", ours + "feedforward.out.{p}"),
        rename(theirs + "final_layer_norm.{p}", ours + "feedforward_residual.norm.{p}"),
        rename(f"{base}{side}.layernorm_embedding.{{p}}", f"{side}.embedding.norm.{{p}}"),
        rename(f"{base}{side}.layer_norm.{{p}}", f"{side}.stack.final_norm.{{p}}"),
    ]
    if side == "decoder":
        found += [
            rename(theirs + "encoder_attn.q_proj.{p}", ours + "cross.q.{p}"),
            *_joined(theirs + "encoder_attn.", "kv", ours + "cross.kv", width, key_bias=key_bias),
            rename(theirs + "encoder_attn.out_proj.{p}", ours + "cross.out.{p}"),
            rename(theirs + "encoder_attn_layer_norm.{p}", ours + "cross_residual.norm.{p}"),
        ]
    return found


def _joined(theirs: str, names: str, ours: str, width: int, *, key_bias: bool) -> list[Rule]:
    if key_bias:
        return [concatenate([f"{theirs}{n}_proj.{{p}}" for n in names], ours + ".{p}")]
    biases: Sequence[Given] = [ZEROS if n == "k" else f"{theirs}{n}_proj.bias" for n in names]
    return [
        concatenate([f"{theirs}{n}_proj.weight" for n in names], ours + ".weight"),
        concatenate(biases, ours + ".bias", sizes=[width] * len(names)),
    ]


def pair(given: Fields, head: dict[str, Any], **options: Any) -> config.Model:  # noqa: ANN401  # fields of config.Model
    """An encoder-decoder; options: fields of config.Model beside its sizes."""
    return config.Model.model_validate(
        {
            "topology": "encoder-decoder",
            "width": given.integer("d_model"),
            "max_length": given.integer("max_position_embeddings", 1024),
            "head": head,
            "scale_embedding": given.flag("scale_embedding", False),
            "dropout": given.fraction("dropout", 0.1),
            "init": "normal",
            **options,
        }
    )


def shared(given: Fields, family: str, *, classes: int | None = None, **options: Any) -> config.Model:  # noqa: ANN401  # fields of config.Model
    """An encoder-decoder with one table of units for both sides and the head; options: as of `pair`.

    classes: how many a classifier of the family has that does not say; None: the family has no classifiers.
    """
    given.only("tie_word_embeddings", True)
    writes, bare = f"{family}ForConditionalGeneration", f"{family}Model"
    judges = {f"{family}ForSequenceClassification": "classes"} if classes else {}
    kind = given.architecture({writes: "units", bare: "none", **judges}, writes)
    # A number added to each score: zeros that some checkpoints keep. Without keys to look at, what the first had.
    bias = kind == "units" and (_BIAS in given.keys or (not given.keys and family != "M2M100"))
    sizes = {"vocab_size": given.integer("vocab_size"), "tie": "all"}
    head = {"kind": kind, "bias": bias} if kind != "classes" else _judge(given, classes or 2)
    return pair(given, head, **sizes, **options)


def _judge(given: Fields, classes: int) -> dict[str, Any]:
    return {
        "kind": "classes",
        "classes": given.classes(classes),
        "pool": "last",
        "pool_id": given.integer("eos_token_id", 2, least=0),
        "dense": "tanh",
        "dropout": given.fraction("classifier_dropout", 0.0),
        "start_id": given.integer("decoder_start_token_id", 2, least=0),
    }


def written(model: config.Model, family: str, writes: str) -> dict[str, Any]:
    """config.json of a model that `pair` can read; writes: the class of the family that has a head."""
    fields: dict[str, Any] = {
        "architectures": architecture_of(model, {"units": writes, "none": f"{family}Model"}),
        "model_type": family.lower(),
        "vocab_size": model.vocab_size,
        "d_model": model.width,
        "max_position_embeddings": model.max_length,
        "tie_word_embeddings": model.tie != "none",
        "scale_embedding": model.scale_embedding,
        "dropout": model.dropout,
        "activation_function": activation_of(model.stack("encoder")),
        "is_encoder_decoder": True,
        "forced_bos_token_id": None,
        "forced_eos_token_id": None,
    }
    for side in SIDES:
        stack = model.stack(side)
        fields |= {
            f"{side}_layers": stack.depth,
            f"{side}_attention_heads": heads_of(stack),
            f"{side}_ffn_dim": width_of(stack, model.width),
        }
    return fields


_BIAS, _TABLE = "final_logits_bias", "model.shared.weight"


def shared_rules(model: config.Model) -> list[Rule | Tie]:
    """The keys of what `shared` reads, but for its positions."""
    names = ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
    return [
        rename(_TABLE, "decoder.embedding.table.weight"),
        rename(key(_BIAS, reshaped((1, -1), (-1,))), "head.projection.bias"),
        *(tie(name, _TABLE) for name in names),
        *rules("encoder", model.width),
        *rules("decoder", model.width),
    ]
