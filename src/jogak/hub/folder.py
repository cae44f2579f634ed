"""An imported model in a folder of jogak's own form: its tensors by our names, its configuration as YAML.

Matrices may be kept in fewer bits (layers.quantised); the metadata of the tensors' file then says in which.

`model.yaml` is the configuration of the model, `huggingface.json` the config.json that it came with, whole, so that it
can go out again with nothing lost.
"""

from pathlib import Path

import torch

from jogak import __version__, config, families, models, storage
from jogak.errors import UserError
from jogak.families._fields import Fields
from jogak.hub import keymap
from jogak.hub.pretrained import Pretrained
from jogak.hub.write import copy_settings
from jogak.layers.quantised import is_quantised, kind_of, quantise

MODEL, WEIGHTS, ORIGIN = "model.yaml", "model.safetensors", "huggingface.json"
FORMAT = "1"


def is_imported(path: Path) -> bool:
    """Whether a folder holds what `save` wrote."""
    return (path / MODEL).is_file() and (path / ORIGIN).is_file()


def save(model: Pretrained, folder: Path) -> None:
    """Write a model into a new folder, which appears only when all of it is written.

    Raises: UserError if there is something already, StorageError if the disk refuses.
    """
    if folder.exists():
        raise UserError(f"{folder}: is there already; remove it, or write to another folder (--output)")
    kind = is_quantised(model.module)
    metadata = {"format": FORMAT, "jogak": __version__, **({} if kind is None else {"dtype": kind})}
    with storage.new_folder(folder) as inside:
        storage.write_text(inside / MODEL, config.to_yaml(model.config))
        storage.write_json(inside / ORIGIN, model.fields)
        storage.write_tensors(inside / WEIGHTS, keymap.our_tensors(model.module), metadata)
        copy_settings(model.folder, inside)


def load(folder: Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Pretrained:
    """The model that `save` wrote; dtype None: as it is stored.

    Raises: UserError if it is damaged, or a newer version of jogak wrote it.
    """
    tensors, metadata = storage.read_tensors(folder / WEIGHTS)
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{folder / WEIGHTS}: is in format {metadata.get('format')}, and this jogak reads format {FORMAT}; "
            f"install jogak {metadata.get('jogak', 'of a newer version')} or newer"
        )
    tree, lines = config.read_yaml(folder / MODEL)
    given = config.validate(config.Model, tree, str(folder / MODEL), lines)
    fields = storage.read_json(folder / ORIGIN)
    if not isinstance(fields, dict):
        raise UserError(f"{folder / ORIGIN}: damaged: a JSON object is expected; import the model again")
    family = families.find(Fields(fields, str(folder / ORIGIN)).text("model_type"), fields)
    module = models.build(given, device="meta")
    if (kind := kind_of(metadata, folder / WEIGHTS)) is not None:
        quantise(module, kind)
        dtype = None
    keymap.give(module, tensors, str(folder / WEIGHTS), dtype, torch.device(device))
    return Pretrained(folder, module.eval(), given, family, fields)
