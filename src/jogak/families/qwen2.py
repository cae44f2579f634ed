"""Qwen2 (Yang et al. 2024, 2407.10671): Llama whose queries, keys and values have biases."""

from typing import Any

from jogak import config
from jogak.families import llama
from jogak.families._fields import Fields

SUPPORTS = "language models (Qwen2ForCausalLM), without a head (Qwen2Model); full attention in every block"
TINY: dict[str, dict[str, Any]] = {"Qwen2ForCausalLM": {**llama.TINY["LlamaForCausalLM"], "tie_word_embeddings": True}}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    given.only("use_sliding_window", False)
    return llama.read_decoder(given, "Qwen2", {"bias": True, "out_bias": False})


table = llama.table
