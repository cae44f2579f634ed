"""Jamba (Lieber et al. 2024, 2403.19887): Mamba with attention among it, and a mixture of experts in some blocks."""

from typing import Any

from jogak import config
from jogak.errors import UserError
from jogak.families import _hybrid, mamba
from jogak.families._fields import Fields
from jogak.families._keys import Rule, Table, concatenate, rename, stack, tie

SUPPORTS = "language models (JambaForCausalLM), without a head (JambaModel)"
_SIZES = {
    "vocab_size": 120,
    "hidden_size": 24,
    "intermediate_size": 40,  # their experts in bfloat16 need multiples of eight
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "attn_layer_period": 3,
    "attn_layer_offset": 1,
    "mamba_d_state": 5,
    "mamba_d_conv": 3,
    "mamba_dt_rank": 7,
    "rms_norm_eps": 1e-4,
}
TINY: dict[str, dict[str, Any]] = {
    "JambaForCausalLM": _SIZES,
    "JambaModel": {**_SIZES, "mamba_proj_bias": True, "mamba_conv_bias": False, "attn_layer_offset": 2},
}

BLOCK, OURS = "model.layers.{i}.", "decoder.stack.blocks.{i}."


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    given.only("mamba_inner_layernorms", True)
    head = given.architecture({"JambaForCausalLM": "units", "JambaModel": "none"}, "JambaForCausalLM")
    layers = config.Stack(
        depth=given.depth("num_hidden_layers", 32),
        pattern=_mixers(given),
        feedforwards=_feedforwards(given),
        placement="pre",
        norm="rms",
        norm_eps=given.positive("rms_norm_eps", 1e-6),
    )
    return config.Model(
        topology="decoder",
        vocab_size=given.integer("vocab_size", 65536),
        width=given.integer("hidden_size", 4096),
        position="none",
        max_length=given.integer("max_position_embeddings", 262144),
        decoder=layers,
        head=config.Head(kind="units" if head == "units" else "none"),
        tie="output" if given.flag("tie_word_embeddings", False) else "none",
        scale_embedding=False,
        dropout=0.0,
        init="normal",
    )


def _place(given: Fields, name: str, period: int, offset: int) -> tuple[int, int]:
    """Which one of how many blocks is another kind than the rest."""
    count = given.depth(f"{name}_layer_period", period)
    number = given.depth(f"{name}_layer_offset", offset)
    if number >= count:
        raise UserError(
            f"{given.where}: '{name}_layer_offset' must be below '{name}_layer_period', got {number} and {count}"
        )
    return number, count


def _mixers(given: Fields) -> tuple[config.Mixer, ...]:
    given.only("hidden_act", "silu", "swish")
    given.only("sliding_window", None)
    width, heads = given.integer("hidden_size", 4096), given.integer("num_attention_heads", 32)
    recurrent = {
        "name": "mamba",
        "state": given.integer("mamba_d_state", 16),
        "expand": given.integer("mamba_expand", 2),
        "conv": given.integer("mamba_d_conv", 4),
        "dt_rank": mamba.rank(given, "mamba_dt_rank", width),
        "norms": "learned",
        "norm_eps": given.positive("rms_norm_eps", 1e-6),
        "bias": given.flag("mamba_proj_bias", False),
        "conv_bias": given.flag("mamba_conv_bias", True),
    }
    attention = {
        "name": "attention",
        "heads": heads,
        "kv_heads": given.integer("num_key_value_heads", 8),
        "head_dim": given.integer("head_dim", width // heads),
        "bias": False,
    }
    number, count = _place(given, "attn", 8, 4)
    return tuple(config.Mixer.model_validate(attention if i == number else recurrent) for i in range(count))


def _feedforwards(given: Fields) -> tuple[config.FeedForward, ...]:
    plain = config.FeedForward(width=given.integer("intermediate_size", 14336), activation="swiglu", bias=False)
    experts = given.integer("num_experts", 16)
    if experts == 1:
        return (plain,)
    chosen = given.integer("num_experts_per_tok", 2)
    mixture = plain.model_copy(update={"experts": experts, "chosen": chosen, "norm_chosen": False})
    number, count = _place(given, "expert", 2, 1)
    return tuple(mixture if i == number else plain for i in range(count))


def table(model: config.Model) -> Table:
    """Mamba's keys with norms, attention's, and those of both kinds of feedforwards."""
    rules = (
        rename("model.embed_tokens.weight", "decoder.embedding.table.weight"),
        rename(BLOCK + "input_layernorm.weight", OURS + "mixer_residual.norm.weight"),
        rename(BLOCK + "pre_ff_layernorm.weight", OURS + "feedforward_residual.norm.weight"),
        *_attention_rules(model),
        *_mamba_rules(),
        *_feedforward_rules(model),
        rename("model.final_layernorm.weight", "decoder.stack.final_norm.weight"),
        rename("lm_head.weight", "head.projection.weight"),
        tie("lm_head.weight", "model.embed_tokens.weight"),
    )
    return Table(rules, prefix="model.")


def _mamba_rules() -> list[Rule]:
    theirs, ours = BLOCK + "mamba.", OURS + "mixer."
    norms = [rename(f"{theirs}{n}_layernorm.weight", f"{ours}norms.{i}.weight") for i, n in enumerate(("dt", "b", "c"))]
    return [*mamba.mixer_rules(theirs, ours), *norms, rename(theirs + "out_proj.{p}", ours + "out.{p}")]


def _attention_rules(model: config.Model) -> list[Rule]:
    theirs, ours = BLOCK + "self_attn.", OURS + "mixer."
    mixer = _hybrid.options(model, "attention")
    if mixer is None:
        return []
    wide, groups = mixer["head_dim"], mixer["kv_heads"]
    sizes = (mixer["heads"] * wide, groups * wide, groups * wide)
    rules = (
        concatenate([f"{theirs}{n}_proj.weight" for n in "qkv"], ours + "qkv.weight", sizes=sizes),
        rename(theirs + "o_proj.weight", ours + "out.weight"),
    )
    return _hybrid.only(model, "attention", rules)


def _feedforward_rules(model: config.Model) -> list[Rule]:
    theirs, ours = BLOCK + "feed_forward.", OURS + "feedforward."
    found = [
        concatenate((theirs + "gate_proj.weight", theirs + "up_proj.weight"), ours + "inner.weight"),
        rename(theirs + "down_proj.weight", ours + "out.weight"),
    ]
    kinds = model.stack("decoder").feedforwards or ()
    experts = next((kind.experts for kind in kinds if kind is not None and kind.experts is not None), None)
    if experts is not None:
        one = theirs + "experts.{e}."
        found += [
            rename(theirs + "router.weight", ours + "router.weight"),
            stack((one + "gate_proj.weight", one + "up_proj.weight"), ours + "inner", experts),
            stack(one + "down_proj.weight", ours + "out", experts),
        ]
    return found
