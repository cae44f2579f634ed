"""The strict parser of gettext's `.po` files: every message, and where in the file its strings stand.

Source: GNU gettext manual, "The Format of PO Files". A comment inside a message, an unknown escape, a message
that is only partly obsolete and the like are errors there and here.
"""

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from gettext import c2py

from jogak.errors import UserError

_TOKEN = re.compile(
    r"(?P<space>[ \t\r\f\v]+)"
    r"|(?P<word>(?:msgctxt|msgid_plural|msgid|msgstr|domain)(?![A-Za-z_]))"
    r"(?:[ \t]*\[[ \t]*(?P<form>\d+)[ \t]*\])?"
    r'|(?P<string>"(?:[^"\\]|\\.)*")'
    r"|(?P<comment>#.*)"
)
_ESCAPE = re.compile(r"\\(?:x(?P<hex>[0-9A-Fa-f]+)|(?P<octal>[0-7]{1,3})|(?P<sign>.))")
SIGNS = {"n": "\n", "t": "\t", "b": "\b", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "\\": "\\", '"': '"'}
_CHARSET = re.compile(rb'Content-Type:[^"\n]*?charset=([^"\\\s;]+)', re.IGNORECASE)
_PLURAL_FORMS = re.compile(r"^Plural-Forms:\s*nplurals\s*=\s*(\d+)\s*;\s*plural\s*=\s*([^;\n]+)", re.M | re.I)
_PARTLY = "part of this message is marked obsolete (#~) and part is not; mark all of it or none"


@dataclass(frozen=True)
class Place:
    """A string token: the index of its line, and its columns there, quotes included."""

    line: int
    start: int
    end: int


@dataclass
class Message:
    """One entry of a catalogue; `line` counts from 1, the other line numbers are indices."""

    line: int = 0
    context: str | None = None
    msgid: str = ""
    plural: str | None = None
    forms: list[str] = field(default_factory=list)  # msgstr, or msgstr[0], msgstr[1], ...
    flags: set[str] = field(default_factory=set)
    obsolete: bool = False
    places: list[Place] = field(default_factory=list)  # the first string of each form
    last: Place = Place(0, 0, 0)  # the last string
    head: Place | None = None  # that before which flags belong: `#|`, msgctxt or msgid
    flag_line: int | None = None  # the first `#,` line

    @property
    def is_header(self) -> bool:
        """Whether this is the entry that describes the catalogue."""
        return not self.obsolete and self.context is None and self.msgid == ""

    @property
    def in_use(self) -> bool:
        """Whether a program would show this translation."""
        return bool(not self.obsolete and "fuzzy" not in self.flags and self.msgid and any(self.forms))


@dataclass(frozen=True)
class Plurals:
    """How many forms a language has, and which one counts n things."""

    count: int
    form: Callable[[int], int]


@dataclass(frozen=True)
class Catalogue:
    """A parsed `.po`: its name, its lines as they were, their charset, and its messages in order."""

    where: str
    lines: list[bytes]
    charset: str
    messages: list[Message]
    plurals: Plurals | None


def parse(content: bytes, where: str) -> Catalogue:
    """The messages of a `.po` file, obsolete and fuzzy ones included; `where` is its name in errors.

    Raises: UserError naming file and line.
    """
    lines = content.splitlines(keepends=True)
    charset = find_charset(content, where)
    parser = _Parser(where, charset)
    for index in range(len(lines)):
        parser.line(index, line_text(lines, index, charset, where))
    parser.finish()
    header = next((m for m in parser.messages if m.is_header), None)
    plurals = find_plurals(header.forms[0], f"{where}:{header.line}") if header else None
    return Catalogue(where, lines, charset, parser.messages, plurals)


def line_text(lines: list[bytes], index: int, charset: str, where: str) -> str:
    """A line decoded, without a byte order mark."""
    raw = lines[index].removeprefix(codecs.BOM_UTF8) if index == 0 else lines[index]
    return decode(raw, charset, f"{where}:{index + 1}")


def find_charset(content: bytes, where: str) -> str:
    """The charset that the header names; UTF-8 where there is none, or a template's word `CHARSET`."""
    found = _CHARSET.search(content)
    name = found[1].decode("ascii", "replace") if found else "CHARSET"
    if name == "CHARSET":
        return "utf-8"
    try:
        if "msgid".encode(name) == b"msgid":
            return name
    except LookupError:
        pass
    raise UserError(f"{where}: unknown charset '{name}' in the header; convert the file with msgconv -t UTF-8")


def find_plurals(header: str, where: str) -> Plurals | None:
    """What the header's `Plural-Forms` says, or None where it has none."""
    found = _PLURAL_FORMS.search(header)
    if not found:
        return None
    try:
        plurals = Plurals(int(found[1]), c2py(found[2].strip()))
        for count in (0, 1, 5):  # an expression such as n / 0 fails here and not in the middle of a file
            plurals.form(count)
        return plurals
    except (ValueError, ArithmeticError, RecursionError):
        raise UserError(f"{where}: '{found[0]}' is not a valid Plural-Forms line; correct the expression") from None


def decode(raw: bytes, charset: str, where: str) -> str:
    """Bytes as text.

    Raises: UserError naming the place.
    """
    try:
        return raw.decode(charset)
    except UnicodeDecodeError as error:
        problem = f"not {charset} at byte {error.start + 1}"
        raise UserError(f"{where}: {problem}; correct the header's charset or the text") from None


