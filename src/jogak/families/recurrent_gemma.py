"""RecurrentGemma (Botev et al. 2024, 2404.07839): Griffin's pattern of recurrence and windowed attention."""

from typing import Any

import torch

from jogak import config
from jogak.errors import UserError, nearest
from jogak.families import _hybrid
from jogak.families._fields import Fields
from jogak.families._keys import Map, Rule, Table, concatenate, drop, key, rename, tie
from jogak.families._rotary import rotary_options
from jogak.families.mamba import CONVOLUTION

SUPPORTS = "language models (RecurrentGemmaForCausalLM), without a head (RecurrentGemmaModel)"
TOKENIZER = "GemmaTokenizer"
_SIZES = {
    "vocab_size": 120,
    "hidden_size": 24,
    "lru_width": 32,
    "intermediate_size": 2 * 28,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "attention_window_size": 5,
    "conv1d_width": 3,
    "logits_soft_cap": 2.0,
}
TINY: dict[str, dict[str, Any]] = {
    "RecurrentGemmaForCausalLM": _SIZES,
    "RecurrentGemmaModel": {**_SIZES, "block_types": ["attention", "recurrent"], "attention_bias": True},
}

BLOCK, OURS = "model.layers.{i}.", "decoder.stack.blocks.{i}."
NEGATIVE = Map(lambda t: -t, lambda t: -t)  # they decay by exp(-c r softplus(p)), and we by sigmoid(rate)^(c r)


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    given.only("embeddings_scale_by_sqrt_dim", True)
    known = {"RecurrentGemmaForCausalLM": "units", "RecurrentGemmaModel": "none"}
    head = given.architecture(known, "RecurrentGemmaForCausalLM")
    width, heads = given.integer("hidden_size", 2560), given.integer("num_attention_heads", 10)
    activation = given.activation("hidden_activation", "gelu_pytorch_tanh")
    gated = given.activation("hidden_activation", "gelu_pytorch_tanh", gated=True)
    recurrent = {
        "name": "rglru",
        "width": given.integer("lru_width", width),
        "blocks": heads,
        "taps": given.integer("conv1d_width", 4),
        "activation": activation,
    }
    mixers = {"recurrent": recurrent, "attention": _attention(given, width, heads)}
    kinds = given.texts("block_types") or ["recurrent", "recurrent", "attention"]
    if strange := [kind for kind in kinds if kind not in mixers]:
        raise UserError(f"{given.where}: 'block_types' names '{strange[0]}'{nearest(strange[0], mixers)}")
    stack = config.Stack(
        depth=given.depth("num_hidden_layers", 26),
        pattern=tuple(config.Mixer.model_validate(mixers[kind]) for kind in kinds),
        feedforward=config.FeedForward(
            width=given.integer("intermediate_size", 3 * width, least=2) // 2,
            activation=gated,  # pyright: ignore[reportArgumentType]
        ),
        placement="pre",
        norm="rms_plus_one",
        norm_eps=given.positive("rms_norm_eps", 1e-6),
    )
    cap = given.positive("logits_soft_cap", 30.0)
    return config.Model(
        topology="decoder",
        vocab_size=given.integer("vocab_size", 256000),
        width=width,
        position="none",
        decoder=stack,
        head=config.Head(kind="units", softcap=cap) if head == "units" else config.Head(kind="none"),
        tie="output" if given.flag("tie_word_embeddings", True) else "none",
        scale_embedding=_scale(width),
        dropout=0.0,
        init="normal",
    )


def _attention(given: Fields, width: int, heads: int) -> dict[str, Any]:
    head_dim = width // heads
    rotary = {"rotary_dim": head_dim // 2, **rotary_options(given, head_dim)}
    rope = given.section("rope_parameters") if "rope_parameters" in given else given.section("rope_scaling")
    for name in ("rope_type", "type"):
        rope.only(name, "default")
    return {
        "name": "attention",
        "heads": heads,
        "kv_heads": given.integer("num_key_value_heads", heads),
        "head_dim": head_dim,
        "window": given.integer("attention_window_size", 2048),
        "bias": given.flag("attention_bias", False),
        "out_bias": True,
        **rotary,
    }


def _scale(width: int) -> float:
    """The root of the width as bfloat16 has it, by which the models were trained: 50.5 for 2560."""
    return torch.tensor(width**0.5, dtype=torch.bfloat16).item()


def table(model: config.Model) -> Table:
    """The keys of both kinds of blocks; both have what writes to the residual stream as `out` in ours."""
    theirs, ours = BLOCK + "temporal_block.", OURS + "mixer."
    feedforward = (BLOCK + "mlp_block.gate_proj.{p}", BLOCK + "mlp_block.up_proj.{p}")
    rules = (
        rename("model.embed_tokens.weight", "decoder.embedding.table.weight"),
        rename(BLOCK + "temporal_pre_norm.weight", OURS + "mixer_residual.norm.weight"),
        rename(BLOCK + "channel_pre_norm.weight", OURS + "feedforward_residual.norm.weight"),
        *_attention_rules(model, theirs, ours),
        *_recurrent_rules(theirs, ours),
        concatenate(feedforward, OURS + "feedforward.inner.{p}"),
        rename(BLOCK + "mlp_block.down_proj.{p}", OURS + "feedforward.out.{p}"),
        rename("model.final_norm.weight", "decoder.stack.final_norm.weight"),
        rename("lm_head.weight", "head.projection.weight"),
        tie("lm_head.weight", "model.embed_tokens.weight"),
        drop(theirs + "rotary_emb.inv_freq"),
    )
    return Table(rules, prefix="model.")


def _recurrent_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    gates = [f"{theirs}rg_lru.{gate}_gate_" for gate in ("input", "recurrent")]
    return (
        concatenate((theirs + "linear_x.{p}", theirs + "linear_y.{p}"), ours + "inner.{p}"),
        rename(theirs + "linear_out.{p}", ours + "out.{p}"),
        rename(key(theirs + "conv_1d.weight", CONVOLUTION), ours + "conv_weight"),
        rename(theirs + "conv_1d.bias", ours + "conv_bias"),
        concatenate([g + "weight" for g in gates], ours + "gate_weight", dim=2),
        concatenate([g + "bias" for g in gates], ours + "gate_bias", dim=1),
        rename(key(theirs + "rg_lru.recurrent_param", NEGATIVE), ours + "rate"),
    )


def _attention_rules(model: config.Model, theirs: str, ours: str) -> list[Rule]:
    mixer = _hybrid.options(model, "attention")
    if mixer is None:
        return []
    wide, groups = mixer["head_dim"], mixer["kv_heads"]
    sizes = (mixer["heads"] * wide, groups * wide, groups * wide)
    rules = (
        concatenate([f"{theirs}{n}_proj.{{p}}" for n in "qkv"], ours + "qkv.{p}", sizes=sizes),
        rename(theirs + "o_proj.{p}", ours + "out.{p}"),
    )
    return _hybrid.only(model, "attention", rules)
