"""A Hugging Face checkpoint on disk or on the hub: config.json and safetensors, checked before anything is read.

Pickles are never opened, code that lies beside a checkpoint is never run.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jogak import storage
from jogak.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "source.spm",
    "target.spm",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
OTHER_FILES = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "modules.json",
    "1_Pooling/config.json",
)
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
AT_ONCE = 64 * 2**20  # bytes read through one mapping before it is let go, so that its pages do not pile up
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: where it is and what it is, known without reading it."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Checkpoint:
    """config: config.json's fields. entries: every tensor by its key.

    Raises: UserError where something is missing, damaged, pickled, quantised, or asks for code to be run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_config_json(folder)
        _refuse_quantised(self.config, folder)
        self.entries: dict[str, Entry] = {}
        for file in _files(folder):
            for entry in _entries(file):
                if entry.name in self.entries:
                    other = self.entries[entry.name].file.name
                    raise UserError(f"{file}: tensor '{entry.name}' is in {other} too; one file must hold each")
                self.entries[entry.name] = entry

    @property
    def model_type(self) -> str:
        """The family, as config.json calls it."""
        value = self.config.get("model_type")
        if not isinstance(value, str) or not value:
            raise UserError(f"{self.folder / 'config.json'}: 'model_type' is missing or no string; is it a checkpoint?")
        return value

    @property
    def dtype(self) -> torch.dtype:
        """What most of the floating numbers are stored in."""
        sizes: dict[torch.dtype, int] = {}
        for entry in self.entries.values():
            if entry.dtype.is_floating_point:
                sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.nbytes
        return max(sizes, key=lambda d: sizes[d]) if sizes else torch.float32

    def reader(self) -> "Reader":
        """What gives the tensors themselves."""
        return Reader(self.entries)


class Reader:
    """Tensors of a checkpoint one at a time, through memory-mapped files that are let go again and again.

    A tensor that `get` gives lies in the mapping: copy it before the next call of `done`.
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries
        self._open: dict[Path, Any] = {}
        self._read = 0

    def get(self, name: str) -> Tensor:
        """The tensor of a key.

        Raises: UserError if the file cannot be read any more.
        """
        entry = self._entries[name]
        self._read += entry.nbytes
        with _told(entry.file):
            if entry.file not in self._open:
                self._open[entry.file] = _safe_open(entry.file)
            return self._open[entry.file].get_tensor(name)

    def done(self) -> None:
        """What was got has been copied; pages are let go once they are many."""
        if self._read > AT_ONCE:
            self._open.clear()
            self._read = 0


def is_checkpoint(path: Path) -> bool:
    """Whether a folder holds a checkpoint: a config.json, and no config.yaml, which a run has."""
    return (path / "config.json").is_file() and not (path / "config.yaml").exists()


def is_hub_name(name: str | Path) -> bool:
    """Whether a name can be one on the hub, OWNER/NAME, and no path whose folder is there."""
    return bool(_HUB_NAME.fullmatch(str(name))) and not Path(name).parent.exists()


def locate(
    name: str | Path, *, revision: str | None = None, token: str | None = None, cache: Path | None = None
) -> Path:
    """The folder of a checkpoint: `name` itself, or a copy of what the hub has under that name, in its cache.

    Offline (HF_HUB_OFFLINE=1) only the cache is read. Only configuration, safetensors and tokenizer files are fetched.

    Raises: UserError if there is none.
    """
    path = Path(name)
    if path.is_dir():
        return path
    if path.exists() or not is_hub_name(name):
        raise UserError(f"{name}: there is no such folder, and it is no name on the hub (OWNER/NAME)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["config.json", SINGLE, INDEX, "*.safetensors", *TOKENIZER_FILES, *OTHER_FILES]
    try:
        return Path(
            snapshot_download(str(name), revision=revision, token=token, cache_dir=cache, allow_patterns=wanted)
        )
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError, ValueError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{name}: there is no such folder, and the hub does not give it: {why}") from None


def read_config_json(folder: Path) -> dict[str, Any]:
    """The fields of a checkpoint's config.json.

    Raises: UserError if it is missing, damaged, or names code of its own that would have to be run.
    """
    file = folder / "config.json"
    found = storage.read_json(file)
    if not isinstance(found, dict):
        raise UserError(f"{file}: a JSON object is expected, found {type(found).__name__}")
    return found


def _refuse_quantised(fields: Mapping[str, Any], folder: Path) -> None:
    for name in ("quantization_config", "compression_config"):
        if (value := fields.get(name)) is not None:
            method = value.get("quant_method", "unknown") if isinstance(value, dict) else "unknown"
            raise UserError(
                f"{folder / 'config.json'}: the weights are quantised ('{name}', method '{method}'), which is not "
                "read; use the checkpoint that it was made from"
            )


def _files(folder: Path) -> list[Path]:
    """The safetensors files that hold the weights.

    Raises: UserError where there is none, or the index names what is not a file beside it.
    """
    index = folder / INDEX
    if index.is_file():
        return [_shard(index, name) for name in _shard_names(index)]
    if (single := folder / SINGLE).is_file():
        return [single]
    for pattern in PICKLES:
        if pickled := sorted(folder.glob(pattern)):
            raise UserError(
                f"{pickled[0]}: weights that are no safetensors are not opened (a pickle can run code); convert them: "
                "load the model with transformers and call save_pretrained(DIR, safe_serialization=True), or use a "
                "revision that has model.safetensors"
            )
    raise UserError(f"{folder}: holds neither {SINGLE} nor {INDEX}")


def _shard_names(index: Path) -> list[str]:
    tree = storage.read_json(index)
    weights = tree.get("weight_map") if isinstance(tree, dict) else None
    if not isinstance(weights, dict) or not weights or not all(isinstance(v, str) for v in weights.values()):
        raise UserError(f"{index}: 'weight_map' must map keys to the names of files")
    return sorted(set(weights.values()))


def _shard(index: Path, name: str) -> Path:
    """A file that an index names: beside it, and nowhere else."""
    if not name or name != Path(name).name or name in (".", "..") or "\\" in name or "\0" in name:
        raise UserError(f"{index}: shard '{name[:80]}' is no plain file name; shards lie beside their index")
    if not name.endswith(".safetensors"):
        raise UserError(f"{index}: shard '{name}' is no safetensors file; convert the checkpoint to safetensors")
    file = index.with_name(name)
    if not file.is_file():
        raise UserError(f"{index}: shard '{name}' is missing; fetch the whole checkpoint again")
    return file


def _entries(file: Path) -> Iterator[Entry]:
    with _told(file):
        opened = _safe_open(file)
        for name in opened.keys():  # noqa: SIM118  # no mapping
            part = opened.get_slice(name)
            kind = part.get_dtype()
            if kind not in DTYPES:
                raise UserError(f"{file}: tensor '{name}' is stored as {kind}, which is not read; convert it")
            yield Entry(file, name, tuple(part.get_shape()), DTYPES[kind])


def _safe_open(file: Path) -> Any:  # noqa: ANN401  # the library's own handle
    from safetensors import safe_open

    return safe_open(file, framework="pt")


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Say in one sentence what is wrong with a file; the library checks its header against its length."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: damaged or truncated ({error}); fetch it again") from None
