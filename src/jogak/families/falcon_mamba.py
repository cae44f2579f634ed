"""Falcon Mamba (Zuo et al. 2024, 2410.05355): Mamba that norms the step size, the input and the output it chooses."""

from typing import Any

from jogak import config
from jogak.families import mamba
from jogak.families._fields import Fields

SUPPORTS = (
    "language models (FalconMambaForCausalLM), without a head (FalconMambaModel); "
    "the residual stream has the weights' type"
)
TINY: dict[str, dict[str, Any]] = {
    "FalconMambaForCausalLM": {**mamba.TINY["MambaForCausalLM"], "mixer_rms_eps": 1e-3, "tie_word_embeddings": False},
    "FalconMambaModel": mamba.TINY["MambaModel"],
}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    norms = {"norms": "plain", "norm_eps": given.positive("mixer_rms_eps", 1e-6)}
    return mamba.read_decoder(given, "FalconMamba", {**mamba.mixer_options(given), **norms})


table = mamba.table
