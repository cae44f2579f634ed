"""DeiT (Touvron et al. 2021, 2012.12877): ViT with a second token, which learns from a teacher."""

from typing import Any

from jogak import config
from jogak.families import _pictures
from jogak.families._fields import Fields
from jogak.families._keys import Rule, Table, concatenate, drop, key, rename, reshaped

SUPPORTS = "classifiers of pictures, by one token or by both (...WithTeacher); states and pooled vectors (DeiTModel)"
TINY: dict[str, dict[str, Any]] = {
    "DeiTForImageClassificationWithTeacher": {**_pictures.TINY, "num_labels": 5},
    "DeiTForImageClassification": {**_pictures.TINY, "num_labels": 3},
    "DeiTModel": _pictures.TINY,
}
_HEADS = {
    "DeiTForImageClassificationWithTeacher": "both",
    "DeiTForImageClassification": "classes",
    "DeiTModel": "none",
}


def read_config(given: Fields) -> config.Model:
    """The model that config.json describes."""
    kind = given.architecture(_HEADS, "DeiTModel")
    both = kind == "both"
    return _pictures.encoder(given, "classes" if both else kind, marks=2, voters=2 if both else 1)


def table(model: config.Model) -> Table:
    """The class token and the distillation token are marks before the patches."""
    marks = [key(f"deit.embeddings.{n}_token", reshaped((1, 1, -1), (1, -1))) for n in ("cls", "distillation")]
    both = (key("cls_classifier.{p}"), key("distillation_classifier.{p}"))
    head = Rule(both, ("head.{p}",), stacked=True) if model.head.voters > 1 else rename("classifier.{p}", "head.{p}")
    return Table(
        (
            concatenate(marks, "encoder.input.marks"),
            *_pictures.rules(model, "deit."),
            head,
            drop("deit.embeddings.mask_token", *(() if model.head.kind == "none" else ("deit.pooler.*",))),
        ),
        prefix="deit.",
    )
