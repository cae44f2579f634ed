"""Stacks whose blocks have different mixers: rules that hold for the blocks of one mixer alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jogak import config
from jogak.families._keys import Key, Rule


def options(model: config.Model, mixer: str) -> dict[str, Any] | None:
    """What the decoder's pattern says of a mixer; None where no block has it."""
    return next((m.options for m in model.stack("decoder").pattern if m.name == mixer), None)


def only(model: config.Model, mixer: str, rules: Sequence[Rule]) -> list[Rule]:
    """The rules for each of the decoder's blocks that have this mixer, its number in the place of `{i}`."""
    stack = model.stack("decoder")
    numbers = [i for i in range(stack.depth) if stack.pattern[i % len(stack.pattern)].name == mixer]
    return [_numbered(rule, number) for number in numbers for rule in rules]


def _numbered(rule: Rule, number: int) -> Rule:
    theirs = (Key(None if k.pattern is None else _fill(k.pattern, number), k.maps) for k in rule.theirs)
    return replace(rule, theirs=tuple(theirs), ours=tuple(_fill(o, number) for o in rule.ours))


def _fill(pattern: str, number: int) -> str:
    return pattern.replace("{i}", str(number))
