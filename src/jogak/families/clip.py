"""CLIP (Radford et al. 2021, 2103.00020): a tower of pictures and one of text, whose vectors are compared."""

from typing import Any

from jogak import config
from jogak.families import _clip
from jogak.families._fields import Fields
from jogak.families._keys import Table, rename

SUPPORTS = "how well pictures and texts fit (CLIPModel)"
TINY: dict[str, dict[str, Any]] = {
    "CLIPModel": {
        "text_config": _clip.TEXT,
        "vision_config": {**_clip.PICTURES, "hidden_act": "gelu"},
        "projection_dim": 20,
    },
}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    given.architecture({"CLIPModel": "towers"}, "CLIPModel")
    size = given.integer("projection_dim", 512)
    pictures = _clip.pictures(_side(given, "vision_config"), "vector", size)
    words = _clip.words(_side(given, "text_config"), "vector", size)
    return config.Model(topology="towers", towers=(pictures, words), head=config.Head(kind="none"))


def _side(given: Fields, name: str) -> Fields:
    """One tower's fields; older configurations say some of them again, which then count."""
    parts = [given.section(name), given.section(name + "_dict")]
    return Fields({n: part.raw(n) for part in parts for n in part if part.raw(n) is not None}, f"{given.where}: {name}")


def table(model: config.Model) -> Table:
    """Pictures are the first tower."""
    assert model.towers is not None
    rules = (*_clip.picture_rules(model.towers[0].width, "first."), *_clip.word_rules("second."))
    return Table((*rules, rename("logit_scale", "scale")))