class _Parser:
    """Fed line by line; what is complete lies in `messages`."""

    def __init__(self, where: str, charset: str) -> None:
        self.where = where
        self.charset = charset
        self.messages: list[Message] = []
        self.now = Message()
        self.word: str | None = None  # the keyword whose strings are being read; None between messages
        self.empty = False  # that keyword still waits for its first string
        self.at = 0

    def fail(self, what: str) -> UserError:
        return UserError(f"{self.where}:{self.at + 1}: {what}")

    def line(self, index: int, text: str) -> None:
        self.at = index
        text = text.rstrip("\r\n")
        body = text.lstrip(" \t")
        obsolete = body.startswith("#~")
        position = len(text) - len(body) + (2 if obsolete else 0)
        if body.startswith("#~|"):
            self.comment(body)
            return
        while position < len(text):
            token = _TOKEN.match(text, position)
            if token is None:
                raise self.fail(_unreadable(text[position:]))
            place = Place(index, token.start(), token.end())
            if token["comment"]:
                self.comment(token["comment"])
            elif token["word"]:
                self.keyword(token["word"], token["form"], place, obsolete)
            elif token["string"]:
                self.string(token["string"], place, obsolete)
            position = token.end()

    def comment(self, text: str) -> None:
        if self.word is not None:
            if self.word not in ("msgstr", "domain"):
                raise self.fail("a comment in the middle of a message; move it above its msgid")
            self.finish()
        if text[1:2] in (",", "="):
            self.now.flags |= {flag.strip() for flag in text[2:].split(",")}
            if text[1] == "," and self.now.flag_line is None:
                self.now.flag_line = self.at
        if text.startswith(("#|", "#~|")) and self.now.head is None:
            self.now.head = Place(self.at, 0, 0)

    def keyword(self, word: str, form: str | None, place: Place, obsolete: bool) -> None:
        if self.empty:
            raise self.fail(f'{self.word} has no string; write {self.word} ""')
        if form is not None and word != "msgstr":
            raise self.fail(f"{word}[{form}] is not a keyword; only msgstr has numbered forms")
        if self.word in ("msgstr", "domain") and word in ("msgctxt", "msgid", "domain"):
            self.finish()
        now = self.now
        if self.word is None:
            now.head = now.head or place
            now.obsolete = obsolete
        elif now.obsolete != obsolete:
            raise self.fail(_PARTLY)
        self.check_order(word, form)
        if word == "msgid":
            now.line = self.at + 1
        elif word == "msgid_plural":
            now.plural = ""
        self.word, self.empty = word, True

    def check_order(self, word: str, form: str | None) -> None:
        """Refuse a keyword that cannot follow the one before it."""
        now = self.now
        before = {
            "msgctxt": (None,),
            "msgid": (None, "msgctxt"),
            "msgid_plural": ("msgid",),
            "msgstr": ("msgid", "msgid_plural", "msgstr"),
            "domain": (None,),
        }[word]
        if self.word not in before:
            after = f"after {self.word}" if self.word else "without a msgid before it"
            raise self.fail(f"{word} {after}; a message is msgctxt, msgid, msgid_plural, msgstr in this order")
        if word != "msgstr":
            return
        if now.plural is None and (form is not None or now.forms):
            raise self.fail("a message without msgid_plural has one msgstr, without a number")
        if now.plural is not None and (form is None or int(form) != len(now.forms)):
            raise self.fail(f"msgstr[{len(now.forms)}] is expected here, since the message has a msgid_plural")

    def string(self, token: str, place: Place, obsolete: bool) -> None:
        now = self.now
        if self.word is None:
            raise self.fail("a string without a keyword before it; put msgid or msgstr before it")
        if self.word != "domain" and obsolete != now.obsolete:
            raise self.fail(_PARTLY)
        text = self.unescape(token[1:-1])
        if self.word == "msgctxt":
            now.context = (now.context or "") + text
        elif self.word == "msgid":
            now.msgid += text
        elif self.word == "msgid_plural":
            now.plural = (now.plural or "") + text
        elif self.word == "msgstr":
            if self.empty:
                now.forms.append("")
                now.places.append(place)
            now.forms[-1] += text
        now.last = place
        self.empty = False

    def unescape(self, text: str) -> str:
        if "\\" not in text:
            return text
        pieces: list[bytes] = []  # numbers are bytes of the file's charset, so the whole is put together in it
        end = 0
        for found in _ESCAPE.finditer(text):
            pieces.append(text[end : found.start()].encode(self.charset))
            if found["sign"] is None:
                number = int(found["hex"], 16) if found["hex"] else int(found["octal"], 8)
            else:
                number = ord(SIGNS.get(found["sign"], "\uffff"))
            if number > 255:
                raise self.fail(f"unknown escape '{found[0]}'; write a backslash as \\\\")
            pieces.append(bytes([number]))
            end = found.end()
        pieces.append(text[end:].encode(self.charset))
        return decode(b"".join(pieces), self.charset, f"{self.where}:{self.at + 1}")

    def finish(self) -> None:
        """The message being read is complete."""
        if self.word is None:
            return
        if self.empty:
            raise self.fail(f'{self.word} has no string; write {self.word} ""')
        if self.word not in ("msgstr", "domain"):
            raise self.fail(f'{self.word} without a msgstr after it; add msgstr ""')
        if self.word == "msgstr":
            self.messages.append(self.now)
        self.now, self.word = Message(), None


def _unreadable(rest: str) -> str:
    if rest.startswith('"'):
        return "a string without its closing quote; close it on the same line"
    return f"'{rest[:20]}' is neither a keyword, a string nor a comment; correct or delete it"
