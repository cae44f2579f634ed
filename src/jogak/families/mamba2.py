"""Mamba-2 (Dao & Gu 2024, 2405.21060): blocks of the mixer alone, a norm before each."""

import math
from typing import Any

from jogak import config
from jogak.families import mamba
from jogak.families._fields import Fields
from jogak.families._keys import Table, key, rename

SUPPORTS = (
    "language models (Mamba2ForCausalLM), without a head (Mamba2Model); step sizes without a limit; "
    "the residual stream has the weights' type"
)
_SIZES = {
    "vocab_size": 120,
    "hidden_size": 20,
    "num_heads": 4,
    "head_dim": 10,
    "n_groups": 2,
    "state_size": 6,
    "num_hidden_layers": 2,
    "conv_kernel": 3,
    "chunk_size": 4,
}
TINY: dict[str, dict[str, Any]] = {
    "Mamba2ForCausalLM": _SIZES,
    "Mamba2Model": {**_SIZES, "n_groups": 1, "use_conv_bias": False, "use_bias": True},
}
# As JSON has it for older and for newer writers, and as it stands in memory.
UNLIMITED = ([0.0, math.inf], [0.0, {"__float__": "Infinity"}], (0.0, math.inf))


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    given.only("hidden_act", "silu", "swish")
    given.only("time_step_limit", *UNLIMITED)
    given.only("rms_norm", True)
    mixer = {
        "name": "mamba2",
        "state": given.integer("state_size", 128),
        "head_dim": given.integer("head_dim", 64),
        "groups": given.integer("n_groups", 8),
        "norm_eps": given.positive("layer_norm_epsilon", 1e-5),
        **mamba.common_options(given),
    }
    return mamba.read_decoder(given, "Mamba2", mixer, tied=False)


def table(_model: config.Model) -> Table:
    """Mamba's keys but for those of the mixer."""
    theirs, ours = mamba.BLOCK + "mixer.", mamba.OURS + "mixer."
    mixer = (
        rename(theirs + "in_proj.{p}", ours + "inner.{p}"),
        rename(key(theirs + "conv1d.weight", mamba.CONVOLUTION), ours + "conv_weight"),
        rename(theirs + "conv1d.bias", ours + "conv_bias"),
        rename(theirs + "dt_bias", ours + "dt_bias"),
        rename(theirs + "A_log", ours + "a_log"),
        rename(theirs + "D", ours + "d"),
        rename(theirs + "norm.weight", ours + "norm.weight"),
    )
    return Table((*mamba.ENDS, *mixer), prefix="backbone.")
