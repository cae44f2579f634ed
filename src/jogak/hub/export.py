"""Models going out: as the checkpoint that they came from, or, for runs of jogak, as a family that can hold them."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jogak import config, families, mixers
from jogak.errors import UserError
from jogak.families._fields import Fields
from jogak.hub import keymap
from jogak.hub.pretrained import Pretrained
from jogak.hub.write import SHARD_BYTES, write

# Says nothing of what a model computes once it is trained.
_FREE = ("dropout", "init", "head.dropout")


def export(model: Pretrained, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a checkpoint that `transformers` loads.

    Raises: UserError if there is something already, StorageError if the disk refuses.
    """
    if folder.exists():
        raise UserError(f"{folder}: is there already; remove it, or write to another folder (--output)")
    write(folder, _said(model.fields, model.dtype), tensors_of(model), model.folder, shard_bytes=shard_bytes)


def tensors_of(model: Pretrained) -> dict[str, Tensor]:
    """The tensors as the checkpoint has them."""
    table = model.family.table(model.config)
    return keymap.their_tensors(model.module, table, prefixed=not keymap.bare(model.config))


def _said(fields: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """config.json with the dtype that is written."""
    said = {name: value for name, value in fields.items() if name != "torch_dtype"}
    return {**said, "dtype": str(dtype).removeprefix("torch.")}


def of_run(folder: Path, module: Any, given: config.Model, ids: Mapping[str, int]) -> Pretrained:  # noqa: ANN401  # a Model
    """A trained model as a member of the family that can hold it.

    ids: config.json's special ids, such as eos_token_id.

    Raises: UserError naming where the nearest family differs.
    """
    nearest: tuple[int, str] | None = None
    for name in families.names():
        family = families.find(name)
        if not hasattr(family, "write_config"):
            continue
        fields = {**family.write_config(given), **ids}
        differs = difference(family.read_config(Fields(fields, name)), given)
        if not differs:
            return Pretrained(folder, module, given, family, fields)
        told = f"{name} has {'; '.join(differs[:3])}"
        if nearest is None or len(differs) < nearest[0]:
            nearest = (len(differs), told)
    told = "no family writes models" if nearest is None else f"the nearest, {nearest[1]}"
    raise UserError(f"{folder}: no family of Hugging Face can hold this model; {told}")


def difference(a: config.Model, b: config.Model) -> list[str]:
    """Where two models compute different things: `key: value of a instead of value of b`."""
    left, right = normal(a), normal(b)
    return [
        f"{key} {left.get(key)!r} instead of {right.get(key)!r}"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key) and key not in _FREE
    ]


def normal(given: config.Model) -> dict[str, Any]:
    """What a configuration comes to, with every default filled in, as flat keys."""
    found: dict[str, Any] = {}
    tree = given.model_dump(exclude={"encoder", "decoder", "max_length"})
    if given.position == "learned":
        tree["max_length"] = given.max_length
    if given.topology == "encoder" and given.tie == "all":
        tree["tie"] = "output"
    if given.topology == "decoder" and given.tie == "all":
        tree["tie"] = "output"
    _flatten(tree, "", found)
    for side in given.topology.split("-"):
        stack = given.stack("encoder" if side == "encoder" else "decoder")
        final = stack.final_norm if stack.final_norm is not None else stack.placement not in ("post", "plain")
        ff = stack.feedforward
        plain = stack.model_dump(exclude={"pattern", "cross", "feedforward", "causal"})
        plain |= {"final_norm": final, "feedforward": None if ff is None else ff.model_dump()}
        if ff is not None:
            plain["feedforward"]["width"] = ff.width or 4 * given.width
        _flatten(plain, f"{side}.", found)
        for index in range(stack.depth):
            _flatten(_mixer(stack.pattern[index % len(stack.pattern)], given.width), f"{side}.{index}.", found)
        if stack.cross is not None:
            _flatten(_mixer(stack.cross, given.width, cross=True), f"{side}.cross.", found)
    return found


def _mixer(given: config.Mixer, width: int, *, cross: bool = False) -> dict[str, Any]:
    signature = inspect.signature(mixers.kind(given.name, cross=cross)).parameters.values()
    options = {p.name: p.default for p in signature if p.default is not p.empty} | given.options
    for name in ("backend", "causal"):
        options.pop(name, None)
    if "heads" in options and "kv_heads" in options:
        options["kv_heads"] = options["kv_heads"] or options["heads"]
        options["head_dim"] = options["head_dim"] or width // options["heads"]
    if "out_bias" in options and options["out_bias"] is None:
        options["out_bias"] = options["bias"]
    return {"name": given.name, **options}


def _flatten(tree: Mapping[str, Any], prefix: str, found: dict[str, Any]) -> None:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            _flatten(value, f"{prefix}{key}.", found)
        else:
            found[prefix + key] = value
