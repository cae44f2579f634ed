"""The key table of a family: ordered rules between the tensors of its checkpoints and those of a jogak model.

A rule says how their tensors become ours; the way back, and the shapes that theirs must have, are derived. In keys
`{i}` (or any other name) stands for a layer's number or another part without a dot, `{p}` for weight or bias.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from jogak.errors import UserError

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Map:
    """An invertible change of one tensor: `into` ours, `back` to theirs."""

    into: Change
    back: Change


def regrouped(shape: Sequence[int], order: Sequence[int]) -> Map:
    """Rows [n ...] seen as [*shape ...], their axes put into `order`, and flattened again."""
    inverse = [order.index(axis) for axis in range(len(order))]
    moved = [shape[axis] for axis in order]

    def change(sizes: Sequence[int], axes: Sequence[int]) -> Change:
        def apply(tensor: Tensor) -> Tensor:
            if tensor.shape[0] != prod(sizes):
                raise UserError(f"has {tensor.shape[0]} rows where {prod(sizes)} are expected")
            rest = range(len(axes), len(axes) + tensor.dim() - 1)
            return tensor.reshape(*sizes, *tensor.shape[1:]).permute(*axes, *rest).reshape(tensor.shape)

        return apply

    return Map(change(shape, order), change(moved, inverse))


def rotary(heads: int, head_dim: int, turned: int | None = None) -> Map:
    """Pairs side by side (2i, 2i + 1) to pairs in halves (i, i + R/2), in the first `turned` numbers of each head."""
    turned = turned or head_dim
    pairs = torch.cat([torch.arange(0, turned, 2), torch.arange(1, turned, 2), torch.arange(turned, head_dim)])
    index = (torch.arange(heads).unsqueeze(1) * head_dim + pairs).flatten()
    inverse = index.argsort()
    return Map(lambda t: t[index.to(t.device)], lambda t: t[inverse.to(t.device)])


def reshaped(theirs: Sequence[int], ours: Sequence[int]) -> Map:
    """The same numbers in another shape; -1 once in each for what follows from the others."""
    return Map(lambda t: t.reshape(*ours), lambda t: t.reshape(*theirs))


TRANSPOSED = Map(lambda t: t.transpose(0, 1) if t.dim() > 1 else t, lambda t: t.transpose(0, 1) if t.dim() > 1 else t)


@dataclass(frozen=True)
class Key:
    """A key of theirs and the changes that its tensor goes through on the way in; ZEROS stands for no key."""

    pattern: str | None
    maps: tuple[Map, ...] = ()

    def into(self, tensor: Tensor) -> Tensor:
        for step in self.maps:
            tensor = step.into(tensor)
        return tensor

    def back(self, tensor: Tensor) -> Tensor:
        for step in reversed(self.maps):
            tensor = step.back(tensor)
        return tensor


def key(pattern: str, *maps: Map) -> Key:
    """A key whose tensor goes through `maps` on the way in."""
    return Key(pattern, maps)


ZEROS = Key(None)  # a part that theirs does not have and ours keeps at zero

Given = str | Key


@dataclass(frozen=True)
class Rule:
    """Tensors `theirs`, put together along `dim` (or on top of each other), are `ours`, cut along `dim`.

    sizes: of their parts along dim; None: equal parts. stacked: how many of theirs, one behind another, make up each
    entry of a stack; 0: no stack.
    """

    theirs: tuple[Key, ...]
    ours: tuple[str, ...]
    dim: int = 0
    sizes: tuple[int, ...] | None = None
    stacked: int = 0

    def into(self, tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Ours of theirs (without those that are ZEROS); sizes: of ours along dim."""
        given = iter(tensors)
        parts = [None if k.pattern is None else k.into(next(given)) for k in self.theirs]
        some = next(p for p in parts if p is not None)
        for index, part in enumerate(parts):
            if part is None:
                shape = list(some.shape)
                shape[self.dim] = self._parts(sum(sizes))[index]
                parts[index] = some.new_zeros(shape)
        known = [p for p in parts if p is not None]
        whole = self._stack(known) if self.stacked else known[0] if len(known) == 1 else torch.cat(known, self.dim)
        return [whole] if len(self.ours) == 1 else list(whole.split(list(sizes), self.dim))

    def back(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Theirs of ours, without those that are ZEROS."""
        whole = tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), self.dim)
        if self.stacked:
            parts = list(whole.unflatten(1, (self.stacked, -1)).flatten(0, 1)) if self.stacked > 1 else list(whole)
        elif len(self.theirs) == 1:
            parts = [whole]
        else:
            parts = list(whole.split(self._parts(whole.shape[self.dim]), self.dim))
        return [k.back(p) for k, p in zip(self.theirs, parts, strict=True) if k.pattern is not None]

    def _stack(self, parts: Sequence[Tensor]) -> Tensor:
        whole = torch.stack(list(parts))
        return whole if self.stacked == 1 else whole.unflatten(0, (-1, self.stacked)).flatten(1, 2)

    def _parts(self, whole: int) -> list[int]:
        if self.sizes is not None:
            return list(self.sizes)
        return [whole // len(self.theirs)] * len(self.theirs)


@dataclass(frozen=True)
class Drop:
    """Keys that a checkpoint may have and no model needs (masks, counters); `*` stands for anything."""

    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Tie:
    """Another name for the tensor `of`, which a checkpoint may repeat; it is written under `of` alone."""

    alias: str
    of: str


@dataclass(frozen=True)
class Legacy:
    """An ending of keys that older checkpoints have, and what it is called now."""

    old: str
    new: str


# ---------------------------------------------------------------- the words of a table


def rename(theirs: Given, ours: str) -> Rule:
    """One tensor under another name (and changed, where the key has maps)."""
    return Rule((_key(theirs),), (ours,))


def transpose(theirs: str, ours: str) -> Rule:
    """A matrix the other way round: [in, out], as GPT-2 keeps it, to [out, in]."""
    return Rule((key(theirs, TRANSPOSED),), (ours,))


def concatenate(theirs: Sequence[Given], ours: str, *, sizes: Sequence[int] | None = None, dim: int = 0) -> Rule:
    """Several of theirs one behind another; sizes: of each along dim, where they differ."""
    return Rule(tuple(map(_key, theirs)), (ours,), dim, None if sizes is None else tuple(sizes))


def split(theirs: Given, ours: Sequence[str], *, dim: int = 0) -> Rule:
    """One of theirs cut into several of ours."""
    return Rule((_key(theirs),), tuple(ours), dim)


def stack(theirs: Given | Sequence[Given], ours: str, count: int) -> Rule:
    """`count` of theirs, `{e}` = 0 ... in their key, on top of each other: [...] to [count ...].

    Several keys: those of each entry one behind another, [n ...] and [n ...] to [count 2n ...].
    """
    given = [_key(theirs)] if isinstance(theirs, Given) else [_key(k) for k in theirs]
    keys = tuple(Key((k.pattern or "").replace("{e}", str(e)), k.maps) for e in range(count) for k in given)
    return Rule(keys, (ours,), stacked=len(given))


def drop(*patterns: str) -> Drop:
    """Keys that are left out on the way in."""
    return Drop(patterns)


def tie(alias: str, of: str) -> Tie:
    """A second key for one tensor."""
    return Tie(alias, of)


def legacy(old: str, new: str) -> Legacy:
    """What older checkpoints write instead of an ending."""
    return Legacy(old, new)


def _key(given: Given) -> Key:
    return given if isinstance(given, Key) else Key(given)


# ---------------------------------------------------------------- the table


@dataclass(frozen=True)
class Step:
    """A rule with its keys filled in: what becomes of which tensors."""

    rule: Rule
    theirs: tuple[str, ...]
    ours: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rules in order, the first that fits one of our tensors has it.

    prefix: what stands before the keys of the base model in checkpoints that have a head ("transformer.", "bert.");
    all patterns are written with it. Checkpoints of the base model alone lack it.
    """

    rules: tuple[Rule | Drop | Tie | Legacy, ...]
    prefix: str = ""

    def steps(self, ours: Iterable[str]) -> list[Step]:
        """What every tensor of ours is made of.

        Raises: UserError for a tensor that no rule makes, or whose rule makes others that are not there.
        """
        names = list(ours)
        known, done, steps = set(names), set[str](), list[Step]()
        rules = [(_pattern(r.ours[0]), r) for r in self.rules if isinstance(r, Rule)]
        behind = {_fill(o, m): name for name in names for p, r in rules if (m := p.fullmatch(name)) for o in r.ours[1:]}
        for name in names:
            if name in done or name in behind:
                continue
            found = next(((r, m) for p, r in rules if (m := p.fullmatch(name))), None)
            if found is None:
                raise UserError(f"the key table has no rule for our tensor '{name}'")
            rule, match = found
            mine = tuple(_fill(o, match) for o in rule.ours)
            if lacking := [o for o in mine if o not in known]:
                raise UserError(f"the key table makes '{lacking[0]}' beside '{name}', which the model does not have")
            theirs = tuple(_fill(k.pattern, match) for k in rule.theirs if k.pattern is not None)
            steps.append(Step(rule, theirs, mine))
            done.update(mine)
        if lacking := sorted(known - done):
            raise UserError(f"the key table has no rule for our tensor '{lacking[0]}'")
        return steps

    def shapes(self, steps: Sequence[Step], ours: Mapping[str, Tensor]) -> dict[str, torch.Size]:
        """The shape that every key of theirs must have, found by going back on the meta device."""
        found: dict[str, torch.Size] = {}
        for step in steps:
            parts = step.rule.back([ours[o].to("meta") for o in step.ours])
            found.update(zip(step.theirs, (p.shape for p in parts), strict=True))
        return found

    def modern(self, name: str) -> str:
        """Their key as it is called now."""
        for rule in self.rules:
            if isinstance(rule, Legacy) and name.endswith(rule.old):
                return name.removesuffix(rule.old) + rule.new
        return name

    def is_dropped(self, name: str) -> bool:
        """Whether a key of theirs is left out knowingly."""
        return any(p.fullmatch(name) for p in self._dropped())

    def ties(self) -> Iterator[tuple[str, str]]:
        """Second keys, and the keys that they repeat."""
        return ((r.alias, r.of) for r in self.rules if isinstance(r, Tie))

    def _dropped(self) -> list[re.Pattern[str]]:
        patterns = (p for r in self.rules if isinstance(r, Drop) for p in r.patterns)
        return [_pattern(p) for p in patterns]


_HOLE = re.compile(r"\\\{(\w+)\\\}")


def _pattern(text: str) -> re.Pattern[str]:
    def hole(match: re.Match[str]) -> str:
        inside = "weight|bias" if match[1] == "p" else "[^.]+"
        return f"(?P<{match[1]}>{inside})"

    return re.compile(_HOLE.sub(hole, re.escape(text)).replace(r"\*", ".*"))


def _fill(text: str, match: re.Match[str]) -> str:
    for name, value in match.groupdict().items():
        text = text.replace(f"{{{name}}}", value)
    return text
