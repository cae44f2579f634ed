"""The settings that lie beside a checkpoint and say how pictures or sound become numbers."""

import json
from pathlib import Path
from typing import Literal

from jogak.errors import UserError
from jogak.families._fields import Fields

SINGLE, JOINED = "preprocessor_config.json", "processor_config.json"
Part = Literal["image_processor", "feature_extractor"]


def settings(path: str | Path, part: Part) -> Fields:
    """The settings in a folder or a file; newer folders keep them as a part of processor_config.json.

    Raises: UserError where there are none, or they are damaged.
    """
    path = Path(path)
    files = [path] if path.is_file() else [path / SINGLE, path / JOINED]
    for file in files:
        if not file.is_file():
            continue
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise UserError(f"{file}: damaged ({error}); restore it") from None
        if not isinstance(found, dict):
            raise UserError(f"{file}: a mapping is expected; restore it")
        fields = Fields(found, str(file))
        if file.name != JOINED:
            return fields
        if part in fields:
            return fields.section(part)
    raise UserError(f"{path}: there is no {SINGLE}; it lies beside the checkpoint's config.json")


def kind(fields: Fields, part: Part, known: dict[str, str]) -> str:
    """What the settings are for: the value in `known` of the longest name that `<part>_type` begins with.

    Raises: UserError for a type that is not known.
    """
    old = "feature_extractor_type"
    said = fields.text(f"{part}_type", fields.text(old, "") if old in fields else "")
    names = sorted((n for n in known if said.startswith(n)), key=len)
    if not names:
        told = f"'{said}'" if said else "not given"
        raise UserError(f"{fields.where}: '{part}_type' is {told}, and only {', '.join(sorted(known))} are supported")
    return known[names[-1]]
