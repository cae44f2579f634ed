"""Mamba's families and the hybrids beside `transformers`: sizes as published, and what is refused."""

import json
from typing import Any

import pytest
import torch

from jogak import families, models
from jogak.errors import UserError
from jogak.families import jamba, recurrent_gemma
from jogak.families._fields import Fields
from jogak.mixers.mamba import Mamba

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

# What config.json of a published model says beside the defaults of `transformers`.
PUBLISHED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mamba-130m": ("mamba", "Mamba", {"num_hidden_layers": 24}),
    "mamba-2.8b": ("mamba", "Mamba", {"hidden_size": 2560, "num_hidden_layers": 64}),
    "mamba-codestral-7b": ("mamba2", "Mamba2", {}),
    "falcon-mamba-7b": (
        "falcon_mamba",
        "FalconMamba",
        {"hidden_size": 4096, "num_hidden_layers": 64, "vocab_size": 65024, "tie_word_embeddings": False},
    ),
    "recurrentgemma-2b": ("recurrent_gemma", "RecurrentGemma", {"num_key_value_heads": 1, "intermediate_size": 15360}),
    "jamba-v0.1": ("jamba", "Jamba", {}),
    "jamba-without-experts": ("jamba", "Jamba", {"num_experts": 1, "tie_word_embeddings": True}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    """As many parameters as theirs, from the config.json that theirs writes; nothing is allocated."""
    family, theirs, fields = PUBLISHED[name]
    given = getattr(transformers, theirs + "Config")(**fields)
    with torch.device("meta"):
        wanted = sum(p.numel() for p in getattr(transformers, theirs + "ForCausalLM")(given).parameters())
    written = {**json.loads(given.to_json_string()), "architectures": [theirs + "ForCausalLM"]}
    ours = models.build(families.find(family).read_config(Fields(written, name)), device="meta")
    assert sum(p.numel() for p in ours.parameters()) == wanted


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a limit of the step size": ("mamba2", {"time_step_limit": [0.2, 0.1]}, "time_step_limit"),
    "another activation": ("mamba", {"hidden_act": "gelu"}, "hidden_act"),
    "a size that is no number": ("falcon_mamba", {"state_size": "16"}, "state_size"),
    "a kind of block that is not known": ("recurrent_gemma", {"block_types": ["recurrent", "atention"]}, "atention"),
    "scaled positions": ("recurrent_gemma", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
    "a place behind the period": ("jamba", {"attn_layer_offset": 3}, "attn_layer_offset"),
    "no norms inside": ("jamba", {"mamba_inner_layernorms": False}, "mamba_inner_layernorms"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refusals(why: str) -> None:
    family, changes, named = REFUSED[why]
    fields = {**next(iter(families.find(family).TINY.values())), **changes}
    with pytest.raises(UserError, match=named) as error:
        families.find(family).read_config(Fields(fields, "config.json"))
    assert "\n" not in str(error.value)


def test_mamba_refuses_norms_that_it_does_not_have() -> None:
    with pytest.raises(UserError, match="learned"):
        Mamba(8, norms="learnt")


def test_patterns_say_which_block_is_which() -> None:
    """A hybrid's blocks follow its configuration, past the end of the pattern too."""
    given = jamba.read_config(Fields(jamba.TINY["JambaForCausalLM"] | {"num_hidden_layers": 7}, "config.json"))
    blocks = models.build(given, device="meta").decoder.stack.blocks
    assert [type(b.mixer).__name__ == "Attention" for b in blocks] == [i % 3 == 1 for i in range(7)]
    assert [type(b.feedforward).__name__ == "Experts" for b in blocks] == [i % 2 == 1 for i in range(7)]
    fields = recurrent_gemma.TINY["RecurrentGemmaForCausalLM"] | {"num_hidden_layers": 7}
    blocks = models.build(
        recurrent_gemma.read_config(Fields(fields, "config.json")), device="meta"
    ).decoder.stack.blocks
    assert [type(b.mixer).__name__ == "RGLRU" for b in blocks] == [i % 3 != 2 for i in range(7)]
