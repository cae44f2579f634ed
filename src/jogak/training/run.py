"""The folder of a run: what its files are called, who may start or go on with it, and reading it with clear errors."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from jogak import __version__, config, storage
from jogak.errors import UserError
from jogak.layers.quantised import is_quantised, kind_of
from jogak.ops.quantised import Kind
from jogak.training import checkpoint

# Keys of the recipe that may change when a run is resumed: none of them alters what a step computes from its batch.
_MAY_CHANGE = frozenset(
    {
        "run",
        "train.steps",
        "train.minutes",
        "train.patience",
        "train.final",
        "train.log_every",
        "train.validate_every",
        "train.save_every",
        "train.keep",
        "train.tensorboard",
        "train.device",
        "train.compile",
        "train.gradient_checkpointing",
    }
)


@dataclass(frozen=True)
class Run:
    """The names inside a run's folder."""

    folder: Path

    @property
    def config_file(self) -> Path:
        """The recipe, resolved."""
        return self.folder / "config.yaml"

    @property
    def about(self) -> Path:
        """Format, version, precision and machine."""
        return self.folder / "run.json"

    @property
    def model(self) -> Path:
        """The final weights, there when training is done."""
        return self.folder / "model.safetensors"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def events(self) -> Path:
        """TensorBoard's."""
        return self.folder / "tensorboard"

    @property
    def finished(self) -> Path:
        """The last measurements, there when training is done."""
        return self.folder / "finished.json"

    def exists(self) -> bool:
        """Whether training has written here."""
        return any(p.exists() for p in (self.config_file, self.about, self.model, self.checkpoints))

    def recipe(self) -> config.Recipe:
        """The recipe that the run follows.

        Raises: UserError if there is no run here, or one of a newer version, or config.yaml is damaged.
        """
        if not self.folder.exists():
            raise UserError(f"{self.folder}: there is no such run")
        if self.about.exists():
            checkpoint.check_format(_mapping(self.about), self.folder)
        if not self.config_file.exists():
            raise UserError(f"{self.folder}: not a run: it has no config.yaml; give a folder that jogak train wrote")
        return config.read_recipe(self.config_file)

    @property
    def kind(self) -> Kind | None:
        """What the matrices of the final weights are kept in, if in fewer bits than they were learned with."""
        return kind_of(storage.read_metadata(self.model), self.model) if self.model.exists() else None

    def weights(self) -> dict[str, Tensor]:
        """The final weights, or while training is under way those of its newest checkpoint (averaged, where it is).

        Raises: UserError if there are none, they are damaged, or a newer version wrote them.
        """
        if self.model.exists():
            tensors, metadata = storage.read_tensors(self.model)
            check_metadata(metadata, self.model)
            return tensors
        if not (steps := checkpoint.steps(self.checkpoints)):
            raise UserError(f"{self.folder}: holds no weights yet; train it first (jogak train ... --resume)")
        return checkpoint.read_weights(self.checkpoints, steps[-1], averaged=True)


def check_metadata(metadata: Mapping[str, str], where: Path) -> None:
    """Refuse weights that a newer jogak wrote.

    Raises: UserError saying which version is needed.
    """
    form = metadata.get("format", "1")
    made = int(form) if form.isdecimal() else 1
    checkpoint.check_format({"format": made, "jogak": metadata.get("jogak", "a newer version")}, where)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name, each once, however many names it has (tied embeddings)."""
    found: dict[str, Tensor] = dict(model.named_parameters())
    known = {id(t) for t in found.values()}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in known:
            known.add(id(tensor))
            found[name] = tensor
    return {name: t.detach() for name, t in found.items()}


def load_into(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy weights that `tensors_of` gave into a model of the same shape; `where` is what errors name.

    Raises: UserError naming the first tensor that does not fit.
    """
    own = tensors_of(model)
    if strange := sorted(own.keys() ^ weights.keys()):
        side = "the model lacks" if strange[0] in weights else "is missing, and the model has"
        raise UserError(f"{where}: does not fit the model of config.yaml: {side} '{strange[0]}'")
    with torch.no_grad():
        for name, tensor in own.items():
            if weights[name].shape != tensor.shape:
                shapes = f"{list(weights[name].shape)}, and the model {list(tensor.shape)}"
                raise UserError(f"{where}: does not fit the model of config.yaml: '{name}' has shape {shapes}")
            tensor.copy_(weights[name])


def write_packed(run: Run, model: nn.Module, output: Path) -> None:
    """Write a run whose matrices were packed into a new folder: what says how it works, without how it was trained.

    Raises: UserError if there is something already, StorageError if the disk refuses.
    """
    if output.exists():
        raise UserError(f"{output}: is there already; remove it, or write to another folder (--output)")
    left = {run.model.name, run.metrics.name, run.report.name, ".lock"}
    with storage.new_folder(output) as inside:
        for file in sorted(run.folder.iterdir()):
            if file.is_file() and file.name not in left and file.suffix not in (".html", ".png"):
                with storage.storing(inside / file.name):
                    shutil.copyfile(file, inside / file.name)
        metadata = {**storage.read_metadata(run.model), "dtype": str(is_quantised(model))}
        storage.write_tensors(Run(inside).model, tensors_of(model), metadata)


