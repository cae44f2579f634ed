"""gettext catalogues: pairs out of `.po` and `.mo` files, and `fill`, which translates what is empty.

Sources: GNU gettext manual, "The Format of PO Files" and "The Format of GNU MO Files".

A message with plural forms gives one pair where the language has one form (the English plural and that
form, for `파일 %d개` is "%d files" and not "one file"), and two where it has more: the English singular with
the form that the header's `Plural-Forms` picks for n = 1, and the English plural with the form for n = 5.
"""

import codecs
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jogak.data._po import (
    SIGNS,
    Catalogue,
    Message,
    Plurals,
    decode,
    find_charset,
    find_plurals,
    line_text,
    parse,
)
from jogak.errors import UserError

Translate = Callable[[list[str]], list[str]]

_MAGIC = 0x950412DE
_QUOTED = str.maketrans({sign: "\\" + name for name, sign in SIGNS.items()})


def read_pairs(path: Path) -> Iterator[tuple[str, str, str]]:
    """(msgid, msgstr, place) of each translated message; place is "file:line" (.po) or "file#index" (.mo).

    Left out: obsolete, fuzzy and untranslated messages and the header. Plural forms: see the module's head.

    Raises: UserError naming file and line.
    """
    content = _read(path)
    if len(content) >= 4 and _MAGIC in struct.unpack("<I", content[:4]) + struct.unpack(">I", content[:4]):
        yield from _read_mo(content, str(path))
        return
    if path.suffix in (".mo", ".gmo"):
        raise UserError(f"{path}: not a .mo file (it does not begin with the magic number); compile it again")
    catalogue = parse(content, str(path))
    for message in catalogue.messages:
        if message.in_use:
            for source, target in _pair(message.msgid, message.plural, message.forms, catalogue.plurals):
                yield source, target, f"{path}:{message.line}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _pair(msgid: str, plural: str | None, forms: Sequence[str], plurals: Plurals | None) -> Iterator[tuple[str, str]]:
    if plural is None:
        yield msgid, forms[0]
    elif len(forms) == 1:
        yield plural, forms[0]
    else:
        one, many = (plurals.form(1), plurals.form(5)) if plurals else (0, len(forms) - 1)
        for source, form in ((msgid, one), (plural, many)):
            if form < len(forms) and forms[form]:
                yield source, forms[form]


# ---------------------------------------------------------------- .mo


def _read_mo(content: bytes, where: str) -> Iterator[tuple[str, str, str]]:
    order = "<" if struct.unpack("<I", content[:4])[0] == _MAGIC else ">"
    if len(content) < 20:
        raise UserError(f"{where}: truncated within its header; compile it again")
    version, count, ids, translations = struct.unpack(f"{order}4I", content[4:20])
    if version >> 16 > 1:
        raise UserError(f"{where}: .mo format {version >> 16} is not known; compile it again with msgfmt")
    if max(ids, translations) + 8 * count > len(content):
        raise UserError(f"{where}: truncated: {count} messages do not fit into it; compile it again")
    rows = [
        tuple(_mo_string(content, order, table + 8 * index, f"{where}#{index}") for table in (ids, translations))
        for index in range(count)
    ]
    header = next((text for key, text in rows if key == b""), b"")
    charset = find_charset(header, where)
    plurals = find_plurals(decode(header, charset, where), where)
    for index, (key, text) in enumerate(rows):
        place = f"{where}#{index}"
        msgid, has_plural, plural = decode(key, charset, place).rpartition("\x04")[2].partition("\0")
        if msgid and text.strip(b"\0"):
            forms = decode(text, charset, place).split("\0")
            for source, target in _pair(msgid, plural if has_plural else None, forms, plurals):
                yield source, target, place


def _mo_string(content: bytes, order: str, at: int, where: str) -> bytes:
    length, offset = struct.unpack_from(f"{order}2I", content, at)
    if offset + length > len(content):
        raise UserError(f"{where}: truncated: this string ends beyond the file; compile it again")
    return content[offset : offset + length]


# ---------------------------------------------------------------- filling


@dataclass(frozen=True)
class _Gap:
    """An empty form of a message, and the text to translate for it."""

    message: Message
    form: int
    text: str


