"""ViT (Dosovitskiy et al. 2021, 2010.11929): encoders of pictures cut into patches, with a class token before them."""

from typing import Any

from jogak import config
from jogak.families import _pictures
from jogak.families._fields import Fields
from jogak.families._keys import Table, drop, key, rename, reshaped

SUPPORTS = "classifiers of pictures (ViTForImageClassification), states and pooled vectors (ViTModel)"
TINY: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": {**_pictures.TINY, "num_labels": 5},
    "ViTModel": {**_pictures.TINY, "qkv_bias": False},
}
_HEADS = {"ViTForImageClassification": "classes", "ViTModel": "none"}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    return _pictures.encoder(given, given.architecture(_HEADS, "ViTModel"), marks=1)


def table(model: config.Model) -> Table:
    """The class token is a mark before the patches."""
    return Table(
        (
            rename(key("vit.embeddings.cls_token", reshaped((1, 1, -1), (1, -1))), "encoder.input.marks"),
            *_pictures.rules(model, "vit."),
            rename("classifier.{p}", "head.{p}"),
            drop("vit.embeddings.mask_token", *(() if model.head.kind == "none" else ("vit.pooler.*",))),
        ),
        prefix="vit.",
    )
