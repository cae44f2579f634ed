"""The gettext readers and `fill`, against GNU gettext's tools, polib and Python's own reader."""

import gettext as stdlib
import random
import re
import shutil
import struct
import subprocess
import sysconfig
from functools import cache
from pathlib import Path

import pytest

from jogak.data._po import Message, parse
from jogak.data.gettext import fill, read_pairs
from jogak.errors import UserError

HEADER = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n"Plural-Forms: nplurals=1; plural=0;\\n"\n\n'
TWO = HEADER.replace("nplurals=1; plural=0", "nplurals=2; plural=(n != 1)")

needs_msgfmt = pytest.mark.skipif(shutil.which("msgfmt") is None, reason="msgfmt is not installed")


def write(folder: Path, text: str | bytes, name: str = "ko.po") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def pairs(path: Path) -> list[tuple[str, str]]:
    return [(source, target) for source, target, _ in read_pairs(path)]


def shout(texts: list[str]) -> list[str]:
    """Stands for a model: every text has one recognisable answer."""
    return [f"<{text}>" for text in texts]


# ---------------------------------------------------------------- reading .po


def test_reads_everything_a_po_file_may_hold(tmp_path):
    text = HEADER + (
        '# translator\n#. extracted\n#: main.c:1\n#, c-format\n#| msgid "old"\nmsgctxt "menu"\n'
        'msgid "Open %s"\nmsgstr "%s 열기"\n\n'
        'msgid ""\n"two "\n"lines\\n"\nmsgstr "두 "\n"줄\\n"\n\n'
        'msgid "tab\\tquote\\"back\\\\bell\\a" msgstr "\\345\\256\\266 \\x41"\n\n'
        '#, fuzzy\nmsgid "left out: fuzzy"\nmsgstr "x"\n\n'
        'msgid "left out: empty"\nmsgstr ""\n\n'
        '#~ msgid "left out: obsolete"\n#~ msgstr "x"\n#~| msgid "older"\n#~ msgid "b"\n#~ msgstr "x"\n'
        'msgid "%d file"\nmsgid_plural "%d files"\nmsgstr[0] "파일 %d개"\n'
    )
    path = write(tmp_path, text)
    assert list(read_pairs(path)) == [
        ("Open %s", "%s 열기", f"{path}:11"),
        ("two lines\n", "두 줄\n", f"{path}:14"),
        ('tab\tquote"back\\bell\a', "家 A", f"{path}:20"),
        ("%d files", "파일 %d개", f"{path}:34"),
    ]


