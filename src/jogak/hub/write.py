"""From a jogak model to a Hugging Face checkpoint: config.json, safetensors in shards, tokenizer files."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from jogak import storage
from jogak.hub.checkpoint import INDEX, OTHER_FILES, SINGLE, TOKENIZER_FILES

SHARD_BYTES = 5 * 10**9
METADATA = {"format": "pt"}  # transformers refuses files without it


def write(
    folder: Path,
    fields: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    beside: Path | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """A checkpoint in a new folder, which appears only when all of it is written.

    fields: config.json's. beside: a folder whose tokenizer files and other settings are copied.

    Raises: StorageError if the disk refuses.
    """
    with storage.new_folder(folder) as inside:
        storage.write_json(inside / "config.json", dict(fields))
        _write_tensors(inside, tensors, shard_bytes)
        if beside is not None:
            copy_settings(beside, inside)


def copy_settings(source: Path, target: Path) -> None:
    """Copy what lies beside weights: tokenizer, settings for generating and pooling."""
    for name in (*TOKENIZER_FILES, *OTHER_FILES):
        if (file := source / name).is_file() and not (target / name).exists():
            with storage.storing(target / name):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target / name)


def _write_tensors(folder: Path, tensors: Mapping[str, Tensor], shard_bytes: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if size and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        storage.write_tensors(folder / SINGLE, shards[0], METADATA)
        return
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        storage.write_tensors(folder / name, shard, METADATA)
    weights = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    total = sum(t.nbytes for t in tensors.values())
    storage.write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weights})
