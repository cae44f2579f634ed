"""Every kind of source gives the same rows, streams, and names file and line of whatever is wrong."""

import csv
import gzip
import io
import json
import lzma
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from jogak.data import _lines, sources
from jogak.data.sources import read_rows, read_texts
from jogak.errors import UserError

PAIRS = [
    ("파일을 저장했습니다", "The file was saved"),
    ("“따옴표”, 쉼표", 'a "quote", a comma'),
    ("👩‍👩‍👧 줄\u2028구분", "family\x85line"),
]
JSONL = "".join(json.dumps({"source": s, "target": t}, ensure_ascii=False) + "\n" for s, t in PAIRS)
TSV = "source\ttarget\n" + "".join(f"{s}\t{t}\n" for s, t in PAIRS)
PO = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n'


def as_csv(rows: Sequence[Sequence[str]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([("source", "target"), *rows])
    return out.getvalue()


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes({".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)(raw))
    return path


def put_parquet(path: Path, columns: dict[str, list[object]], **options: object) -> Path:
    parquet.write_table(pa.table(columns), path, **options)
    return path


def pairs(*specs: object, source: str = "source", target: str = "target") -> list[tuple[str, str]]:
    return [(row.source, row.target) for row in read_rows([str(spec) for spec in specs], source, target)]


def refusal(*specs: object, source: str = "source", target: str = "target") -> str:
    with pytest.raises(UserError) as caught:
        pairs(*specs, source=source, target=target)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- what can be read


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.ndjson", "a.csv", "a.tsv", "A.TSV", "b.jsonl.gz", "b.csv.xz", "b.tsv.gz"]
)
def test_each_kind_of_file_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    kinds = {"jsonl": JSONL, "ndjson": JSONL, "csv": as_csv(PAIRS), "tsv": TSV}
    path = put(tmp_path / name, kinds[name.split(".")[1].lower()])
    rows = list(read_rows([str(path)], "source", "target"))
    assert [(row.source, row.target) for row in rows] == PAIRS
    first = 1 if "json" in name else 2
    assert [row.where for row in rows] == [f"{path}:{first + n}" for n in range(3)]


def test_parquet(tmp_path: Path) -> None:
    many = [(f"말 {n}", f"word {n}") for n in range(2500)]  # more than are read at a time
    columns: dict[str, list[object]] = {
        "target": [t for _, t in many],
        "source": [s for s, _ in many],
        "size": [*range(2500)],
    }
    path = put_parquet(tmp_path / "a.parquet", columns, row_group_size=700)
    assert pairs(path) == many
    rows = list(read_rows([str(path)], "source", "target"))
    assert rows[2400].where == f"{path}: row 2401"
    nested: dict[str, list[object]] = {"translation": [{"ko": s, "en": t} for s, t in PAIRS], "x.y": ["a", "b", "c"]}
    path = put_parquet(tmp_path / "b.parquet", nested)
    assert pairs(path, source="translation.ko", target="translation.en") == PAIRS
    assert [s for s, _ in pairs(path, source="x.y", target="translation.en")] == ["a", "b", "c"]


@pytest.mark.parametrize("ending", ["", ".gz", ".xz"])
def test_two_parallel_files(ending: str, tmp_path: Path) -> None:
    left = put(tmp_path / f"train.ko{ending}", "하나\n\n셋\n")
    right = put(tmp_path / f"train.en{ending}", "one\r\n\r\nthree")
    rows = list(read_rows([f"{left},{right}"], "source", "target"))
    assert [(row.source, row.target, row.where) for row in rows] == [
        ("하나", "one", f"{left}:1"),
        ("셋", "three", f"{left}:3"),
    ]
    assert pairs(f"{left}, {right}", source="en", target="ko") == [("one", "하나"), ("three", "셋")]


def test_parallel_files_without_telling_names_are_source_and_target(tmp_path: Path) -> None:
    left, right = put(tmp_path / "left.txt", "가\n"), put(tmp_path / "right.txt", "a\n")
    assert pairs(f"{left},{right}") == [("가", "a")]


def test_a_comma_in_the_name_of_a_file_is_only_that(tmp_path: Path) -> None:
    assert pairs(put(tmp_path / "a,b.tsv", TSV)) == PAIRS


@pytest.mark.parametrize(("source", "target"), [("ko", "en"), ("msgstr", "msgid")])
@pytest.mark.parametrize("name", ["ko.po", "ko/LC_MESSAGES/app.po", "ko/app.po", "ko_KR.po"])
def test_gettext_catalogues_know_their_language(name: str, source: str, target: str, tmp_path: Path) -> None:
    text = PO + 'msgid "Open"\nmsgstr "열기"\n\nmsgid "Untranslated"\nmsgstr ""\n'
    path = put(tmp_path / name, text)
    assert pairs(path, source=source, target=target) == [("열기", "Open")]


def test_embedded_sets_in_both_directions() -> None:
    forth, back = pairs("embedded:ko-en"), pairs("embedded:en-ko", source="en", target="ko")
    assert ("적용", "Apply") in forth
    assert [(b, a) for a, b in back] == forth
    first = next(read_rows(["embedded:ko-en"], "ko", "en"))
    assert first.where == "embedded:ko-en:1"


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    put(tmp_path / "b/second.tsv", "source\ttarget\n2\ttwo\n")
    put(tmp_path / "a/first.jsonl.gz", '{"source": "1", "target": "one"}\n')
    put(tmp_path / "c.csv", as_csv([("3", "three")]))
    put(tmp_path / "README.md", "not data")
    assert pairs(tmp_path) == [("3", "three"), ("1", "one"), ("2", "two")]
    assert pairs(tmp_path / "*" / "*.*") == [("1", "one"), ("2", "two")]
    assert pairs(f"{tmp_path}/**/*.tsv") == [("2", "two")]
    assert pairs(tmp_path / "[ab]") == [("1", "one"), ("2", "two")]  # a pattern may name folders


def test_a_folder_of_catalogues_gives_the_wanted_language_once(tmp_path: Path) -> None:
    for language, word in (("ko", "열기"), ("de", "Öffnen")):
        folder = tmp_path / "locale" / language / "LC_MESSAGES"
        path = put(folder / "app.po", PO + f'msgid "Open"\nmsgstr "{word}"\n')
        subprocess.run(["msgfmt", "-o", str(folder / "app.mo"), str(path)], check=True)
    assert pairs(tmp_path, source="ko", target="en") == [("열기", "Open")]
    assert pairs(tmp_path, source="en", target="de") == [("Open", "Öffnen")]


def test_several_sources_are_read_one_after_the_other(tmp_path: Path) -> None:
    one, two = put(tmp_path / "1.tsv", "source\ttarget\nㄱ\tg\n"), put(tmp_path / "2.jsonl", JSONL)
    assert pairs(two, one, two) == [*PAIRS, ("ㄱ", "g"), *PAIRS]


def test_texts_of_one_field(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt", "첫 줄\n\n  둘째 줄\n")
    assert list(read_texts([str(path)])) == [("첫 줄", f"{path}:1"), ("  둘째 줄", f"{path}:3")]
    assert [text for text, _ in read_texts([str(put(tmp_path / "a.tsv", TSV))], "target")] == [t for _, t in PAIRS]


# Letters of every kind; a lone "\r" or a leading byte order mark belongs to the file's form, not to its text.
words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\n\t\ufeff"), max_size=20)
filled = words.filter(str.strip)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(filled, filled), min_size=1, max_size=5))
def test_whatever_is_written_is_read(rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("written")
    lines = "".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in rows)
    assert pairs(put(folder / "a.jsonl", lines)) == rows
    assert pairs(put(folder / "a.csv", as_csv(rows))) == rows
    assert pairs(put(folder / "a.tsv", "source\ttarget\n" + "".join(f"{s}\t{t}\n" for s, t in rows))) == rows
    columns: dict[str, list[object]] = {"source": [s for s, _ in rows], "target": [t for _, t in rows]}
    assert pairs(put_parquet(folder / "a.parquet", columns)) == rows


def test_a_byte_order_mark_blank_lines_and_any_line_ending(tmp_path: Path) -> None:
    for eol in ("\n", "\r\n"):
        assert pairs(put(tmp_path / "a.tsv", f"\ufeff{eol}source\ttarget{eol}{eol}가\tb{eol}")) == [("가", "b")]
        assert pairs(put(tmp_path / "a.csv", f"\ufeff\nsource,target{eol}{eol}가,b")) == [("가", "b")]
        assert pairs(put(tmp_path / "a.jsonl", f'\ufeff{eol}{{"source": "가", "target": "b"}}{eol}  {eol}')) == [
            ("가", "b")
        ]


def test_a_quoted_csv_field_may_hold_lines_and_rows_are_named_by_where_they_begin(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", as_csv([("두\n줄", "two\nlines"), ("하나", "one")]))
    rows = list(read_rows([str(path)], "source", "target"))
    assert [(row.source, row.target) for row in rows] == [("두\n줄", "two\nlines"), ("하나", "one")]
    assert [row.where for row in rows] == [f"{path}:2", f"{path}:5"]


# ---------------------------------------------------------------- what is refused, and where


ROW = '{"source": "가", "target": "a"}\n'


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", ROW + '{"source": "나", "tarket": "b"}\n', "{0}:2: no field 'target' here; did you mean 'tarket'?"),
        ("a.jsonl", ROW + "{}\n", "{0}:2: no field 'source' here (fields: none)"),
        (
            "a.jsonl",
            ROW * 2 + '{"source": null, "target": "b"}\n',
            "{0}:3: field 'source' holds nothing (null), not text",
        ),
        ("a.jsonl", '{"source": "나", "target": 7}\n', "{0}:1: field 'target' holds the int 7, not text"),
        ("a.jsonl", '{"source": true, "target": ""}\n', "{0}:1: field 'source' holds true or false, not text"),
        ("a.jsonl", '{"source": ["나"], "target": ""}\n', "{0}:1: field 'source' holds a list, not text"),
        ("a.jsonl", '{"source": {"ko": "나"}, "target": ""}\n', "{0}:1: field 'source' holds a mapping, not text"),
        (
            "a.jsonl",
            ROW + '\n{"source": "나", "target": " \\t"}\n',
            "{0}:3: field 'target' is empty; fill it or remove the row",
        ),
        ("a.jsonl", ROW + '{"source": "나\\ud83d", "target": "b"}\n', "{0}:2: field 'source' holds \\ud83d, half a"),
        ("a.jsonl", ROW + '{"source": "나", \n', "{0}:2: not valid JSON ("),
        ("a.jsonl", ROW + '["나", "b"]\n', "{0}:2: each line must be one JSON object, found a list"),
        ("a.jsonl", "[" * 200_000, "{0}:1: not valid JSON ("),
        ("a.jsonl", '{"source": ' + "1" * 5000 + "}", "{0}:1: not valid JSON ("),
        ("a.jsonl", " \n\n", "{0}: holds no rows; fill it or take it out of data.sources"),
        ("a.jsonl", "", "{0}: holds no rows"),
        ("a.csv", "", "{0}: holds no rows"),
        ("a.csv", "source,target\n", "{0}: holds no rows"),
        ("a.csv", "\nsorce,target\n가,a\n", "{0}:2: no column 'source' in the header; did you mean 'sorce'?"),
        ("a.csv", "source,target,target\n가,a,b\n", "{0}:1: 2 columns are called 'target'; rename all but one"),
        ("a.csv", "source,target\n가,a\n나,b,c\n", "{0}:3: 3 values for 2 columns"),
        ("a.csv", 'source,target\n"두\n줄",a\n나,"b\n', "{0}:4: not valid CSV (unexpected end of data)"),
        ("a.csv", 'source,target\n가,"a"b\n', "{0}:2: not valid CSV ("),
        ("a.csv", "source,target\n가,\n", "{0}:2: field 'target' is empty"),
        ("a.tsv", "x\ty\n가\ta\n", "{0}:1: no column 'source' in the header (columns: x, y)"),
        ("a.tsv", "source\ttarget\n가 a\n", "{0}:2: 1 values for 2 columns"),
        ("a.tsv.gz", "source\ttarget\n가\t\n", "{0}:2: field 'target' is empty"),
        ("a.txt", "가\n", "{0}:1: no field 'source' here (fields: text)"),
        ("a.txt", "", "{0}: holds no rows"),
        ("a.docx", "가\n", "{0}: unknown kind of file '.docx'; known: .csv .jsonl"),
        ("a", "가\n", "{0}: unknown kind of file ''"),
        ("a.po", 'msgid "broken\n', "{0}:1: "),
        (
            "a.jsonl",
            ROW.encode() * 2 + '{"source": "café"}\n'.encode("latin-1"),
            "{0}:3: not UTF-8 at byte 81 of the file (bad byte 0xe9)",
        ),
        ("a.tsv", "source\ttarget\n가\ta\n".encode("utf-16"), "{0}:1: not UTF-8 at byte 0 of the file (it is UTF-16)"),
        ("a.txt.xz", "가\n나".encode("cp949"), "{0}:1: not UTF-8 at byte 0"),
        ("a.parquet", "source", "{0}: damaged, or not Parquet ("),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_line(
    name: str, content: str | bytes, told: str, tmp_path: Path
) -> None:
    path = put(tmp_path / name, content)
    assert refusal(path).startswith(told.format(path))


@pytest.mark.parametrize("name", ["none.jsonl", "none.txt", "none", "x" * 5000])
def test_missing_files(name: str, tmp_path: Path) -> None:
    assert refusal(tmp_path / name) == f"{tmp_path / name}: there is no such file or folder; check data.sources"


def test_missing_matches_parts_and_names(tmp_path: Path) -> None:
    assert refusal(tmp_path / "*.jsonl").endswith("*.jsonl: no file matches; check data.sources")
    left = put(tmp_path / "a.ko", "가\n")
    assert refusal(f"{left},{tmp_path / 'a.en'}") == f"{tmp_path / 'a.en'}: there is no such file"
    assert refusal(f"{left},{tmp_path}") == f"{tmp_path}: cannot be read: Is a directory"
    assert refusal("").startswith("a source is empty text")
    assert refusal("embedded:ko-em") == "there is no embedded data called 'ko-em'; did you mean 'ko-en'?"


def test_folders_without_what_is_wanted(tmp_path: Path) -> None:
    put(tmp_path / "README.md", "no data")
    assert refusal(tmp_path).startswith(
        f"{tmp_path}: holds nothing that can be read for source, target (known: .csv, .jsonl, "
    )
    put(tmp_path / "de.po", PO + 'msgid "Open"\nmsgstr "Öffnen"\n')
    assert refusal(tmp_path, source="ko", target="en") == (
        f"{tmp_path}: has no catalogue with the fields ko, en (known: de, en, msgid, msgstr)"
    )


def test_a_catalogue_without_a_translation_holds_no_rows(tmp_path: Path) -> None:
    path = put(tmp_path / "ko.po", PO + 'msgid "Open"\nmsgstr ""\n')
    assert refusal(path, source="ko", target="en").startswith(f"{path}: holds no rows")


@pytest.mark.parametrize("longer", [0, 1])
def test_parallel_files_of_unequal_length(longer: int, tmp_path: Path) -> None:
    files = [
        put(tmp_path / "a.ko", "하나\n둘\n" + "셋\n" * (longer == 0)),
        put(tmp_path / "a.en", "1\n2\n" + "3\n" * longer),
    ]
    told = refusal(f"{files[0]},{files[1]}")
    assert told.startswith(f"{files[longer]}:3: this line has no partner, {files[1 - longer]} ends before it")


def test_a_parallel_line_that_is_empty_on_one_side(tmp_path: Path) -> None:
    left, right = put(tmp_path / "a.ko", "하나\n둘\n"), put(tmp_path / "a.en", "one\n\n")
    assert refusal(f"{left},{right}").startswith(f"{left}:2: field 'target' is empty")


@pytest.mark.parametrize("ending", [".gz", ".xz"])
def test_damaged_archives(ending: str, tmp_path: Path) -> None:
    path = put(tmp_path / f"a.jsonl{ending}", JSONL * 2000)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"no archive", whole[:200] + b"\xff\x00" * 20 + whole[240:]):
        path.write_bytes(broken)
        assert refusal(path).startswith(f"{path}: damaged or truncated archive (")


def test_parquet_names_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put_parquet(tmp_path / "a.parquet", {"source": ["가", "나"], "target": ["a", None]})
    assert refusal(path) == f"{path}: row 2: field 'target' holds nothing (null), not text"
    assert refusal(path, source="sauce").startswith(f"{path}: no column 'sauce' in the header; did you mean 'source'?")
    path.write_bytes(path.read_bytes()[:-30])
    assert refusal(path).startswith(f"{path}: damaged, or not Parquet (")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refusal(path) == f"{path}: Parquet needs pyarrow; pip install 'jogak[data]'"


def test_a_line_that_would_not_fit_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lines, "LONGEST_LINE", 1000)
    fits = put(tmp_path / "a.tsv", "source\ttarget\n가\t" + "b" * 990 + "\n")
    assert len(pairs(fits)) == 1
    path = put(tmp_path / "b.tsv.gz", "source\ttarget\n가\tb\n나\t" + "b" * 2000 + "\n")
    assert refusal(path) == f"{path}:3: the line is longer than 1000 bytes; break it up"


def test_what_came_before_a_fault_is_given_first(tmp_path: Path) -> None:
    rows = read_rows([str(put(tmp_path / "a.jsonl", ROW * 2 + "{\n"))], "source", "target")
    assert [next(rows).source, next(rows).source] == ["가", "가"]
    with pytest.raises(UserError, match=r"a\.jsonl:3: not valid JSON"):
        next(rows)


# ---------------------------------------------------------------- files larger than memory


MEASURE = """
import resource, sys
from jogak.data.sources import read_rows
def peak(spec):
    count = sum(1 for _ in read_rows([spec], "source", "target"))
    return count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
few, before = peak(sys.argv[1])
many, after = peak(sys.argv[2])
print(few, many, after - before)
"""


def put_groups(path: Path, source: str, target: str, count: int) -> Path:
    """Parquet in row groups, as writers make it, of values that no dictionary shortens."""
    schema = pa.schema([("source", pa.string()), ("target", pa.string())])
    with parquet.ParquetWriter(path, schema, use_dictionary=False, compression="none") as writer:
        for start in range(0, count, 5_000):
            numbers = range(start, min(count, start + 5_000))
            columns = {"source": [f"{source}{n}" for n in numbers], "target": [f"{target}{n}" for n in numbers]}
            writer.write_table(pa.table(columns))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "jsonl.gz", "ko,en", "parquet"])
