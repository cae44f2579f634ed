"""Runs of jogak going out: which family of Hugging Face can hold what was trained, and what else its folder needs."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from jogak import config, families, mixers
from jogak.errors import UserError
from jogak.families._fields import Fields
from jogak.hub.export import export
from jogak.hub.pretrained import Pretrained
from jogak.hub.spellings import spellings
from jogak.models import Model
from jogak.tasks.contract import Trained

# Says nothing of what a model computes once it is trained.
_FREE = ("dropout", "init", "head.dropout")
LEAST_LIKE = 20  # differences that a family counts as having whose config.json cannot be written


def export_run(trained: Trained, run: Path, folder: Path) -> None:
    """Write a trained model as a checkpoint that `transformers` loads, and that answers there as it does here.

    Its tokenizer puts the marks around a text that the task puts there; what the task never writes is suppressed.
    Placeholders alone, which jogak keeps whole (see codecs._placeholders), are spelled there like other text.

    Raises: UserError where no family can hold the model, or there is something in the folder already.
    """
    module, codec = trained.module, trained.codec
    given = module.config.model_copy(update={"vocab_size": codec.vocab_size})
    ids = {f"{role}_token_id": getattr(codec, f"{role}_id") for role in ("pad", "bos", "eos")}
    if given.topology == "encoder-decoder":
        ids["decoder_start_token_id"] = codec.bos_id
    fields: dict[str, Any] = dict(ids)
    if (labels := getattr(trained, "labels", None)) is not None:
        fields["id2label"] = {str(number): label for number, label in enumerate(labels)}
        fields["label2id"] = {label: number for number, label in enumerate(labels)}
    files = {"tokenizer.json": _framed(run, codec, reads=given.topology == "encoder-decoder")}
    if given.head.kind == "units" and given.topology != "encoder":
        files["generation_config.json"] = json.dumps({**ids, "suppress_tokens": codec.forbidden({})}, indent=2) + "\n"
    export(of_run(run, module, given, fields), folder, files=files)


def _framed(run: Path, codec: Any, *, reads: bool) -> str:  # noqa: ANN401  # what the task trained
    """The run's tokenizer with the marks of its task: an end behind what an encoder reads, else a beginning."""
    tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
    number = codec.eos_id if reads else codec.bos_id
    mark = tokenizer.id_to_token(number)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", mark] if reads else [mark, "$A"],
        pair=["$A", "$B", mark] if reads else [mark, "$A", "$B"],
        special_tokens=[(mark, number)],
    )
    return tokenizer.to_str(pretty=True) + "\n"


def of_run(folder: Path, module: Model, given: config.Model, ids: Mapping[str, object]) -> Pretrained:
    """A trained model as a member of the family that can hold it, spelled as the family spells it.

    ids: further fields of config.json: special ids, such as eos_token_id, and a classifier's labels.

    Raises: UserError naming where the nearest family differs.
    """
    nearest: tuple[int, str] | None = None
    for spelling in spellings(given):
        for name in families.names():
            family = families.find(name)
            if not hasattr(family, "write_config"):
                continue
            fields = {**family.write_config(spelling.given), **ids}
            try:
                again = family.read_config(Fields(fields, name))
                differs = difference(again, spelling.given)
            except UserError as error:  # has what config.json cannot say
                again, differs = given, [str(error).removeprefix(f"{name}: ")] * LEAST_LIKE
            if not differs:
                return Pretrained(folder, spelling.module(module, given), again, family, fields)
            if nearest is None or len(differs) < nearest[0]:
                nearest = (len(differs), f"{name}, has {'; '.join(dict.fromkeys(differs[:4]))}")
    assert nearest is not None
    raise UserError(f"{folder}: no family of Hugging Face can hold this model; the nearest, {nearest[1]}")


def difference(a: config.Model, b: config.Model) -> list[str]:
    """Where two models compute different things: `key: value of a instead of value of b`."""
    left, right = normal(a), normal(b)
    keys = [k for k in sorted(left.keys() | right.keys()) if left.get(k) != right.get(k) and k not in _FREE]
    others = {key.removesuffix("name") for key in keys if key.endswith(".name")}  # of another mixer, all differs
    told = [key for key in keys if key.endswith(".name") or not key.startswith(tuple(others))]
    return [f"{key} {left.get(key)!r} instead of {right.get(key)!r}" for key in told]


def normal(given: config.Model) -> dict[str, Any]:
    """What a configuration comes to, with every default filled in, as flat keys."""
    found: dict[str, Any] = {}
    tree = given.model_dump(exclude={"encoder", "decoder", "max_length"})
    if given.position == "learned":
        tree["max_length"] = given.max_length
    if given.topology != "encoder-decoder":
        tied = given.tie in ("output", "all") and given.head.kind == "units"
        tree["tie"] = "output" if tied else "none"
    tree["head"] = _head(given.head)
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


def _head(given: config.Head) -> dict[str, Any]:
    """What the head's kind leaves of its options."""
    known = {
        "units": ("transform", "transform_bias", "bias", "scale", "softcap"),
        "classes": ("classes", "class_bias", "pool", "voters", "dense", "dense_size", "transform", "transform_bias"),
        "vector": ("size", "pool", "pool_id", "pool_norm"),
        "values": (
            "size",
            "bounds",
            "class_bias",
            "pool",
            "voters",
            "dense",
            "dense_size",
            "transform",
            "transform_bias",
        ),
        "forecast": ("size", "pool"),
        "patches": (),
        "none": ("dense", "pool"),
    }[given.kind]
    found = {"kind": given.kind, **{name: getattr(given, name) for name in known}}
    if given.pool == "convolutions":
        found |= {"widths": given.widths, "channels": given.channels}
    if given.transform is None:
        found.pop("transform_bias", None)
    if given.kind == "none" and given.dense is None:
        found.pop("pool")
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
    if "dt_rank" in options and options["dt_rank"] is None:
        options["dt_rank"] = -(-width // 16)
    return {"name": given.name, **options}


def _flatten(tree: Mapping[str, Any], prefix: str, found: dict[str, Any]) -> None:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            _flatten(value, f"{prefix}{key}.", found)
        else:
            found[prefix + key] = value
