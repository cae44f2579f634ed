"""T5 (Raffel et al. 2020, 1910.10683) and T5 1.1 (Shazeer 2020, 2002.05202): one position bias for a whole stack."""

from typing import Any, Literal

from jogak import config
from jogak.families._fields import GATED, Fields, activation_of, heads_of, width_of
from jogak.families._keys import Rule, Table, concatenate, rename, tie

SUPPORTS = "text to text (T5ForConditionalGeneration), without a head (T5Model), the encoder alone (T5EncoderModel)"
_SIZES = {
    "vocab_size": 120,
    "d_model": 32,
    "d_kv": 12,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "decoder_start_token_id": 0,
}
TINY: dict[str, dict[str, Any]] = {
    "T5ForConditionalGeneration": _SIZES,
    "T5Model": {**_SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 3},
    "T5EncoderModel": _SIZES,
}
Side = Literal["encoder", "decoder"]


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    kind = given.architecture(
        {"T5ForConditionalGeneration": "units", "T5Model": "none", "T5EncoderModel": "encoder"},
        "T5ForConditionalGeneration",
    )
    width, old = given.integer("d_model", 512), given.flag("tie_word_embeddings", True)
    depth = given.depth("num_layers", 6)
    tied = old or "lm_head.weight" not in given.keys
    scaled = given.flag("scale_decoder_outputs", old)
    return config.Model(
        topology="encoder" if kind == "encoder" else "encoder-decoder",
        vocab_size=given.integer("vocab_size", 32128),
        width=width,
        position="none",
        max_length=given.integer("n_positions", 512),
        encoder=_stack(given, depth, cross=False),
        decoder=None if kind == "encoder" else _stack(given, given.depth("num_decoder_layers", depth), cross=True),
        head=config.Head(kind="units", scale=width**-0.5 if scaled else None)
        if kind == "units"
        else config.Head(kind="none"),
        tie="all" if tied else "embeddings",
        scale_embedding=False,
        dropout=given.fraction("dropout_rate", 0.1),
        init="normal",
    )


def _stack(given: Fields, depth: int, *, cross: bool) -> config.Stack:
    sizes = {"heads": given.integer("num_heads", 8), "head_dim": given.integer("d_kv", 64), "bias": False, "scale": 1.0}
    mixer = {
        "name": "attention",
        **sizes,
        "position": "t5",
        "buckets": given.integer("relative_attention_num_buckets", 32),
        "max_distance": given.integer("relative_attention_max_distance", 128),
    }
    return config.Stack(
        depth=depth,
        pattern=(config.Mixer.model_validate(mixer),),
        cross=config.Mixer.model_validate({"name": "attention", **sizes}) if cross else None,
        feedforward=config.FeedForward(
            width=given.integer("d_ff", 2048),
            activation=_activation(given),  # pyright: ignore[reportArgumentType]
            bias=False,
        ),
        placement="pre",
        norm="rms",
        norm_eps=given.positive("layer_norm_epsilon", 1e-6),
        share_position=True,
    )


def _activation(given: Fields) -> str:
    """`relu`, or `gated-` and an activation; gated-gelu has always meant the tanh form."""
    name = given.text("feed_forward_proj", "relu")
    if name == "gated-gelu":
        return "geglu_tanh"
    gated = name.startswith("gated-")
    plain = Fields({"feed_forward_proj": name.removeprefix("gated-")}, given.where)
    return plain.activation("feed_forward_proj", gated=gated)


def write_config(model: config.Model) -> dict[str, Any]:
    """config.json of a model that can be one of the family; what does not fit is seen when it is read again."""
    stack = model.stack("encoder")
    options, heads = stack.pattern[0].options, heads_of(stack)
    kinds = {"units": "T5ForConditionalGeneration", "none": "T5Model"}
    ff = stack.feedforward
    gated = ff is not None and ff.activation in GATED.values()
    return {
        "architectures": ["T5EncoderModel" if model.topology == "encoder" else kinds.get(model.head.kind, "T5Model")],
        "model_type": "t5",
        "vocab_size": model.vocab_size,
        "d_model": model.width,
        "d_kv": options.get("head_dim") or model.width // heads,
        "d_ff": width_of(stack, model.width),
        "num_layers": stack.depth,
        "num_decoder_layers": stack.depth if model.topology == "encoder" else model.stack("decoder").depth,
        "num_heads": heads,
        "relative_attention_num_buckets": options.get("buckets", 32),
        "relative_attention_max_distance": options.get("max_distance", 128),
        "feed_forward_proj": ("gated-" if gated else "") + activation_of(stack, "gelu" if gated else "gelu_new"),
        "layer_norm_epsilon": stack.norm_eps,
        "dropout_rate": model.dropout,
        "is_encoder_decoder": model.topology != "encoder",
        "tie_word_embeddings": True,
        "scale_decoder_outputs": model.head.scale is not None,
        "decoder_start_token_id": 0,
    }


def table(model: config.Model) -> Table:
    """The same for every checkpoint of the family."""
    sides: tuple[Side, ...] = ("encoder",) if model.topology == "encoder" else ("encoder", "decoder")
    gated = model.stack("encoder").feedforward
    assert gated is not None
    rules = [rule for side in sides for rule in _side(side, gated=gated.activation in GATED.values())]
    return Table(
        (
            rename("shared.weight", f"{sides[-1]}.embedding.table.weight"),
            rename("lm_head.weight", "head.projection.weight"),
            tie("lm_head.weight", "shared.weight"),
            tie("encoder.embed_tokens.weight", "shared.weight"),
            tie("decoder.embed_tokens.weight", "shared.weight"),
            *rules,
        )
    )


def _side(side: Side, *, gated: bool) -> list[Rule]:
    theirs, ours = side + ".block.{i}.layer.", side + ".stack.blocks.{i}."
    last = 1 if side == "encoder" else 2
    attention, dense = theirs + "0.SelfAttention.", f"{theirs}{last}.DenseReluDense."
    inner = ours + "feedforward.inner.weight"
    rules: list[Rule] = [
        concatenate([f"{attention}{name}.weight" for name in "qkv"], ours + "mixer.qkv.weight"),
        rename(attention + "o.weight", ours + "mixer.out.weight"),
        rename(attention + "relative_attention_bias.weight", ours + "mixer.score_bias.table"),
        rename(theirs + "0.layer_norm.weight", ours + "mixer_residual.norm.weight"),
        concatenate([dense + n for n in (("wi_0.weight", "wi_1.weight") if gated else ("wi.weight",))], inner),
        rename(dense + "wo.weight", ours + "feedforward.out.weight"),
        rename(f"{theirs}{last}.layer_norm.weight", ours + "feedforward_residual.norm.weight"),
        rename(side + ".final_layer_norm.weight", side + ".stack.final_norm.weight"),
    ]
    if side == "decoder":
        cross = theirs + "1.EncDecAttention."
        rules += [
            rename(cross + "q.weight", ours + "cross.q.weight"),
            concatenate((cross + "k.weight", cross + "v.weight"), ours + "cross.kv.weight"),
            rename(cross + "o.weight", ours + "cross.out.weight"),
            rename(theirs + "1.layer_norm.weight", ours + "cross_residual.norm.weight"),
        ]
    return rules