def fill(path_or_bytes: Path | bytes, translate: Translate) -> bytes:
    """The `.po` with each empty msgstr translated and marked `fuzzy`; all else stays byte for byte.

    `translate` is called once with the different texts to translate (with none: not at all) and gives as many
    back. Spaces and line feeds at the ends of a msgid are kept from it and put back. Of a message with plural
    forms, the form for n = 1 is translated from msgid, and the others from msgid_plural (so is the only form
    of a language with one); forms that the header's nplurals asks for and the file lacks are added. Obsolete
    messages, the header, and messages with a translation, fuzzy or not, stay as they are, and so does a
    message whose translation comes back empty.

    Raises: UserError naming file and line of a malformed file, or of a text that the file's charset lacks.
    """
    where = "the catalogue" if isinstance(path_or_bytes, bytes) else str(path_or_bytes)
    catalogue = parse(path_or_bytes if isinstance(path_or_bytes, bytes) else _read(path_or_bytes), where)
    gaps = [gap for message in catalogue.messages for gap in _gaps(message, catalogue.plurals)]
    texts = list(dict.fromkeys(core for gap in gaps if (core := gap.text.strip())))
    answers = translate(texts) if texts else []
    if len(answers) != len(texts):
        raise ValueError(f"translate was given {len(texts)} texts and gave {len(answers)} back")
    known = dict(zip(texts, (answer.strip() for answer in answers), strict=True))
    return _apply(catalogue, [(gap, _framed(gap.text, known)) for gap in gaps])


def _gaps(message: Message, plurals: Plurals | None) -> Iterator[_Gap]:
    if message.obsolete or not message.msgid:
        return
    if message.plural is None:
        if not message.forms[0]:
            yield _Gap(message, 0, message.msgid)
        return
    count = max(len(message.forms), plurals.count if plurals else 0)
    one = -1 if count == 1 else plurals.form(1) if plurals else 0
    for form in range(count):
        if form >= len(message.forms) or not message.forms[form]:
            yield _Gap(message, form, message.msgid if form == one else message.plural)


def _framed(text: str, known: dict[str, str]) -> str:
    """The translation of `text` between the spaces and line feeds that stand at its ends."""
    core = text.strip()
    if not core:
        return text
    start = text.index(core)
    return text[:start] + known[core] + text[start + len(core) :] if known[core] else ""


def _apply(catalogue: Catalogue, filled: list[tuple[_Gap, str]]) -> bytes:
    """The file with the translations in their places."""
    lines = list(catalogue.lines)
    edits: list[tuple[int, int, int, str]] = []  # line, first column, end column, new text
    for gap, text in filled:
        message = gap.message
        eol = _eol(lines, message.last.line)
        if not text:
            continue
        if "fuzzy" not in message.flags:
            message.flags.add("fuzzy")
            edits.append(_fuzzy(catalogue, message, eol))
        if gap.form < len(message.places):
            place = message.places[gap.form]
            edits.append((place.line, place.start, place.end, _quote(text, eol)))
        else:
            last = message.last
            edits.append((last.line, last.end, last.end, f"{eol}msgstr[{gap.form}] {_quote(text, eol)}"))
    # From the end backwards, so that columns still hold; of several at one place the first comes out first.
    for line, start, end, new in sorted(reversed(edits), key=lambda edit: edit[:2], reverse=True):
        lines[line] = _edited(catalogue, lines, line, (start, end, new))
    return b"".join(lines)


def _edited(catalogue: Catalogue, lines: list[bytes], line: int, edit: tuple[int, int, str]) -> bytes:
    start, end, new = edit
    text = line_text(lines, line, catalogue.charset, catalogue.where)
    mark = codecs.BOM_UTF8 if line == 0 and lines[0].startswith(codecs.BOM_UTF8) else b""
    try:
        return mark + (text[:start] + new + text[end:]).encode(catalogue.charset)
    except UnicodeEncodeError as error:
        sign = error.object[error.start]
        problem = f"the translation's '{sign}' does not exist in the file's charset {catalogue.charset}"
        raise UserError(f"{catalogue.where}:{line + 1}: {problem}; convert it with msgconv -t UTF-8") from None


def _fuzzy(catalogue: Catalogue, message: Message, eol: str) -> tuple[int, int, int, str]:
    """The edit that adds the flag: to the flags there are, or on a line of its own."""
    if message.flag_line is None:
        head = message.head or message.last
        before = line_text(catalogue.lines, head.line, catalogue.charset, catalogue.where)[: head.start]
        if before.strip():  # the message before ends on this line
            return head.line, head.start, head.start, f"{eol}#, fuzzy{eol}"
        return head.line, 0, 0, f"#, fuzzy{eol}"
    text = line_text(catalogue.lines, message.flag_line, catalogue.charset, catalogue.where)
    column = text.index("#,") + 2
    return message.flag_line, column, column, " fuzzy," if text[column:].strip() else " fuzzy"


def _eol(lines: list[bytes], index: int) -> str:
    """The line ending in use at this line; the last line of a file may lack it."""
    for raw in (lines[index], lines[max(0, index - 1)]):
        for eol in ("\r\n", "\n", "\r"):
            if raw.endswith(eol.encode()):
                return eol
    return "\n"


def _quote(text: str, eol: str) -> str:
    """The text as PO strings, one for each of its lines, as gettext's tools write it."""
    parts = text.splitlines(keepends=True) if "\n" in text.rstrip("\n") else [text]
    strings = [f'"{part.translate(_QUOTED)}"' for part in parts]
    return eol.join(['""', *strings] if len(strings) > 1 else strings)
