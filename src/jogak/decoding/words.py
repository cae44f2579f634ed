"""Texts that no answer holds, however they are cut into units: an automaton over bytes says which unit ends one.

Source: Aho & Corasick 1975, "Efficient string matching". Legend: V vocabulary, S states, L bytes of the longest unit.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from jogak.codecs.text import Spelling


class Words:
    """The rule (processors.Rule) that none of `words` comes up in an answer, or across its prompt's end."""

    def __init__(self, words: Sequence[str], spelling: Spelling, before: Sequence[int] = ()) -> None:
        self.go, self.ends = automaton([word.encode() for word in words])
        self.spelling = spelling
        self.reach = max(len(word.encode()) for word in words) - 1  # bytes that a word may have begun before
        self.before = self._state(0, before)
        self._known: dict[int, Tensor] = {}

    def allowed(self, answer: Sequence[int]) -> Tensor:
        """bool [V]: units in which no word ends, and after which none has."""
        state = self._state(self.before, answer)
        if state not in self._known:
            self._known[state] = self._allowed(state)
        return self._known[state]

    def _state(self, start: int, ids: Sequence[int]) -> int:
        """Where the automaton stands after `ids`: their last few bytes decide, if there are enough of them."""
        tail, needed = b"", self.reach
        for number in reversed(ids):
            tail = self.spelling.written((number,)) + tail
            if len(tail) >= needed:
                start = 0
                break
        for byte in tail:
            start = int(self.go[start, byte])
        return start

    def _allowed(self, state: int) -> Tensor:
        """Every unit's bytes are walked through at once, a column at a time."""
        table = self.spelling.table
        states = np.full(len(table), state)
        fits = np.ones(len(table), dtype=bool)
        for column in table.T:
            real = column < 256
            states = np.where(real, self.go[states, np.where(real, column, 0)], states)
            fits &= ~(real & self.ends[states])
        return torch.from_numpy(fits)


def automaton(words: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Transitions [S 256] of a search for all words at once, and whether one of them has ended: bool [S]."""
    branches: list[dict[int, int]] = [{}]
    ends = [False]
    for word in words:
        state = 0
        for byte in word:
            if byte not in branches[state]:
                branches[state][byte] = len(branches)
                branches.append({})
                ends.append(False)
            state = branches[state][byte]
        ends[state] = True
    go = np.zeros((len(branches), 256), dtype=np.int64)
    back = [0] * len(branches)
    queue = deque([0])
    while queue:
        state = queue.popleft()
        if state:
            go[state] = go[back[state]]
        for byte, after in branches[state].items():
            back[after] = int(go[back[state], byte]) if state else 0
            ends[after] |= ends[back[after]]
            queue.append(after)
        for byte, after in branches[state].items():
            go[state, byte] = after
    return go, np.array(ends)
