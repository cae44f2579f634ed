"""mT5 (Xue et al. 2020, 2010.11934): T5 1.1 with many languages."""

from typing import Any

from jogak import config
from jogak.families import t5
from jogak.families._fields import Fields

SUPPORTS = "text to text (MT5ForConditionalGeneration), without a head (MT5Model), the encoder alone (MT5EncoderModel)"
TOKENIZER = "T5Tokenizer"
_SIZES = t5.TINY["T5ForConditionalGeneration"]
TINY: dict[str, dict[str, Any]] = {
    "MT5ForConditionalGeneration": _SIZES,
    "MT5Model": {**_SIZES, "feed_forward_proj": "relu", "num_decoder_layers": 3},
    "MT5EncoderModel": _SIZES,
}
_DEFAULTS = {
    "vocab_size": 250112,
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes; whether its head is tied is left to the weights, as configs disagree."""
    fields = {**_DEFAULTS, **{name: given.raw(name) for name in given}}
    names = given.texts("architectures") or ["MT5ForConditionalGeneration"]
    fields["architectures"] = [name.removeprefix("M") if name in TINY else name for name in names]
    fields["tie_word_embeddings"] = "lm_head.weight" not in given.keys
    fields["scale_decoder_outputs"] = False
    return t5.read_config(Fields(fields, given.where, given.keys))


table = t5.table
