"""Pairs on their way from any builder to a file: cleaned, each once, counted, with their licences."""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from jogak.data.builders._clean import clean
from jogak.errors import UserError

SHOWN = 5  # copyright holders that a NOTICE lists; the licence's text has them all


@dataclass(frozen=True)
class Licence:
    """Where pairs come from and on what terms; `text` is the licence as the package carries it."""

    package: str
    version: str
    name: str
    holders: tuple[str, ...]
    text: str


@dataclass
class Corpus:
    """The pairs of one build, in the order of `add`; of two equal pairs the first one stays."""

    languages: tuple[str, str]
    rows: dict[tuple[str, str], str] = field(default_factory=dict)  # (source, target) -> origin
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> pairs
    unreadable: list[str] = field(default_factory=list)

    def add(self, english: str, other: str, origin: str, marks: str = "") -> None:
        """Take the pair if `clean` and its novelty allow; origin is "package:place in it"."""
        source, target = (other, english) if self.languages[1] == "en" else (english, other)
        pair = clean(source, target, self.languages, marks)
        if isinstance(pair, str):
            self.left_out[pair] += 1
        elif pair in self.rows:
            self.left_out["duplicates"] += 1
        else:
            self.rows[pair] = origin

    def counts(self) -> Counter[str]:
        """Pairs a package."""
        return Counter(origin.split(":", 1)[0] for origin in self.rows.values())


def parse_languages(languages: str) -> tuple[str, str]:
    """("ko", "en") of "ko-en".

    Raises: UserError unless exactly one of the two is English, the language of message ids.
    """
    found = re.fullmatch(r"([a-z]{2,3}(?:_[A-Z]{2})?)-([a-z]{2,3}(?:_[A-Z]{2})?)", languages)
    if found and [found[1], found[2]].count("en") == 1:
        return found[1], found[2]
    raise UserError(f"languages '{languages}': write two codes of which one is en, for example ko-en or en-de")


def write(corpus: Corpus, out: Path, name: str, licences: list[Licence]) -> Path:
    """`out/NAME.jsonl`, `out/NAME.NOTICE` and the licence texts in `out/licences/`; the path of the first.

    Raises: UserError if there is not one pair, StorageError if the disk refuses.
    """
    from jogak import storage  # brings torch in: only once there is something to write

    if not corpus.rows:
        why = f" (left out: {_listed(corpus.left_out)})" if corpus.left_out else ""
        raise UserError(f"no {'-'.join(corpus.languages)} pairs were found{why}; name packages that have them")
    path = out / f"{name}.jsonl"
    lines = (
        json.dumps({"source": source, "target": target, "origin": origin}, ensure_ascii=False)
        for (source, target), origin in corpus.rows.items()
    )
    storage.write_text(path, "\n".join(lines) + "\n")
    for licence in licences:
        storage.write_text(out / "licences" / f"{licence.package}.txt", licence.text)
    storage.write_text(out / f"{name}.NOTICE", notice(corpus, name, licences))
    return path


def notice(corpus: Corpus, name: str, licences: list[Licence]) -> str:
    """Which pairs came from which package, on which terms, and what was left out."""
    counts = corpus.counts()
    head = [f"{name}.jsonl: {len(corpus.rows)} pairs, {'-'.join(corpus.languages)}.", ""]
    body: list[str] = []
    for licence in licences:
        named = f"{licence.package} {licence.version}".strip()
        body.append(f"{named}: {counts[licence.package]} pairs, {licence.name}")
        body += [f"    {holder}" for holder in licence.holders[:SHOWN]]
        more = f" and of {len(licence.holders) - SHOWN} more holders" if len(licence.holders) > SHOWN else ""
        body.append(f"    full text{more}: licences/{licence.package}.txt")
    tail = ["", f"Left out: {_listed(corpus.left_out) or 'nothing'}."]
    tail += [f"Not readable: {problem}" for problem in corpus.unreadable]
    return "\n".join(head + body + tail) + "\n"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
