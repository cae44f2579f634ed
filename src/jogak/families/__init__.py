"""Families: how one Hugging Face model type maps to a jogak model, both ways, one file each.

How to add a family: write `src/jogak/families/NAME.py`, where NAME is the `model_type` of its config.json (with `_`
for `-`). Nobody edits a list. The file holds

- `read_config(given: Fields) -> config.Model`: reads config.json's fields through `given`, which checks their types
  and bounds and names what is wrong; options go by what a layer does (`head.transform`, `qk_norm`), so that a
  family's name never appears in models/ or layers/;
- `table(model: config.Model) -> Table`: one ordered list of rules between their keys and ours. The inverse, the shapes
  that a checkpoint must have and every complaint about keys are derived from it;
- `write_config(model: config.Model) -> dict` where runs of jogak can go out as this family; leave it out otherwise (a
  checkpoint that came in keeps its own config.json);
- `TOKENIZER`: the class in codecs.vocabularies that reads its older vocabularies, if tokenizer_config.json names none;
  left out for families that have always had a tokenizer.json;
- `SETTLED` where `transformers` would leave something to chance that is nothing of the model's: fields of config.json
  with which it does not, for `jogak verify`;
- `MODEL_TYPE` and `MARK` where config.json names another family's type, and which field of it tells the two apart;
- `SUPPORTS`: what of the family works, in one line for `jogak list families`;
- `TINY`: fields of config.json that make a model of a few thousand numbers, by architecture
  (`{"GPT2LMHeadModel": {"n_layer": 2, ...}}`). tests/parity/test_families.py then finds them, and checks logits,
  decoding, refusals, and tensors going out, against `transformers`.

What a family needs and the model lacks becomes a small module in layers/, chosen by a new option in config.py whose
default changes nothing; where the input is no row of units, a module in layers/inputs/, found by its name too.
"""

from collections.abc import Container
from types import ModuleType

from jogak import registry
from jogak.errors import UserError, nearest

__all__ = ["find", "names"]


def names() -> list[str]:
    """The model types that can be read."""
    return registry.names("families")


def find(model_type: str, fields: Container[str] = ()) -> ModuleType:
    """The module of a model type; fields: config.json's, by which some that share a type are told apart.

    Raises: UserError naming the nearest that can be read.
    """
    name = model_type.replace("-", "_")
    for family in (registry.find("families", other) for other in (names() if fields else ())):
        if getattr(family, "MODEL_TYPE", "") == name and family.MARK in fields:
            return family
    if name not in names():
        raise UserError(f"model type '{model_type}' is not supported{nearest(name, names())}")
    return registry.find("families", name)
