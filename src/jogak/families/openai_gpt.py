"""GPT (Radford et al. 2018): decoders with learned positions and norms behind each part."""

from typing import Any

from jogak import config
from jogak.families._fields import Fields, architecture_of, heads_of
from jogak.families._keys import Table, drop, rename, tie, transpose

SUPPORTS = (
    "language models (OpenAIGPTLMHeadModel), classifiers (OpenAIGPTForSequenceClassification), without a head "
    "(OpenAIGPTModel)"
)
TOKENIZER = "OpenAIGPTTokenizer"
_SIZES = {"vocab_size": 120, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
TINY: dict[str, dict[str, Any]] = {
    "OpenAIGPTLMHeadModel": _SIZES,
    "OpenAIGPTForSequenceClassification": {**_SIZES, "num_labels": 5, "pad_token_id": 0},
    "OpenAIGPTModel": {**_SIZES, "afn": "swish"},
}
_HEADS = {"OpenAIGPTLMHeadModel": "units", "OpenAIGPTForSequenceClassification": "classes", "OpenAIGPTModel": "none"}
_ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}  # its gelu is the tanh form
_BLOCK, _OURS = "transformer.h.{i}.", "decoder.stack.blocks.{i}."


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    head = given.architecture(_HEADS, "OpenAIGPTLMHeadModel")
    width = given.integer("n_embd", 768)
    stack = config.Stack(
        depth=given.depth("n_layer", 12),
        pattern=(config.Mixer.model_validate({"name": "attention", "heads": given.integer("n_head", 12)}),),
        feedforward=config.FeedForward(
            width=4 * width,
            activation=given.choice("afn", _ACTIVATIONS, "gelu"),  # pyright: ignore[reportArgumentType]
        ),
        placement="post",
        norm_eps=given.positive("layer_norm_epsilon", 1e-5),
    )
    return config.Model(
        topology="decoder",
        vocab_size=given.integer("vocab_size", 40478),
        width=width,
        position="learned",
        max_length=given.integer("n_positions", 512),
        decoder=stack,
        head=given.decoder_head(head),
        tie="output" if given.flag("tie_word_embeddings", True) else "none",
        scale_embedding=False,
        dropout=given.fraction("resid_pdrop", 0.1),
        init="normal",
    )


def write_config(model: config.Model) -> dict[str, Any]:
    """config.json of a model that can be one of the family; what does not fit is seen when it is read again."""
    stack = model.stack("decoder")
    return {
        "architectures": architecture_of(model, {kind: name for name, kind in _HEADS.items()}),
        "model_type": "openai-gpt",
        "vocab_size": model.vocab_size,
        "n_embd": model.width,
        "n_layer": stack.depth,
        "n_head": heads_of(stack),
        "n_positions": model.max_length,
        "afn": {"gelu_tanh": "gelu", "relu": "relu", "silu": "silu"}.get(
            "" if stack.feedforward is None else stack.feedforward.activation, "gelu"
        ),
        "layer_norm_epsilon": stack.norm_eps,
        "tie_word_embeddings": model.tie in ("output", "all"),
        **({"num_labels": model.head.classes} if model.head.kind == "classes" else {}),
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), model.dropout),
    }


def table(model: config.Model) -> Table:
    """Their linear weights are [in, out]."""
    return Table(
        (
            rename("transformer.tokens_embed.weight", "decoder.embedding.table.weight"),
            rename("transformer.positions_embed.weight", "decoder.embedding.position.weight"),
            transpose(_BLOCK + "attn.c_attn.{p}", _OURS + "mixer.qkv.{p}"),
            transpose(_BLOCK + "attn.c_proj.{p}", _OURS + "mixer.out.{p}"),
            rename(_BLOCK + "ln_1.{p}", _OURS + "mixer_residual.norm.{p}"),
            transpose(_BLOCK + "mlp.c_fc.{p}", _OURS + "feedforward.inner.{p}"),
            transpose(_BLOCK + "mlp.c_proj.{p}", _OURS + "feedforward.out.{p}"),
            rename(_BLOCK + "ln_2.{p}", _OURS + "feedforward_residual.norm.{p}"),
            rename("lm_head.weight", "head.projection.weight"),
            rename("score.weight", "head.weight"),
            tie("lm_head.weight", "transformer.tokens_embed.weight"),
            drop(_BLOCK + "attn.bias", "transformer.position_ids"),
        ),
        prefix="transformer.",
    )
