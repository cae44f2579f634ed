"""The tower of pictures of CLIP (Radford et al. 2021, 2103.00020) alone."""

from typing import Any, cast

from jogak import config
from jogak.families import _clip
from jogak.families._fields import Fields
from jogak.families._keys import Table

SUPPORTS = "vectors of pictures (CLIPVisionModelWithProjection), states and pooled vectors (CLIPVisionModel)"
TINY: dict[str, dict[str, Any]] = {
    "CLIPVisionModelWithProjection": _clip.PICTURES,
    "CLIPVisionModel": {**_clip.PICTURES, "hidden_act": "gelu"},
}
_HEADS = {"CLIPVisionModelWithProjection": "vector", "CLIPVisionModel": "none"}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    kind = cast(_clip.Kind, given.architecture(_HEADS, "CLIPVisionModel"))
    return _clip.pictures(given, kind, given.integer("projection_dim", 512))


def table(model: config.Model) -> Table:
    """As in the whole of CLIP."""
    return Table((*_clip.picture_rules(model.width),), prefix="vision_model.")
