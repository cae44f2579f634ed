"""The builders on small packages and lists of our own; scripts play pip, apt-get and dpkg-deb."""

import json
import os
import pty
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from jogak.data import builders
from jogak.data.builders import _packages
from jogak.data.builders._clean import (
    accelerator_marks,
    clean,
    has_words,
    placeholders,
    strip_accelerators,
    tidy,
)
from jogak.data.builders._corpus import Corpus, parse_languages
from jogak.data.builders._unwrap import Spacing, join
from jogak.data.builders.debian_descriptions import read, sentences
from jogak.data.builders.gettext import catalogues
from jogak.errors import UserError

HEADER = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n'


def po(**entries: str) -> str:
    return HEADER + "\n".join(f'msgid "{key}"\nmsgstr "{text}"\n' for key, text in entries.items())


def rows(path: Path) -> list[tuple[str, str, str]]:
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(list(row) == ["source", "target", "origin"] for row in found)
    return [(row["source"], row["target"], row["origin"]) for row in found]


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


# ---------------------------------------------------------------- cleaning


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("파일 %d개", "%d files", ("파일 %d개", "%d files")),
        ("\u1112\u1161\u11ab글 ", " Korean\r\n", ("한글", "Korean")),
        ("한\u00ad글\u200b", "Kor\u00adean", ("한글", "Korean")),
        ("%2$s 안의 %1$s", "%1$s in %2$s", ("%2$s 안의 %1$s", "%1$s in %2$s")),
        ("", "a", "empty"),
        ("가\x95", "a", "control characters"),
        ("홍길동 <hong@example.org>", "translator-credits", "translators' names"),
        ("50%", "50%", "no letters"),
        ("<br/>%s", "<br/>%s", "no letters"),
        ("OK", "OK", "no Hangul"),
        ("파일 %d개", "%s files", "placeholders differ"),
        ("{name} 님", "Dear {nome}", "placeholders differ"),
        ("가", "a" * 40, "lengths differ absurdly"),
    ],
)
def test_cleaning_of_one_pair(source, target, expected):
    assert clean(source, target, ("ko", "en")) == expected
    swapped = expected if isinstance(expected, str) else expected[::-1]
    assert clean(target, source, ("en", "ko")) == swapped


def test_identical_sides_count_as_a_translation_only_where_they_are_short():
    assert clean("Name", "Name", ("de", "en")) == ("Name", "Name")
    assert clean("This was not translated", "This was not translated", ("de", "en")) == "untranslated"


def test_cleaning_again_changes_nothing():
    pair = clean(" 저장(_S)... ", "_Save...", ("ko", "en"), "_")
    assert pair == ("저장...", "Save...")
    assert clean(*pair, ("ko", "en"), "_") == pair


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("100% done, 5 % of", []),
        ("%(name)s %s %5.2f %1$d %-3d %%d", ["%(name)s", "%s", "%5.2f", "%d", "%-3d"]),
        ("%PRODUCTNAME %1 of %LINK%", ["%PRODUCTNAME", "%1", "%LINK%"]),
        ("{0} {name!r} {x:>4} {}", ["{0}", "{name!r}", "{x:>4}", "{}"]),
        ("${home} $(ARG1) $name$ $x", ["${home}", "$(ARG1)", "$name$", "$x"]),
        ("costs $5 {not one}", []),
    ],
)  # fmt: skip
def test_placeholders(text, found):
    assert sorted(placeholders(text).elements()) == sorted(found)