@pytest.mark.parametrize("eol", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_line_endings_and_byte_order_mark_change_nothing(tmp_path, eol, bom):
    text = HEADER + 'msgid "a"\nmsgstr "가"\n\nmsgid "b"\nmsgstr ""\n"나"'
    path = write(tmp_path, bom + text.replace("\n", eol).encode())
    found = [(s, t, w.removeprefix(f"{path}:")) for s, t, w in read_pairs(path)]
    assert found == [("a", "가", "5"), ("b", "나", "8")]


def test_a_backslash_byte_inside_a_double_byte_character_is_no_escape(tmp_path):
    text = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=Shift_JIS\\n"\nmsgid "show"\nmsgstr "表示"\n'
    assert b"\x95\x5c" in text.encode("shift_jis")
    assert pairs(write(tmp_path, text.encode("shift_jis"))) == [("show", "表示")]


def test_plural_forms_follow_the_expression_of_the_header(tmp_path):
    arabic = "nplurals=6; plural=n==0 ? 0 : n==1 ? 1 : n==2 ? 2 : "
    arabic += "n%100>=3 && n%100<=10 ? 3 : n%100>=11 ? 4 : 5"
    text = HEADER.replace("nplurals=1; plural=0", arabic) + 'msgid "one"\nmsgid_plural "many"\n'
    text += "".join(f'msgstr[{i}] "f{i}"\n' for i in range(6))
    assert pairs(write(tmp_path, text)) == [("one", "f1"), ("many", "f3")]
    without = text[text.index('msgid "one"') :]
    assert pairs(write(tmp_path, without)) == [("one", "f0"), ("many", "f5")]


BROKEN = {
    'msgid "a\nmsgstr "b"\n': (1, "closing quote"),
    'msgid "a"\nmsgstr "b\\q"\n': (2, r"unknown escape '\q'"),
    'msgid "a"\n\nmsgid "b"\nmsgstr ""\n': (3, "msgid after msgid"),
    'msgstr "b"\n': (1, "without a msgid"),
    '"b"\n': (1, "without a keyword"),
    'msgid "a"\nmsgstr "b"\nmsgstr "c"\n': (3, "has one msgstr"),
    'msgid "a"\nmsgstr[0] "b"\n': (2, "without msgid_plural"),
    'msgid "a"\nmsgid_plural "as"\nmsgstr "b"\n': (3, "msgstr[0] is expected"),
    'msgid "a"\nmsgid_plural "as"\nmsgstr[0] "b"\nmsgstr[2] "c"\n': (4, "msgstr[1] is expected"),
    'msgid "a"\nmsgid_plural "b"\nmsgid_plural "c"\n': (3, "msgid_plural after msgid_plural"),
    'msgid\nmsgstr "b"\n': (2, "msgid has no string"),
    'msgid "a"\nmsgstr\n': (2, "msgstr has no string"),
    'msgctxt "c"\n': (1, "msgctxt without a msgstr"),
    'msgid[0] "a"\nmsgstr "b"\n': (1, "not a keyword"),
    'msgid "a"\n# note\nmsgstr "b"\n': (2, "comment in the middle"),
    '#~ msgid "a"\nmsgstr "b"\n': (2, "marked obsolete"),
    'msgid "a"\n#~ msgstr "b"\n': (2, "marked obsolete"),
    'msgid "a"\nmsgstr "b"\nhello\n': (3, "'hello' is neither"),
    'msgid "a"\nmsgstr "b" x\n': (2, "'x' is neither"),
}


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: BROKEN[text][1])
def test_a_broken_file_is_named_with_its_line(tmp_path, text):
    line, message = BROKEN[text]
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        list(read_pairs(path))
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert message in str(caught.value)


@needs_msgfmt
@pytest.mark.parametrize("text", BROKEN, ids=lambda text: BROKEN[text][1])
def test_what_is_refused_is_refused_by_msgfmt_too(tmp_path, text):
    path = write(tmp_path, text)
    done = subprocess.run(["msgfmt", "-o", str(tmp_path / "x.mo"), str(path)], capture_output=True)
    assert done.returncode != 0


def test_bad_encodings_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"ko\.po:6: not UTF-8 at byte 9"):
        list(read_pairs(write(tmp_path, (HEADER + 'msgid "a"\n').encode() + 'msgstr "가"\n'.encode("euc-kr"))))
    with pytest.raises(UserError, match="unknown charset 'KLINGON'"):
        list(read_pairs(write(tmp_path, HEADER.replace("UTF-8", "KLINGON"))))
    with pytest.raises(UserError, match="unknown charset 'utf-16'"):
        list(read_pairs(write(tmp_path, HEADER.replace("UTF-8", "utf-16"))))
    with pytest.raises(UserError, match=r"no\.po: there is no such file"):
        list(read_pairs(tmp_path / "no.po"))
    with pytest.raises(UserError, match="cannot be read"):
        list(read_pairs(tmp_path))


@pytest.mark.parametrize("expression", ["n / 0", "n !=", "__import__('os')", "n ? 1 : ("])
def test_a_bad_plural_expression_is_refused(tmp_path, expression):
    text = HEADER.replace("plural=0", f"plural={expression}")
    with pytest.raises(UserError, match=r"ko\.po:1: .*not a valid Plural-Forms"):
        list(read_pairs(write(tmp_path, text)))


# ---------------------------------------------------------------- reading .mo


def make_mo(entries: dict[bytes, bytes], order: str = "<") -> bytes:
    """A `.mo` file as the manual draws it, without the hash table that a reader may ignore."""
    ids, texts = sorted(entries), [entries[key] for key in sorted(entries)]
    offset = 28 + 16 * len(entries)
    tables: list[bytes] = []
    data = b""
    for strings in (ids, texts):
        for string in strings:
            tables.append(struct.pack(f"{order}2I", len(string), offset + len(data)))
            data += string + b"\0"
    head = struct.pack(f"{order}7I", 0x950412DE, 0, len(ids), 28, 28 + 8 * len(ids), 0, offset)
    return head + b"".join(tables) + data


