"""Mistral (Jiang et al. 2023, 2310.06825): Llama whose attention may look only so far back."""

from typing import Any

from jogak import config
from jogak.families import llama
from jogak.families._fields import Fields

SUPPORTS = "language models (MistralForCausalLM), without a head (MistralModel); sliding windows"
TINY: dict[str, dict[str, Any]] = {"MistralForCausalLM": {**llama.TINY["LlamaForCausalLM"], "sliding_window": 5}}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    window = given.maybe_integer("sliding_window")
    attention: dict[str, Any] = {"bias": False}
    return llama.read_decoder(given, "Mistral", attention if window is None else {**attention, "window": window})


table = llama.table