@pytest.mark.parametrize(
    ("text", "marks", "expected"),
    [
        ("추가(_A)", "", "추가"),
        ("저장 (&S)...", "", "저장..."),
        ("~Report name", "", "Report name"),
        ("_File", "_", "File"),
        ("E_xit", "_", "Exit"),
        ("Save ~As", "~", "Save As"),
        ("For~mat", "_~", "Format"),
        ("_3D", "_", "3D"),
        ("file_name", "", "file_name"),
        ("_underline_", "_", "_underline_"),
        ('the "_templates" folder', "_", 'the "_templates" folder'),
        ("%(file_name)s _Open", "_", "%(file_name)s Open"),
        ("AT&T", "", "AT&T"),
        ("Q & A &lt;b", "&", "Q & A &lt;b"),
        ("&Save", "&", "Save"),
        ("1~30 or 2~n", "~", "1~30 or 2~n"),
    ],
)
def test_accelerators(text, marks, expected):
    assert strip_accelerators(text, marks) == expected


def test_a_catalogue_shows_which_marks_it_uses():
    menus = [("_File", "파일(_F)"), ("_Edit", "편집(_E)"), ("E_xit", "끝내기(_X)"), ("Name", "이름")]
    assert accelerator_marks(menus) == "_"
    names = [
        ("set epub_author", "epub_author 설정"),
        ("see _static", "_static 보기"),
        ("no html_dir", "html_dir 없음"),
    ]
    assert accelerator_marks(names * 3 + [("in %(a_b)s", "%(a_b)s 안")]) == ""
    assert accelerator_marks([("&Open", "&Öffnen"), ("Sa&ve", "&Sichern"), ("&Quit", "&Beenden")]) == "&"


def test_markup_alone_is_no_text():
    assert not has_words("<b>%s</b>&nbsp;{0}")
    assert has_words("<none>")
    assert tidy("e\u0301\r\n") == "é"


@pytest.mark.parametrize("bad", ["ko", "ko-de", "en-en", "korean-en", "ko_en", "../en", ""])
def test_language_pairs_are_checked(bad, tmp_path):
    with pytest.raises(UserError, match="write two codes of which one is en"):
        parse_languages(bad)
    for name in builders.names():
        with pytest.raises(UserError, match="write two codes"):
            builders.find(name).build(tmp_path, bad)


# ---------------------------------------------------------------- the registry


def test_builders_are_found_by_file_name():
    assert builders.names() == ["debian-descriptions", "gettext"]
    assert builders.summary("gettext").startswith("Translation pairs from the gettext catalogues")
    with pytest.raises(UserError, match="no data set called 'getext'; did you mean 'gettext'"):
        builders.find("getext")


# ---------------------------------------------------------------- gettext from folders


def test_a_folder_of_catalogues(tmp_path):
    project = plant(
        tmp_path / "my-project",
        {
            "locale/ko/LC_MESSAGES/app.po": po(Open="열기", Close="닫기", One="1"),
            "locale/de/LC_MESSAGES/app.po": po(Open="Öffnen"),
            "po/ko.po": po(Open="열기", Save="저장"),
            "po/ko_old.po": po(Old="옛것"),
            "web/ko_KR/LC_MESSAGES/x.po": po(Page="쪽"),
            "bad/ko.po": HEADER + 'msgid "broken\n',
            "docs/korean.po": po(No="아니오"),
        },
    )
    path = builders.find("gettext").build(tmp_path / "out", "ko-en", [f"{project}/"])
    assert path == tmp_path / "out" / "gettext-ko-en.jsonl"
    assert rows(path) == [
        ("열기", "Open", "my-project:locale/ko/LC_MESSAGES/app.po:4"),
        ("닫기", "Close", "my-project:locale/ko/LC_MESSAGES/app.po:7"),
        ("저장", "Save", "my-project:po/ko.po:7"),
        ("쪽", "Page", "my-project:web/ko_KR/LC_MESSAGES/x.po:4"),
    ]
    notice = (tmp_path / "out" / "gettext-ko-en.NOTICE").read_text(encoding="utf-8")
    assert "my-project: 4 pairs, " in notice
    assert "1 duplicates, 1 no letters" in notice or "1 no letters, 1 duplicates" in notice
    assert "my-project:bad/ko.po:4: a string without its closing quote" in notice

    swapped = builders.find("gettext").build(tmp_path / "out", "en-ko", [f"{project}/"])
    assert [(b, a) for a, b, _ in rows(swapped)] == [(a, b) for a, b, _ in rows(path)]


