"""Running text: whole files are documents, and the end of the data is held out to the byte's line."""

import gzip

import pytest

from jogak.data.documents import Document, read_documents, split_text
from jogak.errors import UserError


def test_a_text_file_is_one_document_with_its_empty_lines(tmp_path):
    text = "첫 줄\n\n\n둘째 문단\n끝\n"
    (tmp_path / "책.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"one\n\ntwo\n"))
    assert list(read_documents([str(tmp_path / "책.txt")])) == [Document(text, str(tmp_path / "책.txt"))]
    assert [d.text for d in read_documents([str(tmp_path)])] == ["one\n\ntwo\n", text]


def test_each_record_is_a_document(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"body": "하나"}\n{"body": "둘\\n셋"}\n', encoding="utf-8")
    assert list(read_documents([str(file)], "body")) == [
        Document("하나", f"{file}:1"),
        Document("둘\n셋", f"{file}:2"),
    ]


def test_pythons_documentation_is_there_and_says_nothing_twice():
    documents = list(read_documents(["embedded:pydoc"]))
    paragraphs = [p for d in documents for p in d.text.strip().split("\n\n")]
    assert sum(len(d.text) for d in documents) > 100_000
    assert len(paragraphs) == len(set(paragraphs))
    assert documents == list(read_documents(["embedded:pydoc"]))


DOCUMENTS = [Document("가나다\n라마바\n" * 5, "a"), Document("one line\n" * 20, "b"), Document("no end", "c")]


@pytest.mark.parametrize(("validation", "test"), [(0, 0), (10, 0), (0, 25), (30, 30), (100, 20)])
def test_what_is_held_out_is_the_end_and_nothing_is_lost(validation, test):
    split = split_text(lambda: iter(DOCUMENTS), validation, test)
    train = "".join(row.target for row in split.train())
    sides = ["".join(d.text for d in side) for side in (split.validation, split.test)]
    assert train + "".join(sides) == "".join(d.text for d in DOCUMENTS)
    held = len((sides[0] + sides[1]).encode())
    assert validation + test - 21 <= held <= validation + test  # cut at the next end of a line, never before
    assert all(side == "" or train.endswith(("\n", "no end")) for side in sides)
    assert [row.where for row in split.train()] == ["a", "b", "c"][: len(list(split.train()))]
    assert split.digest == split_text(lambda: iter(DOCUMENTS), validation, test).digest
    assert split.digest != split_text(lambda: iter(DOCUMENTS), validation + 1, test).digest


def test_too_little_text_is_told():
    with pytest.raises(UserError, match="too few to hold out 500"):
        split_text(lambda: iter(DOCUMENTS), 250, 250)
