"""Mixtral (Jiang et al. 2024, 2401.04088): Mistral with a mixture of experts in each block."""

from typing import Any

from jogak import config
from jogak.families import llama
from jogak.families._fields import Fields
from jogak.families._keys import Table, rename, stack

SUPPORTS = "language models (MixtralForCausalLM), without a head (MixtralModel); sliding windows"
_SIZES = {**llama.TINY["LlamaForCausalLM"], "num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 24}
TINY: dict[str, dict[str, Any]] = {
    "MixtralForCausalLM": {**_SIZES, "sliding_window": 5},
    "MixtralModel": {**_SIZES, "num_experts_per_tok": 3},
}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    given.only("router_jitter_noise", 0.0, 0)
    window = given.maybe_integer("sliding_window")
    attention: dict[str, Any] = {"bias": False, **({} if window is None else {"window": window})}
    model = llama.read_decoder(given, "Mixtral", attention, base=1e6)
    layers = model.stack("decoder")
    assert layers.feedforward is not None
    mixture = layers.feedforward.model_copy(
        update={"experts": given.integer("num_local_experts", 8), "chosen": given.integer("num_experts_per_tok", 2)}
    )
    eps = given.positive("rms_norm_eps", 1e-5)
    layers = layers.model_copy(update={"feedforward": mixture, "norm_eps": eps})
    return model.model_copy(update={"decoder": layers})


def table(model: config.Model) -> Table:
    """Llama's keys; each expert's three matrices apart in theirs, on top of one another in ours."""
    mixture = model.stack("decoder").feedforward
    assert mixture is not None
    assert mixture.experts is not None
    theirs, ours = llama.BLOCK + "block_sparse_moe.", llama.OURS + "feedforward."
    experts = (
        rename(theirs + "gate.weight", ours + "router.weight"),
        stack([f"{theirs}experts.{{e}}.w{n}.weight" for n in (1, 3)], ours + "inner", mixture.experts),
        stack(theirs + "experts.{e}.w2.weight", ours + "out", mixture.experts),
    )
    return Table((*llama.ENDS, *llama.NORMS, *llama.attention_rules(model), *experts), prefix="model.")