def test_the_same_packages_give_the_same_bytes(tmp_path):
    files = {f"p/{i}/ko/LC_MESSAGES/{i}.po": po(**{f"word {i} {k}": f"말{k}" for k in range(3)}) for i in range(9)}
    built = []
    for name in ("first", "second"):
        root = plant(tmp_path / name / "tree", dict(reversed(files.items()) if built else files.items()))
        built.append(builders.find("gettext").build(tmp_path / name, "ko-en", [f"{root}/"]).read_bytes())
    assert built[0] == built[1]
    assert built[0].count(b"\n") == 27


def test_which_catalogues_belong_to_a_language(tmp_path):
    names = ["a/ko/LC_MESSAGES/x.mo", "a/ko/LC_MESSAGES/x.po", "a/ko_KR/LC_MESSAGES/x.mo", "b/ko.UTF-8/x.mo"]
    names += ["c/ko@hanja/LC_MESSAGES/x.mo", "d/kok/LC_MESSAGES/x.mo", "e/ko/readme.txt", "f/ko/x.mo"]
    plant(tmp_path, dict.fromkeys(names, ""))
    found = [path.relative_to(tmp_path).as_posix() for path in catalogues(tmp_path, "ko")]
    assert found == [names[1], names[3], names[4], names[7]]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("./nowhere", "there is no such folder"),
        ("-e", "is not a package"),
        ("a b", "is not a package"),
        ("deb:Upper", "is not a package"),
        ("https://example.org/x.whl", "there is no such folder"),
    ],
)
def test_bad_package_names_are_refused_before_anything_is_fetched(tmp_path, spec, message, monkeypatch):
    monkeypatch.setattr(_packages, "run", lambda *_: pytest.fail("something was fetched"))
    with pytest.raises(UserError, match=message):
        builders.find("gettext").build(tmp_path, "ko-en", ["Django", spec])


def test_packages_without_a_pair_are_an_error(tmp_path):
    project = plant(tmp_path / "p", {"ko.po": po(a="1")})
    with pytest.raises(UserError, match=r"no ko-en pairs were found \(left out: 1 no letters\)"):
        builders.find("gettext").build(tmp_path / "out", "ko-en", [f"{project}/"])
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- progress


def test_progress_is_plain_lines_on_standard_error_where_that_is_no_terminal(tmp_path, capfd):
    trees = [plant(tmp_path / name, {"ko.po": po(Open="열기", **{name: "가"})}) for name in ("one", "two")]
    builders.find("gettext").build(tmp_path / "out", "ko-en", [f"{tree}/" for tree in trees])
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err == f"1/2 {trees[0]}/\n2/2 {trees[1]}/\n"