def test_a_large_file_is_read_with_little_memory(kind: str, tmp_path: Path) -> None:
    """60 MB of text, uncompressed, after 1/100 of it: the process may grow by a quarter of that."""
    source, target = "가나다라" * 40, "abcd" * 30
    lines = {"jsonl": json.dumps({"source": source, "target": target}, ensure_ascii=False), "csv": f"{source},{target}"}
    specs = []
    for name, count in (("small", 1_000), ("large", 100_000)):
        if kind == "ko,en":
            left, right = tmp_path / f"{name}.ko", tmp_path / f"{name}.en"
            put(left, f"{source}\n" * count)
            put(right, f"{target}\n" * count)
            specs.append(f"{left},{right}")
        elif kind == "parquet":
            specs.append(str(put_groups(tmp_path / f"{name}.parquet", source, target, count)))
        else:
            line = lines.get(kind.split(".", maxsplit=1)[0], f"{source}\t{target}")
            head = {"csv": "source,target\n", "tsv": "source\ttarget\n"}.get(kind, "")
            specs.append(str(put(tmp_path / f"{name}.{kind}", head + f"{line}\n" * count)))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *specs],
        env={"PYTHONPATH": str(Path(sources.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    few, many, grown = map(int, done.stdout.split())
    assert (few, many) == (1_000, 100_000)
    assert grown < 15_000, f"{grown} KiB"