def write_model(run: Run, weights: Mapping[str, Tensor], step: int) -> None:
    """Write model.safetensors.

    Raises: StorageError if the disk refuses.
    """
    metadata = {"format": str(checkpoint.FORMAT), "jogak": __version__, "step": str(step)}
    storage.write_tensors(run.model, weights, metadata)


# ---------------------------------------------------------------- starting and going on


def check_start(folder: Path, recipe: config.Recipe, *, resume: bool, overwrite: bool) -> int | None:
    """The step from which training will go on, or None where it begins; changes nothing.

    Raises: UserError if there is a run and neither `resume` nor `overwrite`, or the recipe cannot be gone on with.
    """
    run = Run(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; give the run another folder (run=...)")
    if resume and overwrite:
        raise UserError("resume and overwrite cannot both be given: one keeps what is there, the other removes it")
    if overwrite or not run.exists():
        return None
    steps = checkpoint.steps(run.checkpoints)
    if not resume:
        inside = f"checkpoints up to step {steps[-1]}" if steps else "no checkpoint yet"
        raise UserError(
            f"{folder}: already holds a run ({inside}); resume it (--resume), replace it (--overwrite), "
            "or write to another folder (run=...)"
        )
    if run.config_file.exists():
        check_same(run.recipe(), recipe, folder, steps[-1] if steps else 0)
    return steps[-1] if steps else None


def check_same(before: config.Recipe, now: config.Recipe, folder: Path, done: int) -> None:
    """Refuse to go on under a recipe that differs where it matters.

    Raises: UserError naming every key that differs.
    """
    old, new = (dict(_flat(r.model_dump(mode="json"))) for r in (before, now))
    changed = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    free = {k for k in changed if k in _MAY_CHANGE or k.startswith("decode.")}
    if before.train.average == "last":  # the average is made of scheduled checkpoints
        free.discard("train.save_every")
    if bad := [k for k in changed if k not in free]:
        told = ", ".join(f"{k} was {old.get(k)!r} and is now {new.get(k)!r}" for k in bad)
        raise UserError(f"{folder}: cannot be resumed under another recipe: {told}; put it back, or start another run")
    if now.train.steps < done:
        raise UserError(f"{folder}: {done} steps are done, more than train.steps={now.train.steps}; give more steps")


def begin(run: Run, recipe: config.Recipe, *, overwrite: bool, about: Mapping[str, Any]) -> dict[str, Any]:
    """Make the folder ready, and return what run.json says: `about`, or on resume what was written at the start.

    Raises: StorageError if the disk refuses.
    """
    if overwrite:
        _clear(run)
    for folder in (run.folder, run.checkpoints):
        checkpoint.sweep(folder)
    kept = _mapping(run.about) if run.about.exists() else None
    if kept is None:
        storage.write_json(run.about, {"format": checkpoint.FORMAT, "jogak": __version__, **about})
    storage.write_text(run.config_file, config.to_yaml(recipe))
    with storage.storing(run.checkpoints):
        run.checkpoints.mkdir(exist_ok=True)
    return kept if kept is not None else dict(about)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """The folder as this process's own: a second training in it is refused. A kill releases it.

    Raises: UserError if another process trains there.
    """
    with storage.storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    with file:
        _lock(file, folder)
        yield


def _lock(file: IO[str], folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on this system; the names of temporary files still keep writers apart
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise UserError(f"{folder}: another process is training here; wait for it, or write elsewhere") from None
    except OSError:  # a file system without locks
        return


def _clear(run: Run) -> None:
    """Remove what a run consists of, and nothing else that may lie in its folder."""
    for folder in (run.checkpoints, run.events):
        if folder.exists():
            checkpoint.discard(folder)
    with storage.storing(run.folder):
        for file in (run.finished, run.model, run.metrics, run.report, run.about, run.config_file):
            file.unlink(missing_ok=True)


def _mapping(path: Path) -> dict[str, Any]:
    found = storage.read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: damaged: a JSON object is expected; restore it")
    return found


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# ---------------------------------------------------------------- measurements


class Records:
    """metrics.jsonl: one JSON object a line, appended; what was written after a checkpoint is cut off on resume."""

    def __init__(self, path: Path, size: int) -> None:
        """size: bytes to keep of what is there."""
        self.path = path
        with storage.storing(path):
            self._file = path.open("ab")
            self._file.truncate(min(size, self._file.seek(0, 2)))

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line.

        Raises: StorageError if the disk refuses.
        """
        with storage.storing(self.path):
            self._file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
            self._file.flush()

    def sync(self) -> int:
        """Make everything so far durable; returns the size in bytes."""
        import os

        with storage.storing(self.path):
            os.fsync(self._file.fileno())
            return self._file.seek(0, 2)

    def read(self) -> list[dict[str, Any]]:
        """Every line so far."""
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def close(self) -> None:
        self._file.close()
