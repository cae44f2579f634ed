"""Models going out as the checkpoint that they came from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jogak.errors import UserError
from jogak.hub import keymap
from jogak.hub.pretrained import Pretrained
from jogak.hub.write import SHARD_BYTES, write


def export(
    model: Pretrained,
    folder: Path,
    *,
    files: Mapping[str, str] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a checkpoint that `transformers` loads; files: texts beside the weights, by name, instead of the model's.

    Raises: UserError if there is something already, StorageError if the disk refuses.
    """
    if folder.exists():
        raise UserError(f"{folder}: is there already; remove it, or write to another folder (--output)")
    fields = _said(model.fields, model.dtype)
    write(folder, fields, tensors_of(model), model.folder, files=files or {}, shard_bytes=shard_bytes)


def tensors_of(model: Pretrained) -> dict[str, Tensor]:
    """The tensors as the checkpoint has them."""
    table = model.family.table(model.config)
    return keymap.their_tensors(model.module, table, prefixed=not keymap.bare(model.config))


def _said(fields: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """config.json with the dtype that is written."""
    said = {name: value for name, value in fields.items() if name != "torch_dtype"}
    return {**said, "dtype": str(dtype).removeprefix("torch.")}
