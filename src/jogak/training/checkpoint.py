"""Checkpoints: `checkpoints/step-N/`, whole or not there, checked by digest when read, old ones removed last.

A checkpoint holds model.safetensors (the weights as trained), optimiser.safetensors, average.safetensors (where
weights are averaged), ranks.json (data position and generators of each process) and state.json (everything else,
and the size and digest of each file).
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from jogak import __version__, storage
from jogak.errors import UserError

FORMAT = 1  # of the run folder and everything in it; a reader refuses a larger one
MODEL, OPTIMISER, AVERAGE, RANKS, STATE = (
    "model.safetensors",
    "optimiser.safetensors",
    "average.safetensors",
    "ranks.json",
    "state.json",
)
_NAME = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds."""

    model: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]
    average: Mapping[str, Tensor] | None
    ranks: list[dict[str, Any]]
    state: Mapping[str, Any]


def path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies in a folder of checkpoints."""
    return folder / f"step-{step}"


def steps(folder: Path) -> list[int]:
    """The steps that `folder` has checkpoints of, in order."""
    if not folder.is_dir():
        return []
    found = (_NAME.fullmatch(p.name) for p in folder.iterdir() if p.is_dir())
    return sorted(int(m[1]) for m in found if m)


def write(folder: Path, step: int, checkpoint: Checkpoint) -> None:
    """Write a checkpoint so that it is there whole or not at all.

    Raises: StorageError if the disk refuses; every earlier checkpoint stays as it is.
    """
    metadata = {"format": str(FORMAT), "jogak": __version__, "step": str(step)}
    with storage.new_folder(path(folder, step)) as new:
        storage.write_tensors(new / MODEL, checkpoint.model, metadata)
        storage.write_tensors(new / OPTIMISER, checkpoint.optimiser, metadata)
        if checkpoint.average is not None:
            storage.write_tensors(new / AVERAGE, checkpoint.average, metadata)
        storage.write_text(new / RANKS, json.dumps(checkpoint.ranks))
        files = {p.name: {"bytes": p.stat().st_size, "blake2b": _digest(p)} for p in sorted(new.iterdir())}
        state = {"format": FORMAT, "jogak": __version__, "files": files, **checkpoint.state}
        storage.write_json(new / STATE, {**state, "digest": _digest_of(state)})


def read(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of a step, every file checked against its digest.

    Raises: UserError naming the file that is damaged and the newest checkpoint that is not.
    """
    here = path(folder, step)
    try:
        state = _checked_state(here)
        for name in state["files"]:
            _check_file(here / name, state["files"][name])
        return Checkpoint(
            model=storage.read_tensors(here / MODEL)[0],
            optimiser=storage.read_tensors(here / OPTIMISER)[0],
            average=storage.read_tensors(here / AVERAGE)[0] if AVERAGE in state["files"] else None,
            ranks=storage.read_json(here / RANKS),
            state=state,
        )
    except _Damaged as error:
        raise UserError(f"{error}; {_way_out(folder, step)}") from None


def read_weights(folder: Path, step: int, *, averaged: bool) -> dict[str, Tensor]:
    """The weights in a checkpoint: as trained, or the averaged ones where it has them.

    Raises: UserError naming the file that is damaged.
    """
    here = path(folder, step)
    try:
        state = _checked_state(here)
        name = AVERAGE if averaged and AVERAGE in state["files"] else MODEL
        _check_file(here / name, state["files"][name])
    except _Damaged as error:
        raise UserError(f"{error}; {_way_out(folder, step)}") from None
    weights = storage.read_tensors(here / MODEL)[0] if name == AVERAGE else {}
    return {**weights, **storage.read_tensors(here / name)[0]}  # buffers are not averaged


def is_good(folder: Path, step: int) -> bool:
    """Whether every file of a checkpoint is as it was written."""
    here = path(folder, step)
    try:
        state = _checked_state(here)
        for name, wanted in state["files"].items():
            _check_file(here / name, wanted)
    except (_Damaged, UserError):
        return False
    return True


def prune(folder: Path, keep: int, protect: Iterable[int]) -> None:
    """Remove all but the last `keep` checkpoints and those of the steps in `protect`."""
    protected = set(protect)
    for step in steps(folder)[:-keep]:
        if step not in protected:
            discard(path(folder, step))


def discard(doomed: Path) -> None:
    """Remove a folder so that a crash on the way leaves no part of it under its own name."""
    with storage.storing(doomed):
        aside = doomed.with_name(f".{doomed.name}.tmp-old")
        shutil.rmtree(aside, ignore_errors=True)
        doomed.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed saves left behind under temporary names."""
    for left in folder.glob(".*.tmp-*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def check_format(state: Mapping[str, Any], where: Path) -> None:
    """Refuse what a newer jogak wrote.

    Raises: UserError saying which version is needed.
    """
    if not isinstance(made := state.get("format", FORMAT), int) or made > FORMAT:
        needed = state.get("jogak", "a newer version")
        raise UserError(
            f"{where}: written by jogak {needed} in format {made}, and this is jogak {__version__}, which reads up "
            f"to format {FORMAT}; install jogak {needed} or newer"
        )


class _Damaged(Exception):
    """A file of a checkpoint is not what was written; says which."""


def _checked_state(here: Path) -> dict[str, Any]:
    try:
        state = storage.read_json(here / STATE)
    except UserError:
        missing = not (here / STATE).exists()
        raise _Damaged(f"{here / STATE}: {'missing' if missing else 'damaged or truncated'}") from None
    if not isinstance(state, dict):
        raise _Damaged(f"{here / STATE}: damaged or truncated")
    check_format(state, here)
    wanted = state.pop("digest", None)
    if wanted != _digest_of(state):
        raise _Damaged(f"{here / STATE}: damaged (its digest does not match)")
    return state


def _check_file(file: Path, wanted: Mapping[str, Any]) -> None:
    if not file.is_file():
        raise _Damaged(f"{file}: missing")
    if (size := file.stat().st_size) != wanted["bytes"]:
        raise _Damaged(f"{file}: damaged or truncated ({size:,} bytes of {wanted['bytes']:,})")
    if _digest(file) != wanted["blake2b"]:
        raise _Damaged(f"{file}: damaged (its digest does not match)")


def _way_out(folder: Path, bad: int) -> str:
    good = next((s for s in reversed(steps(folder)) if s != bad and is_good(folder, s)), None)
    aside = f"rename {path(folder, bad)} to step-{bad}.damaged"
    if good is None:
        return f"no other checkpoint is whole: {aside} and resume to begin again, or restore the file"
    return f"step-{good} is whole: {aside} and resume to go on from there"


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=20)).hexdigest()


def _digest_of(state: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(state, sort_keys=True).encode(), digest_size=20).hexdigest()
