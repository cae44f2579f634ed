"""Learning a unigram language model of pieces (Kudo 2018, arXiv 1804.10959): EM, pruning, until few are left.

Written here because the trainer of `tokenizers` gives other scores at each run: it walks a hash map in random
order. Every lattice of every word lies in a few flat arrays; one sweep goes by position, over all words.

Legend: W words, N nodes (one before each character and one behind the last), E edges (a piece at a place).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LONGEST = 16  # characters of one piece
SEEDS = 8  # candidates at the start, for each piece wanted
SHRINK = 0.75  # of the pieces survive one round of pruning
ROUNDS_OF_EM = 2  # before each pruning

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Lattice:
    """Every way to cut some words into pieces.

    starts, ends: int64 [W], nodes. begin, end, piece, word: int64 [E]. rising: edges grouped by how far from
    the word's start they end, falling: by how far they begin, the farthest first; in each group those of one
    node touch.
    """

    def __init__(self, starts: Ints, ends: Ints, begin: Ints, end: Ints, piece: Ints) -> None:
        self.starts, self.ends, self.begin, self.end, self.piece = starts, ends, begin, end, piece
        self.word = np.searchsorted(starts, begin, side="right") - 1
        origin = starts[self.word]
        self.rising = _groups(end - origin, end, begin)
        self.falling = _groups(origin - begin, begin, end)

    def only(self, alive: Bools) -> "Lattice":
        """The same words, cut into pieces that are `alive` (bool by piece)."""
        kept = alive[self.piece]
        return Lattice(self.starts, self.ends, self.begin[kept], self.end[kept], self.piece[kept])


def _groups(wave: Ints, node: Ints, other: Ints) -> list[Ints]:
    order = np.lexsort((other, node, wave))
    return np.split(order, np.flatnonzero(np.diff(wave[order])) + 1)


def learn_unigram(words: dict[str, int], size: int) -> list[tuple[str, float]]:
    """At most `size` pieces with their log probabilities, the likeliest first; characters always stay."""
    pieces, weights = seed(words, size * SEEDS)
    scores = np.log(weights / weights.sum())
    counts = np.array(list(words.values()), dtype=np.float64)
    single = np.array([len(piece) == 1 for piece in pieces])
    lattice, inner = build_lattice(list(words), pieces), build_lattice(pieces, pieces, whole=False)
    alive = np.ones(len(pieces), dtype=np.bool_)
    while True:
        scores, expected = maximise(lattice, scores, counts, alive)
        if alive.sum() <= size:
            break
        loss = losses(inner, scores, expected)
        loss[single], loss[~alive] = np.inf, -np.inf
        survivors = np.argsort(-loss, kind="stable")[: max(size, int(alive.sum() * SHRINK))]
        alive = np.zeros_like(alive)
        alive[survivors] = True
        scores[~alive] = -np.inf
        lattice, inner = lattice.only(alive), inner.only(alive)
    # Rounded so that the number in tokenizer.json reads back as the same number everywhere.
    final = [(pieces[i], round(float(scores[i]), 6)) for i in np.flatnonzero(alive)]
    return sorted(final, key=lambda item: (-item[1], item[0]))


def maximise(lattice: Lattice, scores: Floats, counts: Floats, alive: Bools) -> tuple[Floats, Floats]:
    """A few rounds of EM: scores, -inf for dead pieces, and the counts they come from."""
    expected = np.zeros_like(scores)
    for _ in range(ROUNDS_OF_EM):
        expected = expect(lattice, scores, counts)
        seen = np.where(alive, np.maximum(expected, 1e-3), 0.0)
        with np.errstate(divide="ignore"):  # log 0 = -inf: a dead piece is never used
            scores = np.log(seen / seen.sum())
    return scores, expected


def seed(words: dict[str, int], most: int) -> tuple[list[str], Floats]:
    """Candidates, sorted, with weights: every character, and the substrings that cover most text."""
    found: Counter[str] = Counter()
    for word, number in words.items():
        for begin in range(len(word)):
            for end in range(begin + 1, min(begin + LONGEST, len(word)) + 1):
                found[word[begin:end]] += number
    singles = [piece for piece in found if len(piece) == 1]
    longer = [piece for piece, number in found.items() if len(piece) > 1 and number > 1]
    longer.sort(key=lambda piece: (-found[piece] * len(piece), piece))
    pieces = sorted([*singles, *longer[: max(0, most - len(singles))]])
    return pieces, np.array([found[piece] * len(piece) for piece in pieces], dtype=np.float64)


def build_lattice(words: Sequence[str], pieces: Sequence[str], whole: bool = True) -> Lattice:
    """The lattice of `words`; whole=False leaves out the edge that is a word itself."""
    index = {piece: number for number, piece in enumerate(pieces)}
    edges: list[tuple[int, int, int]] = []
    starts: list[int] = []
    node = 0
    for word in words:
        starts.append(node)
        length = len(word)
        for begin in range(length):
            for end in range(begin + 1, min(begin + LONGEST, length) + 1):
                piece = index.get(word[begin:end])
                if piece is not None and (whole or end - begin < length):
                    edges.append((node + begin, node + end, piece))
        node += length + 1
    table = np.array(edges, dtype=np.int64).reshape(-1, 3)
    ends = np.array([*starts[1:], node], dtype=np.int64) - 1
    return Lattice(np.array(starts), ends, table[:, 0], table[:, 1], table[:, 2])


def forward(lattice: Lattice, scores: Floats, combine: np.ufunc) -> Floats:
    """Of each node, the log weight of all ways there (combine: logaddexp) or of the best one (maximum)."""
    total = np.full(lattice.ends[-1] + 1, -np.inf)
    total[lattice.starts] = 0.0
    for group in lattice.rising:
        nodes = lattice.end[group]
        first = np.flatnonzero(np.diff(nodes, prepend=-1))
        total[nodes[first]] = combine.reduceat(total[lattice.begin[group]] + scores[lattice.piece[group]], first)
    return total


def backward(lattice: Lattice, scores: Floats) -> Floats:
    """Of each node, the log weight of all ways from there to its word's end."""
    total = np.full(lattice.ends[-1] + 1, -np.inf)
    total[lattice.ends] = 0.0
    for group in lattice.falling:
        nodes = lattice.begin[group]
        first = np.flatnonzero(np.diff(nodes, prepend=-1))
        ways = total[lattice.end[group]] + scores[lattice.piece[group]]
        total[nodes[first]] = np.logaddexp.reduceat(ways, first)
    return total


def expect(lattice: Lattice, scores: Floats, counts: Floats) -> Floats:
    """E step: how often each piece is expected, sum over words of count * P(piece at a place | word)."""
    ahead, behind = forward(lattice, scores, np.logaddexp), backward(lattice, scores)
    log_all = ahead[lattice.ends][lattice.word]
    log_p = ahead[lattice.begin] + scores[lattice.piece] + behind[lattice.end] - log_all
    expected = np.zeros_like(scores)
    np.add.at(expected, lattice.piece, np.exp(log_p) * counts[lattice.word])
    return expected


def losses(inner: Lattice, scores: Floats, expected: Floats) -> Floats:
    """How much log likelihood goes with each piece: its count times what its best other cut costs more."""
    with np.errstate(invalid="ignore"):  # -inf - -inf at dead pieces, which are out already
        return expected * (scores - forward(inner, scores, np.maximum)[inner.ends])
