"""Letters that a model of sound writes, one for each position: the vocabulary beside its checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jogak import storage
from jogak.errors import UserError
from jogak.families._fields import Fields


@dataclass(frozen=True)
class Letters:
    """units: what each id stands for. blank: the id that says nothing. delimiter: the unit between words, written as
    `space`. lower: whether the text is in lower case.

    Source: Baevski et al. 2020 (2006.11477) section 4.3, its published vocabularies.
    """

    units: Mapping[int, str]
    blank: int
    unknown: str = "<unk>"
    delimiter: str = "|"
    space: str = " "
    lower: bool = False

    @classmethod
    def read(cls, folder: Path, blank: int | None = None) -> "Letters":
        """Of vocab.json and tokenizer_config.json; blank: the id of config.json, where the settings name none.

        Raises: UserError where they are missing or damaged.
        """
        file = folder / "vocab.json"
        if not file.is_file():
            raise UserError(f"{file}: there is no such file; the letters of a model of sound stand in it")
        given = _settings(folder)
        table = _table(file, given)
        pad = _name(given, "pad_token", "<pad>")
        found = table.get(pad, blank)
        if found is None:
            raise UserError(f"{file}: has no '{pad}', the unit that says nothing")
        return cls(
            {number: unit for unit, number in table.items()},
            found,
            _name(given, "unk_token", "<unk>"),
            _name(given, "word_delimiter_token", "|"),
            given.text("replace_word_delimiter_char", " "),
            given.flag("do_lower_case", False),
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids that repeat none and hold no blank."""
        units = [self.units.get(number, self.unknown) for number in ids]
        text = "".join(self.space if unit == self.delimiter else unit for unit in units).strip()
        return text.lower() if self.lower else text


def _settings(folder: Path) -> Fields:
    file = folder / "tokenizer_config.json"
    found = storage.read_json(file) if file.is_file() else {}
    if not isinstance(found, dict):
        raise UserError(f"{file}: a mapping is expected; restore it")
    return Fields(found, str(file))


def _table(file: Path, given: Fields) -> dict[str, int]:
    table: Any = storage.read_json(file)
    language = given.raw("target_lang")
    if language is not None and isinstance(table, dict):
        table = table.get(language)
    if not isinstance(table, dict) or not all(isinstance(number, int) for number in table.values()):
        raise UserError(f"{file}: a mapping of letters to numbers is expected; restore it")
    return table


def _name(given: Fields, role: str, default: str) -> str:
    value = given.raw(role)
    if isinstance(value, dict):  # as a token with its settings
        value = value.get("content")
    return default if value is None else str(value)
