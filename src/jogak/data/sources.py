"""Examples from files of many kinds, one at a time, however large the file.

A source is a file, a glob, a folder, two parallel text files ("train.ko,train.en"), or an embedded set
("embedded:ko-en"). Every kind gives records of named fields; a row is two of them. See docs/data.md.
"""

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from itertools import zip_longest
from pathlib import Path

from jogak.data._lines import COMPRESSED, LONGEST_LINE, read_lines
from jogak.errors import UserError, nearest

Record = Mapping[str, object]
PARQUET_ROWS = 1024  # read at a time
_CATALOGUES = (".po", ".mo")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:[_-][A-Za-z]{2,4})?(?:@\w+)?")


@dataclass(frozen=True, slots=True)
class Row:
    """One example: what is read, what is to be produced, and where it comes from ("file:line")."""

    source: str
    target: str
    where: str


def read_rows(specs: Sequence[str], source: str, target: str) -> Iterator[Row]:
    """The rows of all `specs` in order, their fields `source` and `target`; streaming.

    Raises: UserError naming file and line for whatever is missing, empty, misspelled or damaged.
    """
    for spec in specs:
        where = None
        for record, where in _records(spec, (source, target)):
            yield Row(_text(record, source, where), _text(record, target, where), where)
        _refuse_nothing(spec, where)


def read_texts(specs: Sequence[str], field: str = "text") -> Iterator[tuple[str, str]]:
    """(text, where) of the field `field` of all `specs`, for what needs no pairs; streaming."""
    for spec in specs:
        where = None
        for record, where in _records(spec, (field,)):
            yield _text(record, field, where), where
        _refuse_nothing(spec, where)


def _refuse_nothing(spec: str, last: str | None) -> None:
    if last is None:
        raise UserError(f"{spec}: holds no rows; fill it or take it out of data.sources")


def _text(record: Record, field: str, where: str) -> str:
    value = _look_up(record, field)
    if value is _ABSENT:
        fields = ", ".join(record) or "none"
        raise UserError(f"{where}: no field '{field}' here{_hint(field, record)} (fields: {fields})")
    if not isinstance(value, str):
        raise UserError(f"{where}: field '{field}' holds {_kind(value)}, not text")
    if not value.strip():
        raise UserError(f"{where}: field '{field}' is empty; fill it or remove the row")
    if not value.isascii() and (found := _SURROGATE.search(value)):
        code = f"\\u{ord(found[0]):04x}"
        raise UserError(f"{where}: field '{field}' holds {code}, half a surrogate pair, which is not text; remove it")
    return value


_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell one; no file could ever hold it again
_ABSENT = object()


def _look_up(record: Record, field: str) -> object:
    """The value of `field`; "translation.ko" also means the field "ko" of the mapping in "translation"."""
    if field in record:
        return record[field]
    head, _, rest = field.partition(".")
    inner = record.get(head)
    return _look_up(inner, rest) if rest and isinstance(inner, Mapping) else _ABSENT


def _hint(field: str, known: Record) -> str:
    hint = nearest(field, known)
    return hint if "did you mean" in hint else ""


def _kind(value: object) -> str:
    names = {type(None): "nothing (null)", dict: "a mapping", list: "a list", bool: "true or false"}
    return names.get(type(value), f"the {type(value).__name__} {value!r}"[:60])


# ---------------------------------------------------------------- from a spec to files


def _records(spec: str, wanted: Sequence[str]) -> Iterator[tuple[Record, str]]:
    path = Path(spec).expanduser()
    if not spec.strip():
        raise UserError("a source is empty text; name a file or a folder in data.sources")
    if spec.startswith("embedded:"):
        yield from _embedded(spec.removeprefix("embedded:"))
    elif os.path.isdir(path):  # noqa: PTH112  # unlike Path.is_dir, it takes a name of any length
        yield from _several(_tree(path), wanted, spec)
    elif os.path.isfile(path):  # noqa: PTH113
        yield from _file(path, wanted)
    elif has_magic(spec) and (found := _matches(str(path))):
        files = [file for match in found for file in (_tree(match) if match.is_dir() else [match])]
        yield from _several(files, wanted, spec)
    elif spec.count(",") == 1:
        first, second = (Path(part.strip()).expanduser() for part in spec.split(","))
        yield from _parallel(first, second, wanted)
    else:
        what = "no file matches" if has_magic(spec) else "there is no such file or folder"
        raise UserError(f"{spec}: {what}; check data.sources")


