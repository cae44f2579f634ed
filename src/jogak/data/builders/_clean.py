"""What makes a pair of strings from a catalogue fit to learn from (docs/corpora.md lists the rules)."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

# Things that a program fills in: %(name)s {name} %1$s %d %1 %PRODUCTNAME $(ARG1) ${name} $name$ $name
PLACEHOLDER = re.compile(
    r"%\(\w+\)[#0+-]*\d*(?:\.\d+)?[a-zA-Z]"
    r"|%[A-Z][A-Z0-9_]+%?"
    r"|%(?:\d+\$)?[#0+'-]*(?:\*|\d+)?(?:\.(?:\*|\d+))?(?:hh|h|ll|l|q|j|z|t|L)?[diouxXeEfFgGaAcspn@]"
    r"|%\d+"
    r"|\$?\{[\w.\[\]]*(?:![rsa])?(?::[^{}\s]*)?\}"
    r"|\$\(\w+\)|\$[A-Za-z_]\w*\$?"
)
_POSITION = re.compile(r"(?<=%)\d+\$")
_TAG = re.compile(
    r"</?(?:a|abbr|b|br|code|div|em|h[1-6]|hr|i|img|kbd|li|ol|p|pre|span|strong|tt|u|ul)\b[^<>]*>|&#?\w+;",
    re.I,
)
_HANGUL = re.compile(r"[\uac00-\ud7a3]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffd\ufff9-\ufffb\ue000-\uf8ff]")
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
_CREDITS = re.compile(
    r"translator[-_ ]credits|(?:names?|emails?) of (?:the )?translators?|^your (?:names|emails)$", re.I
)
_BRACKETED = re.compile(r"[ \t]*\(([&_~])[A-Za-z0-9]\)")
_LEADING = re.compile(r"^~(?=[^\W\d_])")
_MARK = {  # before a letter or digit; not in `&lt;`, `/_x`, `"_x"`; after a digit a tilde means a range
    "&": re.compile(r"(?<![&\d])&(?=[^\W_])(?!\w+;)"),
    "_": re.compile(r"(?<![\d_/.@'\"])_(?=[^\W_])"),
    "~": re.compile(r"(?<![\d~/.])~(?=[^\W\d_])"),
}

# Why a pair was left out, in the order of the checks.
REASONS = (
    "empty", "control characters", "translators' names", "no letters", "no Hangul", "placeholders differ",
    "untranslated", "lengths differ absurdly",
)  # fmt: skip


def clean(source: str, target: str, languages: tuple[str, str], marks: str = "") -> tuple[str, str] | str:
    """The pair in the form to learn from, or the reason (one of `REASONS`) to leave it out.

    Both sides: NFC, LF line ends, no outer space, no accelerators (`marks` are the catalogue's).
    """
    source, target = strip_accelerators(tidy(source), marks), strip_accelerators(tidy(target), marks)
    if not source or not target:
        return "empty"
    checks: tuple[Callable[[], bool], ...] = (
        lambda: bool(_CONTROL.search(source) or _CONTROL.search(target)),
        lambda: bool(_CREDITS.search(source) or _CREDITS.search(target)),
        lambda: not (has_words(source) and has_words(target)),
        lambda: any(
            lang == "ko" and not _HANGUL.search(s) for s, lang in zip((source, target), languages, strict=True)
        ),
        lambda: placeholders(source) != placeholders(target),
        lambda: source == target and len(source.split()) > 3,
        lambda: absurd(len(source), len(target)),
    )
    for reason, check in zip(REASONS[1:], checks, strict=True):
        if check():
            return reason
    return source, target


def tidy(text: str) -> str:
    """NFC, LF line ends, no outer space, no soft hyphens or zero-width spaces."""
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text)).replace("\r\n", "\n").strip()


def has_words(text: str) -> bool:
    """Whether a letter is left when markup and placeholders are gone."""
    return any(c.isalpha() for c in PLACEHOLDER.sub(" ", _TAG.sub(" ", text)))


def placeholders(text: str) -> Counter[str]:
    """Every placeholder and how often; %1$s counts as %s, since languages order them differently."""
    return Counter(_POSITION.sub("", found) for found in PLACEHOLDER.findall(text.replace("%%", "")))


def absurd(a: int, b: int) -> bool:
    """Whether two lengths in characters are too far apart; English takes about twice as many as Korean."""
    return max(a, b) > 6 * min(a, b) + 20


def accelerator_marks(pairs: Sequence[tuple[str, str]]) -> str:
    """Those of `&`, `_` and `~` that mark keyboard accelerators in a catalogue, given its raw pairs.

    A mark is one where at least two pairs, and a fifth of the pairs that have it on both sides, show it on
    both as `(_F)` or as a single one that begins a word, and not the same word (that is a name, as `_static`
    is). So `_` is one in the catalogue of a program with menus, and none in that of a library.
    """
    marks = ""
    for mark in _MARK:
        words = [(_marked(a, mark), _marked(b, mark)) for a, b in pairs if mark in a and mark in b]
        sure = sum(bool(a and b) and (a != b or a == "()") for a, b in words)
        if sure >= max(2, 0.2 * sum(None not in pair for pair in words)):
            marks += mark
    return marks


def _marked(text: str, mark: str) -> str | None:
    """The word that the mark begins, "()" for one in brackets, "" for any other, None without the mark."""
    if any(found[1] == mark for found in _BRACKETED.finditer(text)):
        return "()"
    outside = PLACEHOLDER.sub(" ", text)
    if mark not in outside:
        return None
    found = _MARK[mark].search(outside)
    if found is None or outside.count(mark) != 1 or outside[: found.start()][-1:].isalnum():
        return ""
    return re.split(r"\W", outside[found.end() :], maxsplit=1)[0]


def strip_accelerators(text: str, marks: str) -> str:
    """The text without the marks of keyboard accelerators; `marks` are those of its catalogue.

    `(_F)`, `(&F)` and `(~F)` go with the space before them, and so does a tilde that begins the text.
    `_File`, `E_xit` and `Save ~As` lose the mark where it is the only one of its kind outside
    placeholders and stands before a letter. All else stays (`&lt;`, `AT & T`).
    """
    text = _LEADING.sub("", _BRACKETED.sub("", text))
    for mark in marks:
        outside = PLACEHOLDER.sub(lambda found: " " * len(found[0]), text)
        found = _MARK[mark].search(outside)
        if found is not None and outside.count(mark) == 1:
            text = text[: found.start()] + text[found.end() :]
    return text.strip()