@pytest.mark.parametrize("order", ["<", ">"])
def test_mo_of_both_byte_orders_in_any_charset(tmp_path, order):
    entries = {
        b"": b"Content-Type: text/plain; charset=EUC-KR\nPlural-Forms: nplurals=2; plural=n != 1;\n",
        b"menu\x04Open": "열기".encode("euc-kr"),
        b"one\0many": "하나\0여럿".encode("euc-kr"),
        b"empty": b"",
        b"none\0nones": b"\0",
    }
    path = write(tmp_path, make_mo(entries, order), "ko.mo")
    assert list(read_pairs(path)) == [
        ("Open", "열기", f"{path}#2"),
        ("one", "하나", f"{path}#4"),
        ("many", "여럿", f"{path}#4"),
    ]


def test_damaged_mo_files_are_one_sentence_at_any_cut(tmp_path):
    whole = make_mo({b"": b"Content-Type: text/plain; charset=UTF-8\n", b"a": "가".encode()})
    for cut in range(len(whole) - 1):
        with pytest.raises(UserError, match=r"ko\.mo"):
            list(read_pairs(write(tmp_path, whole[:cut], "ko.mo")))
    with pytest.raises(UserError, match="format 9 is not known"):
        list(read_pairs(write(tmp_path, whole[:4] + struct.pack("<I", 9 << 16) + whole[8:], "ko.mo")))


@needs_msgfmt
@pytest.mark.parametrize("endian", ["little", "big"])
def test_po_and_its_compiled_mo_give_the_same_pairs(tmp_path, endian):
    text = TWO + (
        'msgctxt "menu"\nmsgid "Open"\nmsgstr "열기"\n\nmsgid "one %d"\nmsgid_plural "many %d"\n'
        'msgstr[0] "하나 %d"\nmsgstr[1] "여럿 %d"\n\n'
        '#, fuzzy\nmsgid "f"\nmsgstr "x"\n\nmsgid "e"\nmsgstr ""\n'
    )
    path = write(tmp_path, text)
    subprocess.run(["msgfmt", f"--endianness={endian}", "-o", str(tmp_path / "ko.mo"), str(path)], check=True)
    assert sorted(pairs(path)) == sorted(pairs(tmp_path / "ko.mo"))
    assert len(pairs(path)) == 3


# ---------------------------------------------------------------- filling


def test_fill_changes_only_what_is_empty():
    text = (
        "# first line\n" + HEADER + "# note\n#. extracted\n#: a.c:1\n#, c-format\n"
        'msgid "Open %s"\nmsgstr ""\n\n'
        '#: b.c:2\n#| msgctxt "was"\n#| msgid "Shut"\nmsgctxt "menu"\nmsgid   "Close"\nmsgstr\t""\n""\n\n'
        'msgid "done"\nmsgstr "끝"\n\n#, fuzzy, c-format\nmsgid "kept fuzzy"\nmsgstr "둠"\n\n'
        '#,fuzzy\nmsgid "empty fuzzy"\nmsgstr ""\n\n'
        'msgid "%d file"\nmsgid_plural "%d files"\nmsgstr[0] ""\n\n'
        '#~ msgid "obsolete"\n#~ msgstr ""\n'
    )
    changes = {
        '#, c-format\nmsgid "Open %s"\nmsgstr ""': '#, fuzzy, c-format\nmsgid "Open %s"\nmsgstr "<Open %s>"',
        '#| msgctxt "was"': '#, fuzzy\n#| msgctxt "was"',
        'msgstr\t""\n""': 'msgstr\t"<Close>"\n""',
        'msgid "empty fuzzy"\nmsgstr ""': 'msgid "empty fuzzy"\nmsgstr "<empty fuzzy>"',
        'msgid "%d file"': '#, fuzzy\nmsgid "%d file"',
        'msgstr[0] ""': 'msgstr[0] "<%d files>"',
    }
    expected = text
    for old, new in changes.items():
        assert expected.count(old) == 1
        expected = expected.replace(old, new)
    assert fill(text.encode(), shout).decode() == expected


