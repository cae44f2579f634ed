"""Mamba-2 (Dao & Gu 2024, 2405.21060): blocks of the mixer alone, a norm before each."""

import math
from typing import Any

from jogak import config
from jogak.errors import UserError
from jogak.families import mamba
from jogak.families._fields import Fields
from jogak.families._keys import Table, key, rename

SUPPORTS = (
    "language models (Mamba2ForCausalLM), without a head (Mamba2Model); the step sizes' limit holds in steps too; "
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
    "Mamba2Model": {**_SIZES, "n_groups": 1, "use_conv_bias": False, "use_bias": True, "time_step_limit": [0.02, 0.1]},
}
INFINITE = (math.inf, "Infinity", {"__float__": "Infinity"})  # in memory, and as JSON has it


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    given.only("hidden_act", "silu", "swish")
    given.only("rms_norm", True)
    mixer = {
        "name": "mamba2",
        "state": given.integer("state_size", 128),
        "head_dim": given.integer("head_dim", 64),
        "groups": given.integer("n_groups", 8),
        "norm_eps": given.positive("layer_norm_epsilon", 1e-5),
        **({} if (limit := _limit(given)) == (0.0, None) else {"dt_limit": list(limit)}),
        **mamba.common_options(given),
    }
    return mamba.read_decoder(given, "Mamba2", mixer, tied=False)


def _limit(given: Fields) -> tuple[float, float | None]:
    """The least and the most of a step; infinity is spelled in several ways."""
    value = given.raw("time_step_limit")
    if value is None:
        return 0.0, None
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise UserError(f"{given.where}: 'time_step_limit' must be two numbers, got {value!r:.60}")
    least, most = value
    endless = most in INFINITE if isinstance(most, float | str | dict) else False
    pair = Fields({"time_step_limit[0]": least, "time_step_limit[1]": None if endless else most}, given.where)
    bound = None if endless else pair.positive("time_step_limit[1]")
    lowest = pair.number("time_step_limit[0]")
    if lowest < 0 or (bound is not None and bound < lowest):
        raise UserError(f"{given.where}: 'time_step_limit' must be a least of at least 0 and a most above it")
    return lowest, bound


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
