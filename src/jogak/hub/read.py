"""From a Hugging Face checkpoint to a jogak model: its family reads the configuration, its key table the tensors."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from jogak import config, families, models
from jogak.errors import UserError
from jogak.families._fields import Fields
from jogak.families._keys import Table
from jogak.hub import keymap
from jogak.hub.checkpoint import Checkpoint
from jogak.models import Model

SPARE = 4  # times what is held that may be asked for, and is then told by the first key that does not fit


@dataclass(frozen=True)
class Plan:
    """What would become of a checkpoint, known without reading a number of it."""

    checkpoint: Checkpoint
    family: ModuleType
    given: config.Model
    table: Table
    model: Model  # on the meta device
    found: keymap.Match


def plan(checkpoint: Checkpoint) -> Plan:
    """Fit a checkpoint to a model, reading its configuration and its files' headers only.

    Raises: UserError for an unsupported family or option, or keys that do not fit.
    """
    try:
        family = families.find(checkpoint.model_type, checkpoint.config)
    except UserError as error:
        raise UserError(f"{checkpoint.folder / 'config.json'}: {error}{_own_code(checkpoint.config)}") from None
    given = family.read_config(Fields(checkpoint.config, str(checkpoint.folder / "config.json"), checkpoint.entries))
    _refuse_deep(given, checkpoint)
    model = models.build(given, device="meta")
    _refuse_huge(model, checkpoint)
    table = family.table(given)
    return Plan(checkpoint, family, given, table, model, keymap.match(checkpoint, table, model))


def read(checkpoint: Checkpoint, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Plan:
    """The plan with its model filled in: built without numbers, then one tensor after another.

    dtype: None for what the checkpoint is stored in (float32 for float16 on a CPU, where that is slower).

    Raises: UserError as `plan`, and where the files cannot be read.
    """
    made, place = plan(checkpoint), torch.device(device)
    if dtype is None:
        stored = checkpoint.dtype
        dtype = torch.float32 if stored == torch.float16 and place.type == "cpu" else stored
    keymap.fill(made.model, checkpoint, made.found, dtype, place)
    made.model.eval()
    return made


def _refuse_deep(given: config.Model, checkpoint: Checkpoint) -> None:
    """Refuse more blocks than the checkpoint has tensors, before they are built."""
    parts = given.towers or (given,)
    depth = sum(p.stack(side).depth for p in parts for side in p.topology.split("-") if side in ("encoder", "decoder"))
    if depth > len(checkpoint.entries):
        raise UserError(
            f"{checkpoint.folder / 'config.json'}: asks for {depth} blocks, and the checkpoint has only "
            f"{len(checkpoint.entries)} tensors"
        )


def _refuse_huge(model: Model, checkpoint: Checkpoint) -> None:
    """Refuse far more numbers than the files hold, before a key is looked for: a rule may have one for each expert."""
    asked = sum(tensor.numel() for tensor in keymap.our_tensors(model).values())
    held = sum(torch.Size(entry.shape).numel() for entry in checkpoint.entries.values())
    if asked > SPARE * (held + 2**20):
        raise UserError(f"{checkpoint.folder / 'config.json'}: asks for {asked:,} numbers, and the files hold {held:,}")


def _own_code(fields: dict[str, Any]) -> str:
    return "; it brings code of its own, which is never run" if fields.get("auto_map") else ""