def test_fill_takes_a_path_and_names_it_in_errors(tmp_path):
    path = write(tmp_path, HEADER + 'msgid "a"\nmsgstr ""\n')
    assert fill(path, shout) == fill(path.read_bytes(), shout)
    path = write(tmp_path, HEADER + 'msgid "a"\nmsgstr "\n')
    with pytest.raises(UserError, match=r"ko\.po:6: a string without its closing quote"):
        fill(path, shout)


def test_translate_is_called_once_with_different_texts_without_outer_space():
    calls: list[list[str]] = []

    def translate(texts: list[str]) -> list[str]:
        calls.append(texts)
        return [f" {text.upper()}\n" for text in texts]

    text = HEADER + 'msgid "\\n a\\n\\n"\nmsgstr ""\n\nmsgctxt "x"\nmsgid "a"\nmsgstr ""\n\nmsgid "b"\nmsgstr ""\n'
    filled = fill(text.encode(), translate)
    assert calls == [["a", "b"]]
    assert [m.forms for m in parse(filled, "x").messages[1:]] == [["\n A\n\n"], ["A"], ["B"]]
    assert fill(filled, translate) == filled
    assert len(calls) == 1, "nothing is empty any more"


def test_plural_forms_that_the_header_asks_for_are_added():
    text = TWO + 'msgid "%d file"\nmsgid_plural "%d files"\nmsgstr[0] "" # c'
    filled = fill(text.encode(), shout).decode()
    assert filled == TWO + (
        '#, fuzzy\nmsgid "%d file"\nmsgid_plural "%d files"\nmsgstr[0] "<%d file>"\nmsgstr[1] "<%d files>" # c'
    )
    partly = TWO + 'msgid "a"\nmsgid_plural "as"\nmsgstr[0] "하나"\nmsgstr[1] ""\n'
    assert parse(fill(partly.encode(), shout), "x").messages[1].forms == ["하나", "<as>"]


def test_an_answer_of_several_lines_is_written_as_gettext_does():
    text = HEADER + 'msgid "a"\nmsgstr ""\n'
    filled = fill(text.encode(), lambda texts: ['one\n"two"\t\\three'])
    assert filled.decode().endswith('msgstr ""\n"one\\n"\n"\\"two\\"\\t\\\\three"\n')
    assert parse(filled, "x").messages[1].forms == ['one\n"two"\t\\three']


def test_an_empty_answer_leaves_the_message_as_it_is():
    text = (HEADER + 'msgid "a"\nmsgstr ""\n').encode()
    assert fill(text, lambda texts: [""]) == text


def test_too_few_answers_are_a_programming_error():
    with pytest.raises(ValueError, match="given 1 texts and gave 0 back"):
        fill(b'msgid "a"\nmsgstr ""\n', lambda texts: [])


def test_messages_on_one_line_are_filled_too():
    filled = fill(b'msgid "a" msgstr "x" msgid "b" msgstr ""', shout)
    assert [(m.msgid, m.forms, m.flags) for m in parse(filled, "x").messages] == [
        ("a", ["x"], set()),
        ("b", ["<b>"], {"fuzzy"}),
    ]


def test_a_charset_without_the_answers_characters_is_one_sentence():
    text = HEADER.replace("UTF-8", "ISO-8859-1") + 'msgid "a"\nmsgstr ""\n'
    with pytest.raises(UserError, match=r"catalogue:6: the translation's '가' does not exist .* ISO-8859-1"):
        fill(text.encode("latin-1"), lambda texts: ["가"])
    assert fill(text.encode("latin-1"), lambda texts: ["é"]).endswith(b'msgstr "\xe9"\n')


