"""Gemma 2 (Gemma Team 2024, 2408.00118): norms around each part, capped scores, every other block with a window."""

from typing import Any

from jogak import config
from jogak.families import llama
from jogak.families._fields import Fields
from jogak.families._keys import Table, rename
from jogak.families._layers import WHOLE, WINDOWED, windowed

SUPPORTS = "language models (Gemma2ForCausalLM), without a head (Gemma2Model)"
TOKENIZER = "GemmaTokenizer"
_SIZES = {
    **llama.TINY["LlamaForCausalLM"],
    "num_hidden_layers": 3,
    "head_dim": 12,
    "query_pre_attn_scalar": 20,
    "sliding_window": 5,
}
TINY: dict[str, dict[str, Any]] = {
    "Gemma2ForCausalLM": _SIZES,
    "Gemma2Model": {**_SIZES, "attn_logit_softcapping": 2.0, "layer_types": [WHOLE, WHOLE, WINDOWED]},
}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    given.only("use_bidirectional_attention", False)
    bias = given.flag("attention_bias", False)
    attention: dict[str, Any] = {"bias": bias, "out_bias": bias}
    attention["scale"] = given.positive("query_pre_attn_scalar", 256) ** -0.5
    if "attn_logit_softcapping" in given:
        attention["softcap"] = given.positive("attn_logit_softcapping")
    model = llama.read_decoder(given, "Gemma2", attention)
    stack = model.stack("decoder")
    kinds = [WHOLE if index % 2 else WINDOWED for index in range(stack.depth)]
    activation = given.activation("hidden_activation", "gelu_pytorch_tanh", gated=True)
    assert stack.feedforward is not None
    feedforward = stack.feedforward.model_copy(update={"activation": activation})
    stack = stack.model_copy(update={"norm": "rms_plus_one", "placement": "sandwich", "feedforward": feedforward})
    head = model.head
    if head.kind == "units" and "final_logit_softcapping" in given:
        head = head.model_copy(update={"softcap": given.positive("final_logit_softcapping")})
    tie = "output" if given.flag("tie_word_embeddings", True) else "none"
    model = model.model_copy(update={"decoder": stack, "head": head, "tie": tie, "scale_embedding": True})
    return windowed(given, model, given.integer("sliding_window", 4096), kinds)


def table(model: config.Model) -> Table:
    """Llama's keys, and a norm behind each part beside the one before it."""
    block, ours = llama.BLOCK, llama.OURS
    norms = (
        rename(block + "input_layernorm.weight", ours + "mixer_residual.norm.weight"),
        rename(block + "post_attention_layernorm.weight", ours + "mixer_residual.norm_after.weight"),
        rename(block + "pre_feedforward_layernorm.weight", ours + "feedforward_residual.norm.weight"),
        rename(block + "post_feedforward_layernorm.weight", ours + "feedforward_residual.norm_after.weight"),
    )
    return Table((*llama.ENDS, *norms, *llama.attention_rules(model), *llama.FEEDFORWARD), prefix="model.")
