"""Batches of like lengths, in an order that seed and epoch alone decide: it can be taken up anywhere.

Legend: N examples, B rows of a batch, S positions of source, T of target, P positions that are filled.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jogak.data.batch import IGNORE, Batch, Units
from jogak.data.packing import pack, shape_rows
from jogak.data.splitting import Splitting
from jogak.data.tokens import TokenStore
from jogak.errors import UserError

Ints = NDArray[np.int64]

# Widths of batches, and their rows where there are more, are multiples: a kernel that is made for each new shape
# (bfloat16 on a CPU) then meets few of them. Costs a few percent of padding.
GRAIN = 2


def _rounded(widths: Ints) -> Ints:
    return -(-widths // GRAIN) * GRAIN


@dataclass(frozen=True, eq=False)
class Plan:
    """The batches of one epoch.

    examples: every example once, in order; rows: where each row begins and the last ends in `examples`;
    batches: the same of batches in `rows`; room: (S, T) of a packed row, or None.
    """

    examples: Ints
    rows: Ints
    batches: Ints
    room: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.batches) - 1

    def batch(self, index: int) -> tuple[Ints, Ints]:
        """The examples of batch `index`, and how many of them each of its rows holds."""
        bounds = self.rows[self.batches[index] : self.batches[index + 1] + 1]
        return self.examples[bounds[0] : bounds[-1]], np.diff(bounds)

    @cached_property
    def sizes(self) -> Ints:
        """Examples in each batch."""
        return np.diff(self.rows[self.batches])

    def padding(self, lengths: Ints) -> float:
        """The fraction of all positions that is padding."""
        filled = int(lengths[self.examples].sum())
        if self.room is not None:
            return 1 - filled / (sum(self.room) * (len(self.rows) - 1))
        starts = self.batches[:-1]
        widths = _rounded(np.maximum.reduceat(lengths[self.examples], starts)).sum(axis=1)
        return 1 - filled / int((widths * np.diff(self.batches)).sum())


def bucket(lengths: Ints, order: Ints, budget: int) -> Plan:
    """Batches of like lengths with at most `budget` padded positions, except an example that alone has more.

    Sorted by the longer side in steps of 1/12 octave, and in each by how much longer the source is: up in one
    step, down in the next, so that neighbours are alike across the border too. `order` decides among equals.
    """
    step = np.floor(12 * np.log2(lengths[order].max(axis=1))).astype(np.int64)
    lean = lengths[order, 0] - lengths[order, 1]
    order = order[np.lexsort((np.where(step % 2 == 0, lean, -lean), step))]
    ordered = lengths[order]
    bounds, start = [0], 0
    while start < len(order):
        most = max(1, budget // int(ordered[start].sum()))
        widths = _rounded(np.maximum.accumulate(ordered[start : start + most], axis=0)).sum(axis=1)
        cost = widths * np.arange(1, len(widths) + 1)
        rows = max(1, int(np.searchsorted(cost, budget, side="right")))
        start += rows if rows < GRAIN or start + rows == len(order) else rows - rows % GRAIN
        bounds.append(start)
    return Plan(order, np.arange(len(order) + 1), np.array(bounds))


def pack_plan(lengths: Ints, order: Ints, budget: int, random: np.random.Generator) -> Plan:
    """Batches of packed rows, all of one shape, with at most `budget` positions."""
    count, room = shape_rows(lengths[order], budget)
    rows = pack(lengths, order, room)
    rows = [rows[i] for i in random.permutation(len(rows))]
    bounds = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    batches = np.append(np.arange(0, len(rows), count), len(rows))
    return Plan(np.array([e for row in rows for e in row]), bounds, batches, room)


# Ids of examples, one behind another, and how many each has -> the same spelled otherwise.
Split = Callable[[Ints, Ints], tuple[Ints, Ints]]


class Collator:
    """Builds batches from a store: source + [eos]; decoder reads [bos] + target and predicts target + [eos].

    Without any source in the store (a language model's), batches have none.
    """

    def __init__(self, store: TokenStore, pad_id: int, bos_id: int, eos_id: int) -> None:
        self.store, self.pad_id, self.bos_id, self.eos_id = store, pad_id, bos_id, eos_id
        self.has_source = bool(store.lengths[:, 0].any())

    @cached_property
    def lengths(self) -> Ints:
        """Positions that each example fills, special tokens included: int64 [N 2]."""
        return self.store.lengths.astype(np.int64) + np.array([1 if self.has_source else 0, 1])

    def batch(self, examples: Ints, counts: Ints, room: tuple[int, int] | None, split: Split | None = None) -> Batch:
        """The batch whose row b holds the next counts[b] of `examples`; `split` spells either side anew."""
        row = np.repeat(np.arange(len(counts)), counts)
        first = np.cumsum(counts) - counts  # of each row, in `examples`
        number = np.arange(len(examples)) - np.repeat(first, counts)  # of each example, in its row
        source = None
        if self.has_source:
            ids, lengths = self._side(examples, 0, split)
            layout = _Layout(row, first, number, lengths + 1, len(counts), room and room[0])
            source = layout.units(layout.fill(self.pad_id, ids, last=self.eos_id), room)
        ids, lengths = self._side(examples, 1, split)
        layout = _Layout(row, first, number, lengths + 1, len(counts), room and room[1])
        return Batch(
            layout.units(layout.fill(self.pad_id, ids, first=self.bos_id), room),
            torch.from_numpy(layout.fill(IGNORE, ids, last=self.eos_id)),
            source,
            tuple(examples.tolist()),
            int(layout.lengths.sum()),
        )

    def _side(self, examples: Ints, side: int, split: Split | None) -> tuple[Ints, Ints]:
        """The ids of source (0) or target (1), flat, without special tokens, and how many each example has."""
        lengths = self.store.lengths[examples].astype(np.int64)
        starts, lengths = self.store.starts[examples] + side * lengths[:, 0], lengths[:, side]
        ids = self.store.tokens[np.repeat(starts, lengths) + _count_up(lengths)].astype(np.int64)
        return (ids, lengths) if split is None else split(ids, lengths)


class _Layout:
    """Where each example lies in a [B T] array: one span behind another in its row."""

    def __init__(self, row: Ints, first: Ints, number: Ints, lengths: Ints, rows: int, width: int | None) -> None:
        before = np.cumsum(lengths) - lengths
        self.lengths, self.number, self.rows = lengths, number, rows
        self.filled = np.add.reduceat(lengths, first)  # positions of each row
        self.width = width or int(_rounded(self.filled.max()))
        self.begin = row * self.width + before - before[first][row]  # flat

    def fill(self, empty: int, ids: NDArray[np.integer], *, first: int | None = None, last: int | None = None) -> Ints:
        """[B T], `empty` everywhere but in the spans: there first + ids, or ids + last."""
        out = np.full((self.rows, self.width), empty, dtype=np.int64)
        flat, inner = out.reshape(-1), self.lengths - 1
        inside = _count_up(inner)
        begin = self.begin if first is None else self.begin + 1
        flat[np.repeat(begin, inner) + inside] = ids
        if first is not None:
            flat[self.begin] = first
        if last is not None:
            flat[self.begin + inner] = last
        return out

    def units(self, ids: Ints, room: tuple[int, int] | None) -> Units:
        """`ids` with its mask, and with segments if packed."""
        mask = None
        if (self.filled < self.width).any():
            mask = torch.from_numpy(np.arange(self.width) < self.filled[:, None])
        return Units(torch.from_numpy(ids), mask, None if room is None else self._segments())

    def _segments(self) -> Tensor:
        out = np.zeros((self.rows, self.width), dtype=np.int64)
        inside = np.arange(int(self.lengths.sum())) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)
        out.reshape(-1)[np.repeat(self.begin, self.lengths) + inside] = np.repeat(self.number + 1, self.lengths)
        return torch.from_numpy(out)


def _count_up(lengths: Ints) -> Ints:
    """0, 1, ... lengths[0] - 1, 0, 1, ... lengths[1] - 1, and so on."""
    return np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)


class Loader:
    """Endless batches: each epoch every example once, in an order that only seed and epoch decide.

    batch_tokens: most padded positions of source and target together in one batch. An example with more is
    left out and counted in `left_out`. rank, world: this process gets every world-th batch; all get equally
    many, for which up to world - 1 batches of an epoch come twice. pack: several examples to a row, all rows
    of one shape. splitting: spells every example anew each time; batches are planned by the lengths before that.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        batch_tokens: int,
        seed: int,
        pad_id: int,
        bos_id: int,
        eos_id: int,
        rank: int = 0,
        world: int = 1,
        pack: bool = False,
        splitting: Splitting | None = None,
    ) -> None:
        if not 0 <= rank < world:
            raise UserError(f"rank {rank} of {world} processes: it must be from 0 to {world - 1}")
        self._collator = Collator(store, pad_id, bos_id, eos_id)
        self._batch_tokens, self._seed, self._rank, self._world, self._pack = (
            batch_tokens,
            seed,
            rank,
            world,
            pack,
        )
        self._splitting = splitting
        lengths = self._collator.lengths
        fits = (lengths if pack else _rounded(lengths)).sum(axis=1) <= batch_tokens
        self._fitting = np.flatnonzero(fits)
        self.left_out = int((~fits).sum())
        if not len(self._fitting):
            raise UserError(f"no example fits train.batch_tokens={batch_tokens}; raise it")
        self.epoch, self._step = 0, 0
        self._plan, self._order = self._planned(0)

    def _planned(self, epoch: int) -> tuple[Plan, Ints]:
        """The epoch's batches, and the order in which they come."""
        random = np.random.default_rng([self._seed % 2**64, epoch])
        order, lengths = random.permutation(self._fitting), self._collator.lengths
        if self._pack:
            plan = pack_plan(lengths, order, self._batch_tokens, random)
        else:
            plan = bucket(lengths, order, self._batch_tokens)
        return plan, random.permutation(len(plan))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._step == self.batches_per_epoch:
            self.epoch, self._step = self.epoch + 1, 0
            self._plan, self._order = self._planned(self.epoch)
        index = int(self._order[(self._step * self._world + self._rank) % len(self._order)])
        self._step += 1
        split = None
        if self._splitting is not None:  # drawn from the batch's own seed: the same wherever training is taken up
            random = np.random.default_rng([self._seed % 2**64, self.epoch, index])
            split = partial(self._splitting, random=random)
        return self._collator.batch(*self._plan.batch(index), self._plan.room, split)

    @property
    def batches_per_epoch(self) -> int:
        """Batches that this process gets in the present epoch."""
        return -(-len(self._plan) // self._world)

    @property
    def padding(self) -> float:
        """The fraction of this epoch's positions that is padding."""
        return self._plan.padding(self._collator.lengths)

    @property
    def examples_seen(self) -> int:
        """How many examples all processes together were given, repeated ones counted once."""
        given = self._order[: self._step * self._world]
        return self.epoch * len(self._fitting) + int(self._plan.sizes[given].sum())

    def state_dict(self) -> dict[str, int]:
        """The position, the same in every process, and what it only holds for."""
        return {"epoch": self.epoch, "batches": self._step * self._world, **self._fingerprint()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on behind the last batch given when `state` was taken; with another number of processes nearby.

        Raises: UserError if the data or the settings that decide the order are others.
        """
        for name, now in self._fingerprint().items():
            if state.get(name) != now:
                raise UserError(
                    f"the saved place in the data is of a run with {name}={state.get(name)}, now {now}; "
                    "resume with the same data and settings"
                )
        self.epoch = state["epoch"]
        self._plan, self._order = self._planned(self.epoch)
        self._step = min(-(-state["batches"] // self._world), self.batches_per_epoch)

    def _fingerprint(self) -> dict[str, int]:
        return {
            "examples": len(self._fitting),
            "positions": int(self._collator.lengths[self._fitting].sum()),
            "batch_tokens": self._batch_tokens,
            "seed": self._seed,
            "pack": int(self._pack),
        }


def read_once(
    store: TokenStore,
    *,
    batch_tokens: int,
    pad_id: int,
    bos_id: int,
    eos_id: int,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Every example once, shortest batches first, for measuring: none left out, none twice over all ranks."""
    collator = Collator(store, pad_id, bos_id, eos_id)
    plan = bucket(collator.lengths, np.arange(len(store)), batch_tokens)
    for index in range(rank, len(plan), world):
        yield collator.batch(*plan.batch(index), None)
