"""Mamba (Gu & Dao 2023, 2312.00752): blocks of the mixer alone, a norm before each.

`read_decoder` and `table` serve the families that differ from it in the mixer.
"""

from typing import Any

from jogak import config
from jogak.families._fields import Fields
from jogak.families._keys import Map, Rule, Table, key, rename, tie

SUPPORTS = "language models (MambaForCausalLM), without a head (MambaModel); the residual stream has the weights' type"
_SIZES = {
    "vocab_size": 120,
    "hidden_size": 20,
    "state_size": 5,
    "time_step_rank": 3,
    "num_hidden_layers": 2,
    "conv_kernel": 3,
}
TINY: dict[str, dict[str, Any]] = {
    "MambaForCausalLM": _SIZES,
    "MambaModel": {**_SIZES, "expand": 3, "use_conv_bias": False, "use_bias": True},
}

CONVOLUTION = Map(lambda t: t.squeeze(1), lambda t: t.unsqueeze(1))  # theirs has an axis for its one input channel
BLOCK, OURS = "backbone.layers.{i}.", "decoder.stack.blocks.{i}."


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    return read_decoder(given, "Mamba", mixer_options(given))


def mixer_options(given: Fields) -> dict[str, Any]:
    """The mixer's options."""
    given.only("hidden_act", "silu", "swish")
    return {
        "name": "mamba",
        "state": given.integer("state_size", 16),
        "dt_rank": rank(given, "time_step_rank", given.integer("hidden_size")),
        **common_options(given),
    }


def rank(given: Fields, name: str, width: int) -> int:
    """The rank of the step size: a number, or 'auto'."""
    return -(-width // 16) if given.raw(name) in (None, "auto") else given.integer(name)


def common_options(given: Fields) -> dict[str, Any]:
    """Those that Mamba and Mamba-2 have."""
    return {
        "expand": given.integer("expand", 2),
        "conv": given.integer("conv_kernel", 4),
        "dt_min": given.positive("time_step_min", 0.001),
        "dt_max": given.positive("time_step_max", 0.1),
        "bias": given.flag("use_bias", False),
        "conv_bias": given.flag("use_conv_bias", True),
    }


def read_decoder(given: Fields, family: str, mixer: dict[str, Any], *, tied: bool = True) -> config.Model:
    """Blocks of the mixer alone; tied: whether the head's weights are the embedding's where nothing is said."""
    head = given.architecture({f"{family}ForCausalLM": "units", f"{family}Model": "none"}, f"{family}ForCausalLM")
    stack = config.Stack(
        depth=given.depth("num_hidden_layers"),
        pattern=(config.Mixer.model_validate(mixer),),
        feedforward=None,
        placement="pre",
        norm="rms",
        norm_eps=given.positive("layer_norm_epsilon", 1e-5),
    )
    return config.Model(
        topology="decoder",
        vocab_size=given.integer("vocab_size"),
        width=given.integer("hidden_size"),
        position="none",
        decoder=stack,
        head=config.Head(kind="units" if head == "units" else "none"),
        tie="output" if given.flag("tie_word_embeddings", tied) else "none",
        scale_embedding=False,
        dropout=0.0,
        init="normal",
    )


def mixer_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The tensors of one mixer, but for its `out`; theirs and ours: what stands before them."""
    return (
        rename(theirs + "in_proj.{p}", ours + "inner.{p}"),
        rename(key(theirs + "conv1d.weight", CONVOLUTION), ours + "conv_weight"),
        rename(theirs + "conv1d.bias", ours + "conv_bias"),
        rename(theirs + "x_proj.weight", ours + "select.weight"),
        rename(theirs + "dt_proj.weight", ours + "dt_weight"),
        rename(theirs + "dt_proj.bias", ours + "dt_bias"),
        rename(theirs + "A_log", ours + "a_log"),
        rename(theirs + "D", ours + "d"),
    )


ENDS = (
    rename("backbone.embeddings.weight", "decoder.embedding.table.weight"),
    rename(BLOCK + "norm.weight", OURS + "mixer_residual.norm.weight"),
    rename(BLOCK + "mixer.out_proj.{p}", OURS + "mixer.out.{p}"),
    rename("backbone.norm_f.weight", "decoder.stack.final_norm.weight"),
    rename("lm_head.weight", "head.projection.weight"),
    tie("lm_head.weight", "backbone.embeddings.weight"),
)


def table(_model: config.Model) -> Table:
    """The keys of Mamba, and of what differs from it by nothing that is learned."""
    return Table((*ENDS, *mixer_rules(BLOCK + "mixer.", OURS + "mixer.")), prefix="backbone.")
