"""Placeholders in software strings, and the slots that stand for them while a model reads and writes.

There is no end of distinct placeholders (`%(name)s`, `{0}`, `<a href="...">`), so none can have a vocabulary
entry of its own. Each distinct one in an example gets the next free *slot* of its kind: the first value is
`⟨value0⟩`, the second `⟨value1⟩`, the first opening tag `⟨open0⟩`. Source and target of one example share the
numbering.
"""

import re
from collections.abc import Mapping
from itertools import count

# How many distinct placeholders of each kind one example may have; those beyond are spelled like other text.
SLOTS = {"value": 12, "link": 4, "open": 6, "close": 6, "entity": 4}
TOKENS = tuple(f"⟨{kind}{number}⟩" for kind, number_of in SLOTS.items() for number in range(number_of))

# A quick look that almost every plain text fails, so that the long pattern seldom runs.
_HINT = re.compile(r"[%{<&$@]|://")

_CONVERSION = r"(?:[dsu]|[ioxXeEfFgGaAcpn@](?![A-Za-z]))"  # %s may touch a word (`%dMB`), rarer ones may not
_PRINTF = r"[-+#0']*(?:\d+|\*)?(?:\.(?:\d+|\*)?)?(?:hh|ll|[hlLqjzt])?" + _CONVERSION
_PATTERN = re.compile(
    rf"""
    (?P<link>   (?:https?|ftp)://[A-Za-z0-9._~:/?\#@!$&'*+;=%()\[\]-]*[A-Za-z0-9/_=&\#]
              | [A-Za-z0-9._+-]{{1,64}}@[A-Za-z0-9-]{{1,63}}(?:\.[A-Za-z0-9-]{{1,63}})+ )
  | (?P<close>  </[A-Za-z][\w.:-]*\s*> )
  | (?P<open>   <[A-Za-z][\w.:-]*(?:\s[^<>\n]{{0,200}})?/?> )
  | (?P<entity> &(?:[A-Za-z][A-Za-z0-9]{{1,30}}|\#\d{{1,7}}|\#[xX][0-9A-Fa-f]{{1,6}}); )
  | (?P<value>  \{{\{{[^{{}}\n]{{1,80}}\}}\}}                          # {{{{ name|filter }}}}
              | \{{%[^%\n]{{1,80}}%\}}                                 # {{% tag %}}
              | [$%]\{{[^{{}}\n]{{1,80}}\}}                            # ${{x}} %{{x}}
              | \$(?:\([A-Za-z]\w*\)|\[[A-Za-z]\w*\]|[A-Za-z_]\w*)     # $(ARG1) $[name] $HOME
              | %\([^()\s]{{1,60}}\){_PRINTF}                          # %(name)s
              | (?<!\d)%(?:
                    %                                                  # %%
                  | [A-Z][A-Z0-9_]{{2,}}%?                             # %PRODUCTNAME %PATH%
                  | (?:\d+\$)?{_PRINTF}                                # %s %1$s %-5.2f %lu
                  | L?\d{{1,2}}(?![\d$])                               # %1
                  | [A-Za-z](?![A-Za-z]) )                             # %Y
              | \{{(?:\w[\w.\[\]-]*)?(?:![rsa])?(?::[^{{}}\s]{{0,20}})?\}}  # {{}} {{0}} {{name!r:>10}}
    )
    """,
    re.VERBOSE | re.ASCII,
)


def assign(text: str) -> dict[str, str]:
    """Placeholder -> slot token, for the distinct placeholders of `text` in order of first appearance."""
    slots: dict[str, str] = {}
    if not _HINT.search(text):
        return slots
    numbers = {kind: count() for kind in SLOTS}
    for match in _PATTERN.finditer(text):
        kind = match.lastgroup or "value"
        if match.group() not in slots and (number := next(numbers[kind])) < SLOTS[kind]:
            slots[match.group()] = f"⟨{kind}{number}⟩"
    return slots


def cut(text: str) -> list[tuple[str, bool]]:
    """`text` in pieces, in order: (piece, whether it is a placeholder); joined they are `text`."""
    if not _HINT.search(text):
        return [(text, False)] if text else []
    pieces: list[tuple[str, bool]] = []
    end = 0
    for match in _PATTERN.finditer(text):
        if match.start() > end:
            pieces.append((text[end : match.start()], False))
        pieces.append((match.group(), True))
        end = match.end()
    if end < len(text):
        pieces.append((text[end:], False))
    return pieces


def runs(text: str, slots: Mapping[str, int]) -> list[str | int]:
    """`text` as runs of plain text (str) and slot ids (int); what has no slot stays in the plain text."""
    if not slots:
        return [text] if text else []
    result: list[str | int] = []
    plain = ""
    for piece, is_placeholder in cut(text):
        if is_placeholder and piece in slots:
            if plain:
                result.append(plain)
            result.append(slots[piece])
            plain = ""
        else:
            plain += piece
    return [*result, plain] if plain else result
