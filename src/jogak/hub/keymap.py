"""A family's key table put to work: which tensors of a checkpoint make which of a model, and every complaint.

"Ours" are the model's tensors by name, tied ones once; "theirs" the checkpoint's.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jogak import config
from jogak.errors import UserError, nearest
from jogak.families._keys import Step, Table
from jogak.hub.checkpoint import Checkpoint
from jogak.models import Classifier, Model

# Windows lets nobody replace or remove a file while any part of it is mapped.
STAYS = os.name != "nt"


def our_tensors(model: Model) -> dict[str, Tensor]:
    """Parameters and saved buffers by name, each once; a classifier's coder by the name of its side."""
    found: dict[str, Tensor] = dict(model.named_parameters())
    known = {id(t) for t in found.values()}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in known:
            known.add(id(tensor))
            found[name] = tensor
    if isinstance(model, Classifier):
        side = model.config.topology
        found = {n.replace("coder.", f"{side}.", 1) if n.startswith("coder.") else n: t for n, t in found.items()}
    return found


@dataclass(frozen=True)
class Match:
    """How a checkpoint fits a model.

    steps: what every tensor of ours is made of. names: for each key of theirs in a step, its key in the file.
    dropped: keys of the file that are left out knowingly; repeated: that hold a tensor that is tied to another.
    """

    steps: list[Step]
    names: dict[str, str]
    dropped: list[str]
    repeated: list[tuple[str, str]]


def match(checkpoint: Checkpoint, table: Table, model: Model) -> Match:
    """Fit a checkpoint's keys to a model on the meta device; no number is read.

    Raises: UserError naming the first key that is missing, not known, or of a wrong shape.
    """
    ours = our_tensors(model)
    steps = table.steps(ours)
    wanted = table.shapes(steps, ours)
    there = _by_present_name(checkpoint, table, wanted)
    names, repeated = dict[str, str](), list[tuple[str, str]]()
    ties = list(table.ties())
    for key in wanted:
        aliases = [alias for alias, of in ties if of == key and alias not in wanted]
        held = [name for name in (key, *aliases) if name in there]
        if not held:
            raise UserError(f"{checkpoint.folder}: key '{key}' is missing{_near(key, there, wanted)}")
        names[key] = there[held[0]]
        repeated += [(there[name], there[held[0]]) for name in held[1:]]
    used = {*names.values(), *(name for name, _ in repeated)}
    dropped = [file_key for key, file_key in there.items() if file_key not in used and table.is_dropped(key)]
    for key, file_key in there.items():
        if file_key not in used and not table.is_dropped(key):
            why = nearest(key, [k for k in wanted if k not in there]) if len(there) < 10_000 else ""
            raise UserError(f"{checkpoint.folder}: key '{file_key}' is not known in this model{why}")
    for key, shape in wanted.items():
        held = checkpoint.entries[names[key]].shape
        if held != tuple(shape):
            raise UserError(
                f"{checkpoint.folder}: key '{names[key]}' has shape {list(held)}, "
                f"and config.json asks for {list(shape)}"
            )
    for step in steps:
        floats = ours[step.ours[0]].is_floating_point()
        for key in step.theirs:
            stored = checkpoint.entries[names[key]].dtype
            if stored.is_floating_point != floats:
                raise UserError(
                    f"{checkpoint.folder}: key '{names[key]}' is stored as {str(stored).removeprefix('torch.')}, which "
                    "is no plain weight; quantised checkpoints are not read, use the one that it was made from"
                )
    return Match(steps, names, dropped, repeated)


def _near(key: str, there: Mapping[str, str], wanted: Mapping[str, torch.Size]) -> str:
    strange = [name for name in there if name not in wanted]
    found = nearest(key, strange) if 0 < len(strange) < 1000 else ""
    return found if found.startswith("; did") else ""


def _by_present_name(checkpoint: Checkpoint, table: Table, wanted: Mapping[str, torch.Size]) -> dict[str, str]:
    """The file's keys by what they are called in the table: with the base model's prefix, and by present names."""
    there = {table.modern(name): name for name in checkpoint.entries}
    prefix = table.prefix
    if not prefix or any(name.startswith(prefix) for name in there):
        return there
    plain = {*wanted, *(name for pair in table.ties() for name in pair)}
    return {(n if n in plain or table.is_dropped(n) else prefix + n): f for n, f in there.items()}


