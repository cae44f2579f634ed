"""Chronos (Ansari et al. 2024, 2403.07815): a T5 whose units are bins of values; its config.json says model type t5."""

from typing import Any

from jogak import config
from jogak.families import t5
from jogak.families._fields import Fields

SUPPORTS = "forecasts of series by samples (T5ForConditionalGeneration with a chronos_config); units are codecs.values"
MODEL_TYPE, MARK = "t5", "chronos_config"
TINY: dict[str, dict[str, Any]] = {
    "T5ForConditionalGeneration": {
        **t5.TINY["T5ForConditionalGeneration"],
        "chronos_config": {
            "tokenizer_class": "MeanScaleUniformBins",
            "tokenizer_kwargs": {"low_limit": -15.0, "high_limit": 15.0},
            "n_tokens": 120,
            "n_special_tokens": 2,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "use_eos_token": True,
            "model_type": "seq2seq",
            "context_length": 20,
            "prediction_length": 6,
            "num_samples": 20,
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 1.0,
        },
    }
}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    settings = given.section("chronos_config")
    settings.only("tokenizer_class", "MeanScaleUniformBins")
    settings.only("model_type", "seq2seq")
    given.architecture({"T5ForConditionalGeneration": "units"}, "T5ForConditionalGeneration")
    return t5.read_config(given)


table = t5.table
