"""Translation pairs from the descriptions of Debian's packages: sentences, paragraphs and one-line summaries.

`apt-get update` brings the descriptions of two languages into a folder of their own; they are joined on the
MD5 of the English one, then block by block (paragraphs and list items), then sentence by sentence where both
sides have as many. Nothing is installed and the system's own lists stay as they are.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jogak.data.builders._corpus import Corpus, Licence, parse_languages, write
from jogak.data.builders._packages import Apt
from jogak.data.builders._progress import stages
from jogak.data.builders._unwrap import Spacing, join
from jogak.errors import UserError

NAME = "debian-descriptions"
TERMS = """\
The descriptions of Debian packages are part of each package's packaging; their translations were made by the
Debian Description Translation Project. Each is under the terms that debian/copyright of its package states;
the origin field of a pair names the package.
"""
_BULLET = re.compile(r"\s*(?:[-*+o•·]|\d{1,2}[.)])\s+")
_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9À-Þ가-힣])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|resp|incl|approx|z\.B|d\.h|bzw|usw|ca|Nr|p\. ex|v\d*)|\b[A-Z])\.$"
)


@dataclass
class Description:
    """One package's description in one language: its summary and the blocks below it, each as its lines."""

    package: str
    md5: str
    summary: str
    blocks: list[list[str]] = field(default_factory=list)
    kinds: str = ""  # a letter a block: p a paragraph, i a list item


def build(out: Path, languages: str = "ko-en", packages: Sequence[str] = ()) -> Path:
    """Write `out/debian-descriptions-LANGUAGES.jsonl` and its NOTICE; `packages` must be empty.

    The lists are kept in `out/downloads`, which may be deleted. The same lists give the same bytes.

    Raises: UserError without apt-get, or where the language has no descriptions.
    """
    pair = parse_languages(languages)
    if packages:
        raise UserError(f"debian-descriptions takes all packages; leave out {', '.join(packages)}")
    other = pair[0] if pair[1] == "en" else pair[1]
    apt = Apt(out / "downloads" / "debian-lists", languages=(other, "en"))
    corpus = Corpus(pair)
    with stages(2) as begin:
        begin("apt-get update")
        apt.update()
        begin("joining the descriptions")
        collect(corpus, apt.lists, other)
    licence = Licence(NAME, "", "terms: those of each package", (), TERMS)
    return write(corpus, out, f"{NAME}-{languages}", [licence])


def collect(corpus: Corpus, lists: Path, language: str) -> None:
    """Add the pairs of every `Translation-LANGUAGE` and `Translation-en` file below `lists`."""
    files = sorted(lists.glob(f"*_Translation-{language}"))
    if not files or not any(lists.glob("*_Translation-en")):
        raise UserError(f"Debian has no package descriptions in '{language}'; choose a language such as ko, de or fr")
    translated = [one for file in files for one in read(file)]
    spacing = Spacing(line for one in translated for lines in one.blocks for line in lines)
    wanted = {one.md5 for one in translated}
    english: dict[str, Description] = {}
    for file in sorted(lists.glob("*_Translation-en")):
        for one in read(file):
            if one.md5 in wanted:
                english.setdefault(one.md5, one)
    for one in translated:
        if one.md5 in english:
            for source, target in pairs(english[one.md5], one, spacing):
                corpus.add(source, target, f"{NAME}:{one.package}")
        else:
            corpus.left_out["descriptions without their English"] += 1


def read(path: Path) -> Iterator[Description]:
    """The descriptions in a Translation file.

    Raises: UserError naming the line if it is not UTF-8.
    """
    fields: dict[str, list[str]] = {}
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8").rstrip("\n")
            except UnicodeDecodeError:
                raise UserError(f"{path.name}:{number}: not UTF-8; run again to fetch the list anew") from None
            if not line.strip():
                yield from _description(fields)
                fields = {}
            elif line[0].isspace() and fields:
                fields[list(fields)[-1]].append(line[1:])
            else:
                name, _, value = line.partition(":")
                fields[name.lower()] = [value.strip()]
    yield from _description(fields)


def _description(fields: dict[str, list[str]]) -> Iterator[Description]:
    name = next((name for name in fields if re.fullmatch(r"description-(?!md5)[a-z_]+", name)), None)
    if name is None or "package" not in fields or "description-md5" not in fields:
        return
    summary, *body = fields[name]
    one = Description(fields["package"][0], fields["description-md5"][0], summary)
    open_block = False
    for line in body:
        bullet = _BULLET.match(line)
        text = line[bullet.end() :].strip() if bullet else line.strip()
        if text in ("", "."):
            open_block = False
        elif open_block and not bullet and (line[0].isspace() == (one.kinds[-1] == "i")):
            one.blocks[-1].append(text)
        else:
            one.blocks.append([text])
            one.kinds += "i" if bullet or line[0].isspace() else "p"
            open_block = True
    yield one


def pairs(english: Description, other: Description, spacing: Spacing) -> Iterator[tuple[str, str]]:
    """(English, other): the summaries, and what corresponds below them; nothing where the blocks differ."""
    yield english.summary, other.summary
    if english.kinds != other.kinds:
        return
    for ours, theirs in zip(english.blocks, other.blocks, strict=True):
        left, right = sentences(join(ours, spacing)), sentences(join(theirs, spacing))
        if len(left) == len(right):
            yield from zip(left, right, strict=True)
        else:
            yield " ".join(left), " ".join(right)


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph; an abbreviation or an initial ends none."""
    found: list[str] = []
    for part in _SENTENCE.split(" ".join(text.split())):
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] += f" {part}"
        else:
            found.append(part)
    return found