def _matches(pattern: str) -> list[Path]:
    return [Path(name) for name in sorted(glob(pattern, recursive=True))]  # noqa: PTH207  # absolute ones too


def _several(files: Sequence[Path], wanted: Sequence[str], spec: str) -> Iterator[tuple[Record, str]]:
    """The records of several files; catalogues of other languages than those wanted are passed over."""
    read = 0
    for file in files:
        if file.suffix in _CATALOGUES and not set(wanted) <= set(_catalogue_fields(file)):
            continue
        read += 1
        yield from _file(file, wanted)
    if not read:
        fields = sorted({field for file in files for field in _catalogue_fields(file)} if files else _READERS)
        what = "has no catalogue with the fields" if files else "holds nothing that can be read for"
        raise UserError(f"{spec}: {what} {', '.join(wanted)} (known: {', '.join(fields)})")


def _tree(folder: Path) -> list[Path]:
    """Every file below `folder` that can be read, sorted; of a .po and its .mo only the .po."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        paths = [Path(parent, name) for name in sorted(names)]
        sources = {path.with_suffix("") for path in paths if path.suffix == ".po"}
        compiled = {path for path in paths if path.suffix == ".mo" and path.with_suffix("") in sources}
        found += [path for path in paths if _suffix(path) in _READERS and path not in compiled]
    return found


def _suffix(path: Path) -> str:
    """The extension that says what a file holds, below that of compression."""
    return (Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix).lower()


def _file(path: Path, wanted: Sequence[str]) -> Iterator[tuple[Record, str]]:
    suffix = _suffix(path)
    if suffix not in _READERS:
        known = " ".join(sorted(_READERS))
        raise UserError(f"{path}: unknown kind of file '{suffix}'; known: {known} (.gz and .xz of the text ones)")
    yield from _READERS[suffix](path, wanted)


# ---------------------------------------------------------------- one reader a kind of file


def _jsonl(path: Path, _: Sequence[str]) -> Iterator[tuple[Record, str]]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # a ValueError alone: a number of over 4300 digits
            raise UserError(f"{where}: not valid JSON ({error}); each line is one object") from None
        if not isinstance(record, dict):
            raise UserError(f"{where}: each line must be one JSON object, found {_kind(record)}")
        yield record, where


def _csv(path: Path, wanted: Sequence[str]) -> Iterator[tuple[Record, str]]:
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader((f"{line}\n" for _, line in read_lines(path)), strict=True)
    header, number = None, 1
    try:
        for values in reader:
            where, number = f"{path}:{number}", reader.line_num + 1
            if not values:
                continue
            if header is None:
                header = _header(values, wanted, where)
            else:
                yield _columns(header, values, where), where
    except csv.Error as error:
        raise UserError(f"{path}:{number}: not valid CSV ({error}); check the quotes") from None


def _tsv(path: Path, wanted: Sequence[str]) -> Iterator[tuple[Record, str]]:
    """text/tab-separated-values: one row a line, no quoting, so that a quotation mark is only that."""
    header = None
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        if not line:
            continue
        if header is None:
            header = _header(line.split("\t"), wanted, where)
        else:
            yield _columns(header, line.split("\t"), where), where


def _header(names: list[str], wanted: Sequence[str], where: str) -> list[str]:
    for field in wanted:
        if field not in names:
            hint = _hint(field, dict.fromkeys(names))
            raise UserError(f"{where}: no column '{field}' in the header{hint} (columns: {', '.join(names)})")
        if names.count(field) > 1:
            raise UserError(f"{where}: {names.count(field)} columns are called '{field}'; rename all but one")
    return names


def _columns(header: list[str], values: list[str], where: str) -> Record:
    if len(values) != len(header):
        raise UserError(f"{where}: {len(values)} values for {len(header)} columns; quote what holds a separator")
    return dict(zip(header, values, strict=True))


def _txt(path: Path, _: Sequence[str]) -> Iterator[tuple[Record, str]]:
    for number, line in read_lines(path):
        if line.strip():
            yield {"text": line}, f"{path}:{number}"


def _parquet(path: Path, wanted: Sequence[str]) -> Iterator[tuple[Record, str]]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path}: Parquet needs pyarrow; pip install 'jogak[data]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            tops = [field if field in names else field.partition(".")[0] for field in wanted]
            _header(names, tops, str(path))
            number = 0
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=list(dict.fromkeys(tops))):
                for record in batch.to_pylist():
                    number += 1
                    yield record, f"{path}: row {number}"
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: damaged, or not Parquet ({str(error).splitlines()[0]})") from None


def _catalogue(path: Path, _: Sequence[str]) -> Iterator[tuple[Record, str]]:
    from jogak.data.gettext import read_pairs

    fields = _catalogue_fields(path)
    for msgid, msgstr, where in read_pairs(path):
        if msgid.strip() and msgstr.strip():  # an entry without translation is the rule in catalogues, no mistake
            yield {name: (msgid if side == "msgid" else msgstr) for name, side in fields.items()}, where


def _catalogue_fields(path: Path) -> dict[str, str]:
    """Names for the sides of a catalogue: msgid and `en`; msgstr and the language that its path names."""
    fields = {"msgid": "msgid", "msgstr": "msgstr"}
    if path.suffix not in _CATALOGUES:
        return {}
    # A file in LC_MESSAGES is named after its program; elsewhere (`po/ko.po`, `ko/app.po`) either may be a language.
    in_messages = path.parent.name == "LC_MESSAGES"
    for name in (path.parent.parent.name,) if in_messages else (path.parent.name, path.stem):
        if _LANGUAGE.fullmatch(name):
            fields |= {"en": "msgid", re.split("[_@-]", name)[0]: "msgstr", name: "msgstr"}
    return fields


_READERS = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".txt": _txt,
    ".parquet": _parquet,
    ".po": _catalogue,
    ".mo": _catalogue,
}


# ---------------------------------------------------------------- two files at once; what comes with jogak


def _parallel(first: Path, second: Path, wanted: Sequence[str]) -> Iterator[tuple[Record, str]]:
    """Line n of one file beside line n of the other; fields source and target, and the files' extensions."""
    names = [_suffix(path).removeprefix(".") for path in (first, second)]
    by_extension = names[0] != names[1] and set(wanted) <= set(names)
    left, right = names if by_extension else ("source", "target")
    for one, two in zip_longest(read_lines(first), read_lines(second)):
        if one is None:
            raise UserError(_unequal(second, two[0], first))
        if two is None:
            raise UserError(_unequal(first, one[0], second))
        if one[1].strip() or two[1].strip():
            yield {left: one[1], right: two[1]}, f"{first}:{one[0]}"


def _unequal(longer: Path, number: int, shorter: Path) -> str:
    return f"{longer}:{number}: this line has no partner, {shorter} ends before it; give files of equal length"


def _embedded(name: str) -> Iterator[tuple[Record, str]]:
    from jogak.data.embedded import read_embedded, read_languages

    if name == "languages":
        for number, (text, label) in enumerate(read_languages(), start=1):
            yield {"text": text, "label": label}, f"embedded:{name}:{number}"
        return
    left, _, right = name.partition("-")
    for number, (source, target) in enumerate(read_embedded(name), start=1):
        yield {"source": source, "target": target, left: source, right: target}, f"embedded:{name}:{number}"
