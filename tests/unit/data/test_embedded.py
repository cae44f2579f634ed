"""The embedded sets: the reader, the record of what they hold, and the NOTICE must agree."""

import hashlib
import lzma
import unicodedata
from importlib import resources

import pytest

from jogak.data import embedded
from jogak.data.builders._clean import clean, placeholders
from jogak.data.builders.gettext import DEFAULT
from jogak.data.embedded import embedded_names, escape, read_embedded, read_origins, records, unescape
from jogak.errors import UserError

SETS = ("de-en", "fr-en", "ko-en")
FOLDER = resources.files("jogak.data.embedded")


def notice() -> str:
    return (FOLDER / "NOTICE").read_text(encoding="utf-8")


def test_the_sets_are_there_in_both_directions():
    assert embedded_names() == ["de-en", "en-de", "en-fr", "en-ko", "fr-en", "ko-en"]


@pytest.mark.parametrize("name", SETS)
def test_reader_record_and_notice_agree(name):
    record = records()[name]
    text = lzma.decompress((FOLDER / f"{name}.tsv.xz").read_bytes())
    rows = list(read_origins(name))
    assert hashlib.sha256(text).hexdigest() == record["sha256"]
    assert len(rows) == len(set(rows)) == record["pairs"] == sum(p["pairs"] for p in record["packages"])
    assert f"{name}: {record['pairs']} pairs, SHA-256 of the text {record['sha256']}\n" in notice()
    for package in record["packages"]:
        assert sum(row[2] == package["name"] for row in rows) == package["pairs"]
        assert f"\n{package['name']} {package['version']}\n{package['licence']}; " in notice()
        assert f"{package['pairs']} pairs in {name}" in notice()


@pytest.mark.parametrize("name", SETS)
def test_only_permissive_licences(name):
    for package in records()[name]["packages"]:
        assert package["licence"].startswith(("BSD", "MIT", "MPL-2.0"))
        named = package["spec"].split("=")[0]
        assert named in [spec.format(name.split("-")[0]) for spec in DEFAULT]


def test_the_notice_carries_what_the_licences_ask_for():
    text = " ".join(notice().split())
    assert text.count("Redistributions of source code must retain the above copyright notice") == 6
    assert text.count("The above copyright notice and this permission notice shall be included") == 2
    assert text.count("https://mozilla.org/MPL/2.0/") == 3
    assert text.count("are given here in Source Code Form") == 3
    for holder in ("Django Software Foundation", "Sphinx team", "Torchbox", "Raymond Penners", "Encode OSS",
                   "WTForms", "Jason Moiron", "Alex Gaynor", "LibreOffice contributors"):  # fmt: skip
        assert holder in text


@pytest.mark.parametrize("name", SETS)
def test_every_pair_is_clean_and_in_its_columns(name):
    language = name.split("-")[0]
    for source, target in read_embedded(name):
        assert clean(source, target, (language, "en")) == (source, target)
        assert unicodedata.is_normalized("NFC", source + target)
        assert placeholders(source) == placeholders(target)
    if language == "ko":
        assert not any("가" <= sign <= "힣" for _, target in read_embedded(name) for sign in target)


def test_the_other_direction_is_swapped():
    assert [(b, a) for a, b in read_embedded("en-ko")] == list(read_embedded("ko-en"))
    assert ("적용", "Apply") in set(read_embedded("ko-en"))


def test_unknown_and_damaged_sets_are_one_sentence(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="no embedded data called 'ko-em'; did you mean 'ko-en'"):
        read_embedded("ko-em")
    whole = (FOLDER / "ko-en.tsv.xz").read_bytes()
    monkeypatch.setattr(embedded.resources, "files", lambda _: tmp_path)
    (tmp_path / "sources.json").write_text('{"ko-en": {}}')
    for damaged in (whole[:5000], b"", b"plain", lzma.compress(b"one column\n")):
        (tmp_path / "ko-en.tsv.xz").write_bytes(damaged)
        with pytest.raises(UserError, match="embedded:ko-en: damaged"):
            list(read_embedded("ko-en"))


@pytest.mark.parametrize("text", ["", "plain", "a\nb", "a\\nb", "\\", "\\\\n\t\n", "\t", "한\\t글\n"])
def test_escaping_is_undone(text):
    assert unescape(escape(text)) == text
    assert not {"\n", "\t"} & set(escape(text))
