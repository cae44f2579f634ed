"""Qwen3 (Yang et al. 2025, 2505.09388): Llama whose queries and keys are normed, head by head."""

from typing import Any

from jogak import config
from jogak.families import llama
from jogak.families._fields import Fields
from jogak.families._keys import Table, rename
from jogak.families._layers import WHOLE, WINDOWED, windowed

SUPPORTS = "language models (Qwen3ForCausalLM), without a head (Qwen3Model); sliding windows in some blocks"
_SIZES = {**llama.TINY["LlamaForCausalLM"], "head_dim": 12}
_WINDOWS = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
TINY: dict[str, dict[str, Any]] = {
    "Qwen3ForCausalLM": {**_SIZES, **_WINDOWS},
    "Qwen3Model": {**_SIZES, "attention_bias": True},
}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    bias = given.flag("attention_bias", False)
    eps = given.positive("rms_norm_eps", 1e-6)
    attention = {"bias": bias, "out_bias": bias, "qk_norm": "rms", "norm_eps": eps}
    model = llama.read_decoder(given, "Qwen3", attention)
    depth, first = model.stack("decoder").depth, given.depth("max_window_layers", 28)
    kinds = [WINDOWED if index >= first else WHOLE for index in range(depth)]
    window = given.maybe_integer("sliding_window") if given.flag("use_sliding_window", False) else None
    return windowed(given, model, window, kinds)


def table(model: config.Model) -> Table:
    """Llama's keys and two norms."""
    norms = (
        rename(f"{llama.BLOCK}self_attn.{n}_norm.weight", f"{llama.OURS}mixer.{n}_norm.weight") for n in ("q", "k")
    )
    return Table((*norms, *llama.table(model).rules), prefix="model.")
