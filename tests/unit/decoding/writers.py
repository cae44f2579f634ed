"""Tiny models, and a codec for them, that every decoding test writes with."""

from functools import cache

import pytest
import torch

from jogak import config, models
from jogak.codecs.text import TextCodec
from jogak.config import Codec
from jogak.decoding.generate import Generator
from tests.laws.forms import looks_back, registered

TEXTS = [
    "파일을 저장했습니다. 다시 열어 보세요.",
    "The file was saved; open it again.",
    '{"name": "조각", "n": 12}',
] * 8


@cache
def codec(kind: str = "bytes") -> TextCodec:
    return TextCodec.train(TEXTS, Codec(kind=kind, vocab_size=400))  # pyright: ignore[reportArgumentType]  # one of the kinds


# One form of every registered mixer that a decoder can have, two more ways in which attention keeps its state, and
# stacks of two kinds of state.
_FORMS = {form.name.split("-")[0]: form for form in reversed(registered()) if looks_back(form)}
_EXTRA = ("attention-window-rotary-gqa", "attention-alibi", "ttt-plain")


def _mixer_of(form):
    options = {name: value for name, value in form.options.items() if name != "causal"}
    return {"name": form.name.split("-")[0], **options}


PATTERNS = {form.name: [_mixer_of(form)] for form in _FORMS.values()}
PATTERNS |= {form.name: [_mixer_of(form)] for form in registered() if form.name in _EXTRA}
PATTERNS |= {
    "mamba+attention": [_mixer_of(_FORMS["mamba"]), "attention"],
    "rglru+window": [_mixer_of(_FORMS["rglru"]), {"name": "attention", "window": 4}],
    "retention+gru": [_mixer_of(_FORMS["retention"]), "gru"],
}
OVER = pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)


def decoder(
    mixer: list | dict | str = "attention", seed: int = 0, width: int = 32, depth: int = 2, vocab: int | None = None
):
    """A decoder far from uniform, so that choices matter."""
    given = config.Model.model_validate(
        {
            "topology": "decoder",
            "width": width,
            "position": "none",
            "tie": "none",
            "decoder": {"depth": depth, "pattern": mixer, "placement": "pre", "feedforward": {"width": 2 * width}},
        }
    )
    return _loud(given, seed, vocab)


def translator(mixer: list | dict | str = "attention", cross: str = "attention", seed: int = 0, **changes):
    depth = len(mixer) if isinstance(mixer, list) else 1
    side = {"depth": depth, "pattern": mixer, "placement": "pre", "feedforward": {"width": 64}}
    given = config.Model.model_validate(
        {"width": 32, "tie": "none", "encoder": {"depth": 1}, "decoder": {**side, "cross": cross}, **changes}
    )
    return _loud(given, seed, None)


def _loud(given: config.Model, seed: int, vocab: int | None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = models.build(given, vocab or codec().vocab_size).eval()
        with torch.no_grad():
            model.head.projection.weight.mul_(4)
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def writer(mixer: list | dict | str = "attention", **settings) -> Generator:
    return Generator(decoder(mixer), codec(), **settings)