def random_po(rng: random.Random, *, forms: int, line_feeds: bool = True) -> str:
    """A valid catalogue with every kind of entry, comment and layout."""
    alphabet = ["a", "B", " ", "가", "나", "%s", '\\"', "\\\\", "\\t", "é", "{0}", "#", "~", "家"]
    alphabet += ["\\n"] * line_feeds  # msgfmt refuses a msgstr that begins or ends otherwise than its msgid

    def string(least: int = 1) -> str:
        parts = ["".join(rng.choices(alphabet, k=rng.randint(least, 6))) for _ in range(rng.randint(1, 3))]
        return "\n".join(f'"{part}"' for part in ([*parts] if rng.random() < 0.7 else ["", *parts]))

    plural = "plural=0" if forms == 1 else "plural=n != 1"
    out = [HEADER.replace("nplurals=1; plural=0", f"nplurals={forms}; {plural}").rstrip("\n")]
    for number in range(rng.randint(0, 8)):
        lines = rng.sample(["# t", "#  ", "#. e", "#: f.c:1", "#, c-format", "#, fuzzy", "#, no-wrap, fuzzy"], k=2)
        lines += ['#| msgid "old"'] * rng.randint(0, 1)
        if rng.random() < 0.3:
            lines.append('msgctxt "c"')
        lines.append(f'msgid "{number}"\n{string()}')
        count = rng.randint(1, forms) if rng.random() < 0.4 else 0
        if count:
            lines.append(f"msgid_plural {string()}")
        for form in range(count or 1):
            value = '""' if rng.random() < 0.5 else string()
            lines.append((f"msgstr[{form}] " if count else "msgstr ") + value)
        if rng.random() < 0.15:
            lines = ["#~ " + line for part in lines if part[0] != "#" for line in part.split("\n")]
        out.append("\n".join(lines))
    return "\n\n".join(out) + rng.choice(["", "\n", "\n\n# the end\n"])


def expected_forms(message: Message, count: int) -> list[str]:
    """What `fill` with `shout` must leave in a message, worked out from the message alone."""

    def answer(text: str) -> str:
        core = text.strip()
        return text.replace(core, f"<{core}>") if core else text

    if message.obsolete or message.is_header:
        return message.forms
    if message.plural is None:
        return [message.forms[0] or answer(message.msgid)]
    forms = message.forms + [""] * (count - len(message.forms))
    one = -1 if len(forms) == 1 else 0
    return [form or answer(message.msgid if i == one else message.plural) for i, form in enumerate(forms)]


@pytest.mark.parametrize("seed", range(60))
def test_property_filling_keeps_every_byte_that_is_not_asked_for(seed):
    rng = random.Random(seed)
    count, eol = rng.choice([1, 2]), rng.choice(["\n", "\r\n"])
    text = rng.choice(["", "\ufeff"]) + random_po(rng, forms=count).replace("\n", eol)
    before, filled = parse(text.encode(), "before"), fill(text.encode(), shout)
    after = parse(filled, "after")

    assert [m.forms for m in after.messages] == [expected_forms(m, count) for m in before.messages]
    for old, new in zip(before.messages, after.messages, strict=True):
        assert (old.msgid, old.context, old.plural) == (new.msgid, new.context, new.plural)
        assert old.obsolete == new.obsolete
        assert new.flags == (old.flags | {"fuzzy"} if new.forms != old.forms else old.flags)
    assert fill(filled, shout) == filled

    # Nothing but `msgstr` strings and flags may differ: without them both files are the same bytes.
    def rest(content: bytes) -> bytes:
        kept = re.sub(r'(?m)^#,.*\r?\n|^msgstr.*(?:\r?\n".*)*', "", content.decode())
        return kept.encode()

    assert b"".join(rest(filled).split()) == b"".join(rest(text.encode()).split())
    assert eol == "\r\n" or b"\r" not in filled
    assert eol == "\n" or filled.count(b"\n") == filled.count(b"\r\n")


@needs_msgfmt
@pytest.mark.parametrize("seed", range(10))
def test_property_msgfmt_accepts_what_was_filled(tmp_path, seed):
    rng = random.Random(1000 + seed)
    text = random_po(rng, forms=rng.choice([1, 2]), line_feeds=False).replace("#, c-format\n", "")
    texts = fill(text.encode(), shout)
    unfuzzied = re.sub(rb"(?m)^#,.*fuzzy.*\n", b"", texts)  # so that msgfmt looks at the new strings too
    checked = subprocess.run(["msgfmt", "-o", "/dev/null", "-"], input=texts, capture_output=True)
    assert checked.returncode == 0, checked.stderr.decode()
    if "obsolete" not in text:
        path = write(tmp_path, unfuzzied, "u.po")
        subprocess.run(["msgfmt", "-o", str(tmp_path / "u.mo"), str(path)], check=True, capture_output=True)
        assert sorted(pairs(path)) == sorted(pairs(tmp_path / "u.mo"))


