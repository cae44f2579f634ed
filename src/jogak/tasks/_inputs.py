"""What `jogak run` reads and writes: texts, lines of .txt and standard input, .jsonl, .po, and folders of these."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from jogak import storage
from jogak.data import gettext
from jogak.errors import UserError
from jogak.tasks.contract import Answer, Predictor

ENDINGS = (".txt", ".jsonl", ".po", ".pot")
AT_ONCE = 512  # lines answered together: enough to sort by length, few enough to see answers soon


@dataclass(frozen=True)
class Line:
    """One line of input: where it stands, its text, and what else its JSON object held."""

    where: str
    text: str
    fields: dict[str, Any] | None = None


class Runner:
    """Runs a predictor over inputs; `field` is the .jsonl field that is read."""

    def __init__(self, predictor: Predictor, *, field: str, as_json: bool, warn: Callable[[str], None]) -> None:
        self.predictor, self.field, self.as_json, self.warn = predictor, field, as_json, warn

    def texts(self, texts: Sequence[str]) -> Iterator[str]:
        """Answers to texts given as arguments, one line each."""
        for number, text in enumerate(texts, 1):
            if not text.strip():
                raise UserError(f"text {number}: is empty; give some text")
        return self._lines(Line(f"text {n}", text) for n, text in enumerate(texts, 1))

    def stdin(self) -> Iterator[str]:
        """Answers to the lines of standard input."""
        return self._lines(_plain_lines(sys.stdin.buffer, "standard input"))

    def file(self, path: Path) -> Iterator[bytes]:
        """The answer to a whole file, in parts: the same kind of file, with answers."""
        if path.suffix in (".po", ".pot"):
            yield self._catalogue(path)
            return
        with _opened(path) as file:
            if path.suffix == ".jsonl":
                lines = self._lines(self._json_lines(file, str(path)), objects=True)
            else:
                lines = self._lines(_plain_lines(file, str(path)))
            for line in lines:
                yield line.encode()

    def folder(self, path: Path, output: Path) -> Iterator[Path]:
        """Every file below `path` that can be read, written under the same name below `output`."""
        files = sorted(f for f in path.rglob("*") if f.suffix in ENDINGS and f.is_file())
        if not files:
            raise UserError(f"{path}: holds no {', '.join(ENDINGS)} file")
        for file in files:
            target = output / file.relative_to(path)
            storage.write_bytes(target, b"".join(self.file(file)))
            yield target

    def _lines(self, lines: Iterator[Line], *, objects: bool = False) -> Iterator[str]:
        """One line of output for each line of input; empty lines stay empty."""
        while group := list(islice(lines, AT_ONCE)):
            full = [line for line in group if line.text.strip()]
            answers = iter(self.predictor([x.text for x in full], [x.where for x in full]))
            for line in group:
                found = next(answers) if line.text.strip() else []
                yield self._written(line, found, objects) + "\n"

    def _written(self, line: Line, answers: Sequence[Answer], objects: bool) -> str:
        for fault in answers[0].faults if answers else ():
            self.warn(f"{line.where}: {fault}")
        if not objects and not self.as_json:
            return "\n".join(_one_line(a.text) for a in answers)
        told = line.fields if line.fields is not None else {"source": line.text}
        best = answers[0].text if answers else ""
        found = {self.predictor.name: best, "answers": [a.plain() for a in answers]}
        return json.dumps({**told, **found}, ensure_ascii=False)

    def _json_lines(self, file: Iterator[bytes], where: str) -> Iterator[Line]:
        for line in _plain_lines(file, where):
            if not line.text.strip():
                continue
            try:
                value = json.loads(line.text)
            except json.JSONDecodeError as error:
                raise UserError(f"{line.where}: not JSON: {error.msg} at column {error.colno}") from None
            if isinstance(value, str):
                yield Line(line.where, value, {"source": value})
            elif isinstance(value, dict) and isinstance(value.get(self.field), str):
                yield Line(line.where, value[self.field], value)
            else:
                known = f"; it has: {', '.join(value)}" if isinstance(value, dict) else ""
                raise UserError(f"{line.where}: has no text in field '{self.field}'{known}")

    def _catalogue(self, path: Path) -> bytes:
        """The .po with its empty entries filled and marked fuzzy; those that are too long stay empty, and are told."""

        if not self.predictor.fills_catalogues:
            raise UserError(f"{path}: a catalogue is filled with translations, and this model gives none")

        def fill(texts: list[str]) -> list[str]:
            short = [t for t in texts if self.predictor.fits(t)]
            for text in texts:
                if not self.predictor.fits(text):
                    self.warn(f"{path}: left empty, longer than the model was trained for: {text[:60]!r}")
            best = [answers[0].text for answers in self.predictor(short)]
            found = dict(zip(short, best, strict=True))
            return [found.get(t, "") for t in texts]

        return gettext.fill(path, fill)


def _one_line(text: str) -> str:
    """Line feeds would make one answer look like two; --json keeps them."""
    return text.replace("\r\n", " ").replace("\n", " ")


def _plain_lines(file: Iterator[bytes], where: str) -> Iterator[Line]:
    for number, raw in enumerate(file, 1):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{where}:{number}: not UTF-8 at byte {error.start} of the line; save it as UTF-8"
            ) from None
        yield Line(f"{where}:{number}", text.rstrip("\r\n"))


def _opened(path: Path):  # noqa: ANN202  # a binary file
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