def fill(model: Model, checkpoint: Checkpoint, found: Match, dtype: torch.dtype, device: torch.device) -> None:
    """Give a model on the meta device the checkpoint's numbers, one tensor at a time.

    A tensor that is wanted as the file has it stays in the file's pages; others are copied, and their pages forgotten.

    Raises: UserError where two names of a tied tensor hold different numbers.
    """
    ours = our_tensors(model)
    places = _places(model)
    reader = checkpoint.reader()
    for step in found.steps:
        olds = [ours[o] for o in step.ours]
        sizes = [old.shape[step.rule.dim] if old.dim() else 1 for old in olds]
        given = [reader.get(found.names[t]) for t in step.theirs]
        in_file = set(map(_begin, given))
        kept = False
        for part, old in zip(step.rule.into(given, sizes), olds, strict=True):
            wanted, of_file = dtype if old.is_floating_point() else old.dtype, _begin(part) in in_file
            stays = _as_wanted(part, old.shape, wanted, device) and (STAYS or not of_file)
            _put(places[id(old)], part if stays else _copied(part, old.shape, wanted, device), old)
            kept |= stays and of_file
        for key in () if kept else step.theirs:
            reader.forget(found.names[key])
    for alias, of in found.repeated:
        if not torch.equal(reader.get(alias), reader.get(of)):
            raise UserError(
                f"{checkpoint.folder}: keys '{alias}' and '{of}' are one tensor by config.json, "
                "and hold different numbers"
            )
        reader.forget(alias)
    if left := [name for name, t in our_tensors(model).items() if t.is_meta]:
        raise UserError(f"{checkpoint.folder}: nothing gave numbers to '{left[0]}'")


def _begin(tensor: Tensor) -> int:
    """Where the memory begins that a tensor, or what it is a view of, lies in."""
    return tensor.untyped_storage().data_ptr()


def _as_wanted(part: Tensor, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a tensor can stay as it is: whole, of the type and place that are wanted.

    A matrix may lie turned in float32, where products with it are as fast; in bfloat16, of one row, they are not.
    """
    turned = part.dtype == torch.float32 and part.dim() == 2 and part.t().is_contiguous()
    whole = (part.is_contiguous() or turned) and part.untyped_storage().nbytes() == part.nbytes
    return whole and part.dtype == dtype and part.device == device and part.shape == shape


def _copied(part: Tensor, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same numbers in memory of their own; what was cut or turned holds no larger storage alive."""
    fresh = torch.empty(shape, dtype=dtype, device=device)
    fresh.copy_(part)
    return fresh


def give(
    model: Model, tensors: Mapping[str, Tensor], where: str, dtype: torch.dtype | None, device: torch.device
) -> None:
    """Give a model on the meta device tensors by our names; dtype None: as they are. `where` is what errors name.

    Raises: UserError naming the first tensor that does not fit.
    """
    ours, places = our_tensors(model), _places(model)
    if strange := sorted(ours.keys() ^ tensors.keys()):
        side = "the model lacks" if strange[0] in tensors else "is missing, and the model has"
        raise UserError(f"{where}: does not fit its configuration: {side} '{strange[0]}'")
    for name, old in ours.items():
        if tensors[name].shape != old.shape:
            shapes = f"{list(tensors[name].shape)}, and the model {list(old.shape)}"
            raise UserError(f"{where}: does not fit its configuration: '{name}' has shape {shapes}")
        wanted = dtype if dtype is not None and old.is_floating_point() else tensors[name].dtype
        _put(places[id(old)], tensors[name].to(device, wanted), old)


def _places(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Every module and attribute that holds a tensor, by the tensor: several where it is tied."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                found.setdefault(id(tensor), []).append((module, name))
    return found


def _put(places: list[tuple[nn.Module, str]], fresh: Tensor, old: Tensor) -> None:
    learned = nn.Parameter(fresh, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else None
    for module, name in places:
        if learned is None:
            module._buffers[name] = fresh
        else:
            module._parameters[name] = learned


def their_tensors(model: Model, table: Table, *, prefixed: bool) -> dict[str, Tensor]:
    """The tensors of a model as a checkpoint of the family has them.

    prefixed: whether keys of the base model have the prefix that they have beside a head.
    """
    ours = our_tensors(model)
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for step in table.steps(ours):
            found.update(zip(step.theirs, step.rule.back([ours[o] for o in step.ours]), strict=True))
    if not prefixed:
        found = {name.removeprefix(table.prefix): tensor for name, tensor in found.items()}
    return found


def bare(given: config.Model) -> bool:
    """Whether a checkpoint of the model is one of the base model alone, whose keys have no prefix."""
    return given.head.kind == "none"