def test_polib_reads_the_same(tmp_path):
    polib = pytest.importorskip("polib", reason="polib is not installed")
    for seed in range(20):
        rng = random.Random(2000 + seed)
        path = write(tmp_path, fill(random_po(rng, forms=2).encode(), shout), f"{seed}.po")
        theirs = [e for e in polib.pofile(str(path)) if not e.obsolete]
        ours = [m for m in parse(path.read_bytes(), "x").messages if not m.obsolete and not m.is_header]
        assert [(e.msgid, e.msgctxt) for e in theirs] == [(m.msgid, m.context) for m in ours]
        assert [e.fuzzy for e in theirs] == ["fuzzy" in m.flags for m in ours]
        for entry, message in zip(theirs, ours, strict=True):
            forms = [entry.msgstr_plural[i] for i in sorted(entry.msgstr_plural)] or [entry.msgstr]
            assert forms == message.forms


# ---------------------------------------------------------------- real catalogues


@cache
def real_mo_files() -> list[Path]:
    """Some compiled catalogues of this machine's programs and Python packages, in many languages."""
    found = sorted(Path("/usr/share/locale").glob("*/LC_MESSAGES/*.mo"))
    for folder in sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]:
        found += sorted(Path(folder).glob("*/locale/*/LC_MESSAGES/*.mo"))
    small = [path for path in found if path.is_file() and path.stat().st_size < 60_000]
    return random.Random(0).sample(small, k=min(20, len(small)))


@pytest.fixture(params=range(20))
def real_mo(request) -> Path:
    paths = real_mo_files()
    if request.param >= len(paths):
        pytest.skip("this machine has no more .mo files")
    return paths[request.param]


def test_a_real_mo_file_reads_as_the_standard_library_reads_it(real_mo):
    with real_mo.open("rb") as file:
        catalogue: dict[str | tuple[str, int], str] = vars(stdlib.GNUTranslations(file))["_catalog"]
    texts = [(key.rpartition("\x04")[2], text) for key, text in catalogue.items() if isinstance(key, str)]
    plain = {(key, text) for key, text in texts if key and text}
    plural = {text for key, text in catalogue.items() if isinstance(key, tuple)}
    ours = set(pairs(real_mo))
    assert plain <= ours
    assert {target for _, target in ours - plain} <= plural


@pytest.mark.skipif(shutil.which("msgunfmt") is None, reason="GNU gettext's msgunfmt is not installed")
def test_a_real_catalogue_half_emptied_is_filled_again(real_mo):
    done = subprocess.run(["msgunfmt", "--no-wrap", str(real_mo)], capture_output=True)
    if done.returncode:
        pytest.skip(f"msgunfmt does not read it: {done.stderr.decode()[:80]}")
    whole = parse(done.stdout, "whole")
    answers: dict[str, str] = {}
    lines = list(whole.lines)
    for message in whole.messages[1::2]:
        (place, *more), core = message.places, message.msgid.strip()
        if message.plural is None and not more and place == message.last and core not in answers and core:
            answers[core] = message.forms[0]
            lines[place.line] = b'msgstr ""\n'
    filled = fill(b"".join(lines), lambda texts: [answers[text] for text in texts])
    assert answers or len(whole.messages) < 3
    assert pairs_of(filled.replace(b"#, fuzzy\n", b"")) == pairs_of(done.stdout)
    assert filled.count(b"#, fuzzy\n") == len(answers)


def pairs_of(content: bytes) -> list[tuple[str, list[str]]]:
    """Outer spaces apart, which `fill` takes from the msgid and not from the answer."""
    return [(m.msgid, [form.strip() for form in m.forms]) for m in parse(content, "x").messages]
