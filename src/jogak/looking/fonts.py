"""Fonts for labels in any script: those that matplotlib has or can find, and readable stand-ins where none is."""

import re
import unicodedata
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path

# Families with Korean first, then Chinese and Japanese; most of them come with a system or with a distribution.
FAMILIES = (
    "Noto Sans CJK KR",
    "Noto Sans KR",
    "Apple SD Gothic Neo",
    "Malgun Gothic",
    "NanumGothic",
    "Nanum Gothic",
    "NanumBarunGothic",
    "Source Han Sans K",
    "Source Han Sans KR",
    "Pretendard",
    "UnDotum",
    "Baekmuk Dotum",
    "AppleGothic",
    "Gulim",
    "Noto Serif CJK KR",
    "NanumMyeongjo",
    "UnBatang",
    "Batang",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Arial Unicode MS",
    "Microsoft YaHei",
    "Yu Gothic",
    "Hiragino Sans",
    "PingFang SC",
    "WenQuanYi Zen Hei",
    "DejaVu Sans",
)
_FILES = re.compile(r"noto\w*cjk|noto(sans|serif)kr|nanum|malgun|sdgothic|undotum|baekmuk|sourcehan", re.IGNORECASE)
ADVICE = "install one, for example Noto Sans CJK (Debian, Ubuntu: fonts-noto-cjk) or Nanum (fonts-nanum)"


def _letters(line: str) -> list[str]:
    return [word.replace("_", "") for word in line.split()]


# Letters of the Revised Romanisation of Korean (2000) for initial, vowel and final, in the order of Unicode 3.12.
_INITIALS = _letters("g kk n d tt r m b pp s ss _ j jj ch k t p h")
_VOWELS = _letters("a ae ya yae eo e yeo ye o wa wae oe yo u wo we wi yu eu ui i")
_FINALS = _letters("_ k k k n n n t l k m l l l p l m p p t t ng t t k t p t")


def cover(texts: Iterable[str], families: Iterable[str] = FAMILIES) -> tuple[list[str], set[str]]:
    """Font families that together have every character of `texts`, best first, and the characters that none has."""
    wanted = {c for text in texts for c in text if not c.isspace()}
    chosen: list[str] = []
    missing = wanted - _characters("DejaVu Sans")  # matplotlib brings this one
    for look_further in (False, True):
        for family in families:
            if missing and (found := missing & _characters(family, look_further)):
                chosen.append(family)
                missing -= found
    return ["DejaVu Sans", *chosen], missing


def stand_in(text: str, missing: set[str]) -> str:
    """`text` with each character that no font has written in letters: Korean as it sounds, others by number."""
    return "".join(_spell(c) if c in missing else c for c in unicodedata.normalize("NFC", text))


def warn_of(missing: set[str]) -> None:
    """Say which characters are spelled out for want of a font, and how to get one."""
    sample = "".join(sorted(missing)[:8])
    warnings.warn(
        f"no font here has {len(missing)} of the characters ('{sample}'), so they are spelled out in Latin letters; "
        f"{ADVICE}",
        stacklevel=3,
    )


def _spell(character: str) -> str:
    """One syllable in Latin letters; there is no assimilation between syllables, as in a table of letters."""
    code = ord(character) - 0xAC00
    if not 0 <= code < len(_INITIALS) * len(_VOWELS) * len(_FINALS):
        return f"[U+{ord(character):04X}]"
    initial, rest = divmod(code, len(_VOWELS) * len(_FINALS))
    vowel, final = divmod(rest, len(_FINALS))
    return _INITIALS[initial] + _VOWELS[vowel] + _FINALS[final]


@cache
def _characters(family: str, look_further: bool = False) -> frozenset[str]:
    """The characters of a family; look_further: also among fonts installed since matplotlib made its list."""
    from matplotlib import font_manager

    if look_further:
        _add_new_fonts()
    if family not in {entry.name for entry in font_manager.fontManager.ttflist}:
        return frozenset()
    path = font_manager.findfont(font_manager.FontProperties(family=family))
    return frozenset(map(chr, font_manager.get_font(path).get_charmap()))


@cache
def _add_new_fonts() -> None:
    from matplotlib import font_manager

    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known and _FILES.search(Path(path).name.replace("-", "").replace(" ", "")):
            try:
                font_manager.fontManager.addfont(path)
            except (OSError, RuntimeError):
                continue  # a font file that FreeType cannot read is as good as none
