"""A Hugging Face checkpoint on disk or on the hub: config.json and safetensors, checked before anything is read.

Pickles are never opened, code that lies beside a checkpoint is never run.
"""

import json
import mmap
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
TEMPLATES = "additional_chat_templates"
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
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: where it is and what it is, known without reading it. begin: its first byte in the file."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    begin: int

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
    """Tensors of a checkpoint as its files hold them: views of the files' pages, nothing is copied.

    Whoever writes into such a tensor writes into a copy of the page; the file never changes. A file that is replaced
    by another of its name (as all of jogak's own writing does it) stays what it was for tensors that were read of it;
    one that is overwritten in place does not.
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries
        self._mapped: dict[Path, mmap.mmap] = {}

    def get(self, name: str) -> Tensor:
        """The tensor of a key.

        Raises: UserError if the file cannot be read any more.
        """
        entry = self._entries[name]
        if not entry.nbytes:
            return torch.empty(entry.shape, dtype=entry.dtype)
        mapped = self._map(entry.file)
        if len(mapped) < entry.begin + entry.nbytes:
            raise UserError(f"{entry.file}: is shorter than it was when it was opened; fetch it again")
        raw = torch.frombuffer(mapped, dtype=torch.uint8, count=entry.nbytes, offset=entry.begin)
        if entry.begin % entry.dtype.itemsize:  # of a header that was not filled up to eight bytes
            raw = raw.clone()
        return raw.view(entry.dtype).view(entry.shape)

    def forget(self, name: str) -> None:
        """Give back the memory in which a tensor was read, where no view of it was kept; it can be read again."""
        entry = self._entries[name]
        first, last = -(-entry.begin // mmap.PAGESIZE), (entry.begin + entry.nbytes) // mmap.PAGESIZE
        if last > first and entry.file in self._mapped and hasattr(mmap, "MADV_DONTNEED"):
            size = (last - first) * mmap.PAGESIZE
            self._mapped[entry.file].madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, size)

    def _map(self, path: Path) -> mmap.mmap:
        if path not in self._mapped:
            with _told(path), path.open("rb") as file:
                self._mapped[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            if hasattr(mmap, "MADV_WILLNEED"):  # the system starts to read what is not in its cache
                self._mapped[path].madvise(mmap.MADV_WILLNEED)
        return self._mapped[path]


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

    wanted = ["config.json", SINGLE, INDEX, "*.safetensors", *TOKENIZER_FILES, *OTHER_FILES, f"{TEMPLATES}/*.jinja"]
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
        opened = _safe_open(file)  # checks the header, and that its tensors lie one behind another to the end
        places = _places(file)
        for name in opened.keys():  # noqa: SIM118  # no mapping
            part = opened.get_slice(name)
            kind = part.get_dtype()
            if kind not in DTYPES:
                raise UserError(f"{file}: tensor '{name}' is stored as {kind}, which is not read; convert it")
            yield Entry(file, name, tuple(part.get_shape()), DTYPES[kind], places[name])


def _places(file: Path) -> dict[str, int]:
    """The first byte of each tensor: the header says it, behind eight bytes that say how long the header is."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    return {n: 8 + length + entry["data_offsets"][0] for n, entry in header.items() if n != "__metadata__"}


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
