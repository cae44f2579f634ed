"""Joining the lines of a wrapped paragraph, where Korean ones may be broken in the middle of a word.

Some tools break Korean text between any two syllables once a line is full, and drop the space where the
break falls on one; others break at spaces only. Widths tell the two apart: a line broken at a space has room
for the next syllable. Where a full line leaves it open, the spaces of the whole corpus decide.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

WIDTH = 75  # columns of the tool that breaks between syllables; a Hangul syllable takes two
_GAP = re.compile(r"([가-힣])( ?)(?=[가-힣])")
_PARTICLE = re.compile(
    r"(?:이?라[는고]|에서?|에게|[으]?로|까지|부터|처럼|보다|입니다|이며|이나|[을를은는이가의와과도만])(?![가-힣])"
)


def width(text: str) -> int:
    """Columns on a terminal."""
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


class Spacing:
    """Where a corpus puts spaces between syllables.

    Naive Bayes: log odds of a space = prior + sum of log P(around | space) / P(around | none), where `around`
    is the one or two syllables before and the one or two after the gap.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.spaced: Counter[str] = Counter()
        self.joined: Counter[str] = Counter()
        for line in lines:
            for gap in _GAP.finditer(line):
                around = _around(line[: gap.end(1)], line[gap.end() :])
                (self.spaced if gap[2] else self.joined).update(around)
        self.chance = (1 + self.spaced.total()) / (2 + self.spaced.total() + self.joined.total())

    def wanted(self, left: str, right: str) -> bool:
        """Whether a space belongs between two pieces of text."""
        prior = math.log(self.chance / (1 - self.chance))
        odds = prior
        for around in _around(left, right):
            spaced = self.spaced[around] + 2 * self.chance
            joined = self.joined[around] + 2 * (1 - self.chance)
            odds += math.log(spaced / joined) - prior
        return odds > 0


def _around(left: str, right: str) -> list[str]:
    return [f"{left[-before:]}|{right[:after]}" for before in (1, 2) for after in (1, 2)]


def join(lines: Sequence[str], spacing: Spacing) -> str:
    """The paragraph on one line."""
    breaks = list(pairwise(lines))
    korean = [width(left) for left, right in breaks if _hangul(left[-1:]) and _hangul(right[:1])]
    anywhere = bool(korean) and min(korean) >= WIDTH - 2
    text = lines[0]
    for left, right in breaks:
        text += ("" if anywhere and _inside_word(left, right, spacing) else " ") + right
    return text


def _inside_word(left: str, right: str, spacing: Spacing) -> bool:
    if not _hangul(right[:1]) or not WIDTH - 1 <= width(left) <= WIDTH:
        return False
    return not spacing.wanted(left, right) if _hangul(left[-1:]) else bool(_PARTICLE.match(right))


def _hangul(sign: str) -> bool:
    return "가" <= sign <= "힣"
