"""Writing so that nothing saved is ever lost: a temporary name, a sync, a rename; no pickle anywhere."""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from jogak.errors import StorageError, UserError


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn what the operating system says while writing `path` into one sentence."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
        raise StorageError(f"{path}: could not be written: {why}; what was saved before is unharmed") from error


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    if os.name == "nt":  # Windows keeps renames by itself and cannot open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: other readers see the old content or the new, never a part.

    Raises: StorageError if the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: object) -> None:
    """`write_text` of readable JSON."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors in safetensors format; tensors that share memory must not be given twice.

    Raises: StorageError if the disk refuses.
    """
    from safetensors.torch import save

    plain = {name: t.detach().contiguous().cpu() for name, t in tensors.items()}
    write_bytes(path, save(plain, dict(metadata or {})))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises: UserError if it is missing, truncated or damaged.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors.

    Raises: UserError if it is missing, truncated or damaged.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged or truncated ({error}); restore it or use another checkpoint") from None


def read_json(path: Path) -> Any:  # noqa: ANN401
    """The JSON in a file.

    Raises: UserError if it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); restore it or use another checkpoint") from None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that takes the name `path` only when the block ends well; a crash leaves nothing under it.

    Raises: StorageError if the disk refuses.
    """
    temporary, aside = (path.with_name(f".{path.name}.{kind}-{os.getpid()}") for kind in ("tmp", "tmp-old"))
    with storing(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    try:
        yield temporary
        with storing(path):
            sync_folder(temporary)
            if path.exists():
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)  # not removed first: a crash here must not cost what was saved before
            temporary.rename(path)
            sync_folder(path.parent)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