def test_the_command_prints_the_path_alone_even_beside_a_terminal(tmp_path):
    tree = plant(tmp_path / "tree", {"ko.po": po(Open="열기")})
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "jogak", "data", "gettext", f"packages={tree}/", "-o", str(tmp_path / "out")]
    source = str(Path(builders.__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": source, "TERM": "xterm"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    drawn = b""
    while True:
        try:
            drawn += os.read(ours, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
    os.close(ours)
    assert done.stdout.decode() == f"{tmp_path / 'out' / 'gettext-ko-en.jsonl'}\n"
    assert "100%" in drawn.decode() or "0%" in drawn.decode()


# ---------------------------------------------------------------- package clients


def script(path: Path, body: str) -> None:
    path.write_text(f"#!{sys.executable} -IS\nimport pathlib, shutil, sys, tarfile\nargs = sys.argv[1:]\n{body}")
    path.chmod(0o755)


@pytest.fixture
def clients(tmp_path, monkeypatch) -> Path:
    """pip, apt-get and dpkg-deb that serve what lies in the folder `shelf`, and log how they were called."""
    shelf, binaries = tmp_path / "shelf", tmp_path / "bin"
    shelf.mkdir()
    binaries.mkdir()
    log = f"shelf = pathlib.Path({str(shelf)!r})\nopen(shelf / 'log', 'a').write(' '.join(args) + '\\n')\n"
    script(
        binaries / "apt-get",
        log
        + "lists = next(a.split('=')[1] for a in args if a.startswith('Dir::State::Lists='))\n"
        + "if 'update' in args:\n"
        + "    [shutil.copy(p, lists) for p in shelf.glob('*_Translation-*')]\n"
        + "else:\n"
        + "    name = args[-1].split('=')[0]\n"
        + "    found = list(shelf.glob(name + '_*.deb')) or sys.exit('E: Unable to locate package ' + name)\n"
        + "    shutil.copy(found[0], '.')\n",
    )
    script(
        binaries / "dpkg-deb",
        "if args[0] == '-f':\n    print('1.2-3')\n"
        "else:\n    tarfile.open(args[1]).extractall(args[2], filter='data')\n",
    )
    script(
        binaries / "python",
        log
        + "assert args[:3] == ['-m', 'pip', 'download'] and '--no-deps' in args\n"
        + "found = list(shelf.glob(args[-1].split('=')[0] + '-*.whl'))\n"
        + "found or sys.exit('ERROR: No matching distribution')\n"
        + "shutil.copy(found[0], args[args.index('--dest') + 1])\n",
    )
    monkeypatch.setenv("PATH", str(binaries))
    monkeypatch.setattr(sys, "executable", str(binaries / "python"))
    monkeypatch.setattr(_packages, "find_spec", lambda name: name)
    return shelf


def make_wheel(shelf: Path, name: str, metadata: str, files: dict[str, str]) -> None:
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(shelf / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Name: {name}\nVersion: 1.0\n{metadata}\n")
        wheel.writestr(f"{info}/licenses/LICENSE", "Copyright (c) 2020 Kim\n\nDo as you like.\n")
        for path, text in files.items():
            wheel.writestr(path, text)


def make_deb(shelf: Path, name: str, files: dict[str, str]) -> None:
    plant(shelf / name, files)
    with tarfile.open(shelf / f"{name}_1.2-3_all.deb", "w") as archive:
        archive.add(shelf / name, arcname=".")


DEP5 = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2001 Lee
           2002 Park
License: MPL-2.0

Files: debian/*
Copyright: 2003 Choi
License: GPL-2
"""


def test_packages_of_both_kinds(clients, tmp_path):
    make_wheel(
        clients,
        "greet",
        "License-Expression: MIT",
        {"greet/locale/ko/LC_MESSAGES/g.po": po(Hello="안녕하세요")},
    )
    files = {"usr/share/locale/ko/LC_MESSAGES/e.po": po(Hello="안녕하세요", Undo="되돌리기")}
    make_deb(clients, "editor-l10n", {**files, "usr/share/doc/editor-l10n/copyright": DEP5})
    out = tmp_path / "out"
    path = builders.find("gettext").build(out, "ko-en", ["greet==1.0", "deb:editor-l10n=1.2-3"])
    assert rows(path) == [
        ("안녕하세요", "Hello", "greet:greet/locale/ko/LC_MESSAGES/g.po:4"),
        ("되돌리기", "Undo", "editor-l10n:usr/share/locale/ko/LC_MESSAGES/e.po:7"),
    ]
    notice = (out / "gettext-ko-en.NOTICE").read_text(encoding="utf-8")
    assert "greet 1.0: 1 pairs, MIT\n    Copyright (c) 2020 Kim\n" in notice
    assert "editor-l10n 1.2-3: 1 pairs, MPL-2.0\n    2001 Lee\n    2002 Park\n" in notice
    assert (out / "licences" / "greet.txt").read_text() == "Copyright (c) 2020 Kim\n\nDo as you like.\n"
    assert (out / "licences" / "editor-l10n.txt").read_text() == DEP5
    log = (clients / "log").read_text()
    assert "greet==1.0" in log
    assert "download editor-l10n=1.2-3" in log
    assert f"Dir::State::Lists={out}/downloads/debian/lists" in log


def test_the_default_packages_are_all_asked_for(clients, tmp_path):
    wheels = [
        "Django",
        "Sphinx",
        "wagtail",
        "django-allauth",
        "djangorestframework",
        "WTForms",
        "humanize",
        "django-filter",
    ]
    debs = [
        "libreoffice-l10n-de",
        "gimp-data",
        "krita-l10n",
        "evolution-common",
        "digikam-data",
        "libgtk-3-common",
        "git",
    ]
    debs += ["gnome-control-center-data", "vim-runtime", "coreutils", "libc-l10n"]
    for name in wheels:
        files = {f"{name}/locale/de/LC_MESSAGES/x.po": po(Name=f"Name von {name}")}
        make_wheel(clients, name, "License: BSD", files)
    for name in debs:
        make_deb(clients, name, {"usr/share/locale/de/LC_MESSAGES/x.po": po(Name=f"Name von {name}")})
    path = builders.find("gettext").build(tmp_path / "out", "de-en")
    assert len(rows(path)) == 19
    notice = (tmp_path / "out" / "gettext-de-en.NOTICE").read_text()
    assert "git 1.2-3: 1 pairs, licence: see the package's source" in notice


def test_what_the_clients_refuse_is_one_sentence(clients, tmp_path):
    build = builders.find("gettext").build
    with pytest.raises(UserError, match=r"pip download .*nothing.* failed: ERROR: No matching distribution"):
        build(tmp_path / "out", "ko-en", ["nothing"])
    with pytest.raises(UserError, match=r"apt-get download nothing failed: E: Unable to locate package nothing"):
        build(tmp_path / "out", "ko-en", ["deb:nothing"])


def test_missing_clients_are_named(clients, tmp_path, monkeypatch):
    monkeypatch.setattr(_packages, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip is not in this Python; install it with: python -m ensurepip"):
        builders.find("gettext").build(tmp_path, "ko-en", ["Django"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get is not on this machine; build on Debian") as caught:
        builders.find("debian-descriptions").build(tmp_path, "ko-en")
    assert caught.value.exit_code == 2
    with pytest.raises(UserError, match="apt-get is not on this machine"):
        builders.find("gettext").build(tmp_path, "ko-en", ["Django", "deb:git"])


def test_the_recorded_packages_stand_for_the_word_embedded(clients, tmp_path):
    with pytest.raises(UserError, match="failed: ERROR"):
        builders.find("gettext").build(tmp_path / "out", "ko-en", ["embedded"])
    assert "Django==" in (clients / "log").read_text()
    with pytest.raises(UserError, match="no embedded data called 'ja-en'"):
        builders.find("gettext").build(tmp_path / "out", "ja-en", ["embedded"])


def test_unpacking_never_leaves_its_folder(tmp_path):
    evil = tmp_path / "evil.tar"
    with tarfile.open(evil, "w") as archive:
        archive.add(__file__, arcname="../outside.py")
    with pytest.raises(UserError, match=r"evil\.tar: damaged"):
        _packages.unpack(evil, tmp_path / "in")
    assert not (tmp_path / "outside.py").exists()


# ---------------------------------------------------------------- debian-descriptions

ENGLISH = """\
Package: chess3d
Description-md5: aaa
Description-en: Play chess across 3 boards!
 There are three boards, stacked
 vertically. You need i.e. three boards.
 .
 Features:
  * many
    pieces
  * one board
 .
 The end. Dr. No wins.

Package: other
Description-md5: bbb
Description-en: another package
 Its body.

Package: unknown
Description-md5: ccc
Description-en: never translated
"""
KOREAN = """\
Package: chess3d
Description-md5: aaa
Description-ko: 3개의 보드에서 체스를!
 수직으로 쌓인 보드가
 셋 있습니다. 보드 셋이 필요합니다.
 .
 기능:
  * 많은
    말
  * 보드 하나
 .
 끝입니다.

Package: other
Description-md5: bbb
Description-ko: 다른 꾸러미
 첫 문단.
 .
 둘째 문단.

Package: gone
Description-md5: ddd
Description-ko: 영어가 없음
"""


def test_descriptions_are_joined_block_by_block_and_sentence_by_sentence(clients, tmp_path):
    plant(clients, {"d_main_i18n_Translation-en": ENGLISH, "d_main_i18n_Translation-ko": KOREAN})
    path = builders.find("debian-descriptions").build(tmp_path / "out", "ko-en")
    assert path.name == "debian-descriptions-ko-en.jsonl"
    assert [(source, target) for source, target, _ in rows(path)] == [
        ("3개의 보드에서 체스를!", "Play chess across 3 boards!"),
        ("수직으로 쌓인 보드가 셋 있습니다.", "There are three boards, stacked vertically."),
        ("보드 셋이 필요합니다.", "You need i.e. three boards."),
        ("기능:", "Features:"),
        ("많은 말", "many pieces"),
        ("보드 하나", "one board"),
        ("끝입니다.", "The end. Dr. No wins."),
        ("다른 꾸러미", "another package"),
    ]
    assert {origin for _, _, origin in rows(path)} == {
        "debian-descriptions:chess3d",
        "debian-descriptions:other",
    }
    notice = (tmp_path / "out" / "debian-descriptions-ko-en.NOTICE").read_text()
    assert "1 descriptions without their English" in notice
    assert "Acquire::Languages=ko,en" in (clients / "log").read_text()


def test_descriptions_that_cannot_be_built(clients, tmp_path):
    build = builders.find("debian-descriptions").build
    with pytest.raises(UserError, match="takes all packages; leave out git"):
        build(tmp_path / "out", "ko-en", ["git"])
    with pytest.raises(UserError, match="no package descriptions in 'ko'"):
        build(tmp_path / "out", "ko-en")


def test_a_damaged_list_is_named_with_its_line(tmp_path):
    path = tmp_path / "x_Translation-ko"
    path.write_bytes(b"Package: a\nDescription-md5: b\nDescription-ko: \xff\n")
    with pytest.raises(UserError, match="x_Translation-ko:3: not UTF-8"):
        list(read(path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four.", ["One.", "Two!", "Three?", "Four."]),
        ("Files, e.g. This one, in B. C. times.", ["Files, e.g. This one, in B. C. times."]),
        ("version 1.2. has it. see", ["version 1.2. has it. see"]),
        ("첫째입니다. 둘째입니다.", ["첫째입니다.", "둘째입니다."]),
        ("Er sagt z.B. Das. Über alles.", ["Er sagt z.B. Das.", "Über alles."]),
    ],
)
def test_sentences(text, expected):
    assert sentences(text) == expected


def test_korean_lines_broken_inside_words_are_joined_again():
    corpus = ["고대 전쟁 게임은 실시간 전략 게임 엔진을 씁니다", "새 전쟁 게임의 게임 엔진은 빠릅니다"] * 5
    spacing = Spacing(corpus)
    full = "가나다 " * 9 + "라마바사"  # 71 columns
    assert join([f"{full} 전", "쟁 게임입니다"], spacing).endswith(" 전쟁 게임입니다")
    assert join([f"{full}게임", "엔진을 씁니다"], spacing).endswith("게임 엔진을 씁니다")
    assert join(["짧은 줄 전", "쟁 게임"], spacing) == "짧은 줄 전 쟁 게임"
    assert join(["one", "two"], spacing) == "one two"


def test_of_two_equal_pairs_the_first_stays():
    corpus = Corpus(("ko", "en"))
    corpus.add("Open", "열기", "a:1")
    corpus.add("_Open", "열기(_O)", "b:1", "_")
    assert corpus.rows == {("열기", "Open"): "a:1"}
    assert corpus.left_out == {"duplicates": 1}
    assert corpus.counts() == {"a": 1}
