"""The tower of texts of CLIP (Radford et al. 2021, 2103.00020) alone."""

from typing import Any, cast

from jogak import config
from jogak.families import _clip
from jogak.families._fields import Fields
from jogak.families._keys import Table

SUPPORTS = "vectors of texts (CLIPTextModelWithProjection), states and pooled vectors (CLIPTextModel)"
TINY: dict[str, dict[str, Any]] = {
    "CLIPTextModelWithProjection": _clip.TEXT,
    "CLIPTextModel": {**_clip.TEXT, "hidden_act": "gelu"},
}
_HEADS = {"CLIPTextModelWithProjection": "vector", "CLIPTextModel": "none"}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    kind = cast(_clip.Kind, given.architecture(_HEADS, "CLIPTextModel"))
    return _clip.words(given, kind, given.integer("projection_dim", 512))


def table(_model: config.Model) -> Table:
    """As in the whole of CLIP."""
    return Table((*_clip.word_rules(),), prefix="text_model.")
