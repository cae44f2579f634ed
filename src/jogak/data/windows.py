"""Windows of running text: batches [B T] of one length, in an order that seed and epoch alone decide.

A store's examples are documents: no source, and a target that ends in the end mark. They stand in one row, and
windows are cut out of it wherever they fall. What a document begins with reads the begin mark.
Legend: N positions of the whole row, B windows of a batch, T positions of a window.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from jogak.data.batch import Batch, Units
from jogak.data.tokens import TokenStore
from jogak.errors import UserError

Ints = NDArray[np.int64]


class Windows:
    """Any window of a store: what is read, what is to be predicted, and the segments of its documents."""

    def __init__(self, store: TokenStore, length: int, bos_id: int, *, apart: bool) -> None:
        """length: positions of a window. apart: give segments, so that documents do not see each other."""
        self.store, self.length, self.bos_id, self.apart = store, length, bos_id, apart
        self.positions = len(store.tokens)
        if self.positions < length:
            raise UserError(
                f"the text has {self.positions} units, fewer than a window of data.max_length={length}; lower it"
            )

    def batch(self, starts: Ints) -> Batch:
        """The windows that begin at `starts`; a window may not reach beyond the end."""
        places = starts[:, None] + np.arange(self.length)
        targets = self.store.tokens[places].astype(np.int64)
        before = self.store.tokens[np.maximum(places - 1, 0)].astype(np.int64)
        document = np.searchsorted(self.store.starts, places, side="right")
        ids = np.where(self.store.starts[document - 1] == places, self.bos_id, before)
        segments = torch.from_numpy(document - document[:, :1] + 1) if self.apart else None
        units = Units(torch.from_numpy(ids), None, segments)
        return Batch(units, torch.from_numpy(targets), None, tuple((starts // self.length).tolist()), targets.size)


class WindowLoader:
    """Endless batches of windows: each epoch cuts the row anew, beginning at another place, and shuffles the parts.

    batch_tokens: positions of one batch; as many windows as fit. rank, world: this process gets every world-th
    batch; all get equally many, for which up to world - 1 batches of an epoch come twice. apart: see Windows. What is
    left over at either end, or does not fill a batch, is not read in that epoch.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        length: int,
        batch_tokens: int,
        seed: int,
        bos_id: int,
        apart: bool,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not 0 <= rank < world:
            raise UserError(f"rank {rank} of {world} processes: it must be from 0 to {world - 1}")
        if batch_tokens < length:
            raise UserError(f"train.batch_tokens={batch_tokens} has no room for a window of data.max_length={length}")
        self._windows = Windows(store, length, bos_id, apart=apart)
        self._seed, self._rank, self._world = seed, rank, world
        self._rows = min(batch_tokens // length, self._windows.positions // length)
        self.epoch, self._step = 0, 0
        self._starts = self._planned(0)

    def _planned(self, epoch: int) -> Ints:
        """Where the epoch's windows begin, in the order in which they come."""
        random = np.random.default_rng([self._seed % 2**64, epoch])
        length, spare = self._windows.length, self._windows.positions - self._rows * self._windows.length
        offset = int(random.integers(0, min(length, spare + 1)))
        starts = np.arange(offset, self._windows.positions - length + 1, length)
        return random.permutation(starts)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._step == self.batches_per_epoch:
            self.epoch, self._step = self.epoch + 1, 0
            self._starts = self._planned(self.epoch)
        index = (self._step * self._world + self._rank) % self._batches
        self._step += 1
        return self._windows.batch(self._starts[index * self._rows : (index + 1) * self._rows])

    @property
    def _batches(self) -> int:
        """Whole batches of all processes in the present epoch."""
        return len(self._starts) // self._rows

    @property
    def batches_per_epoch(self) -> int:
        """Batches that this process gets in the present epoch."""
        return -(-self._batches // self._world)

    def state_dict(self) -> dict[str, int]:
        """The position, the same in every process, and what it only holds for."""
        return {"epoch": self.epoch, "batches": self._step * self._world, **self._fingerprint()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on behind the last batch given when `state` was taken.

        Raises: UserError if the data or the settings that decide the order are others.
        """
        for name, now in self._fingerprint().items():
            if state.get(name) != now:
                raise UserError(
                    f"the saved place in the data is of a run with {name}={state.get(name)}, now {now}; "
                    "resume with the same data and settings"
                )
        self.epoch = state["epoch"]
        self._starts = self._planned(self.epoch)
        self._step = min(-(-state["batches"] // self._world), self.batches_per_epoch)

    def _fingerprint(self) -> dict[str, int]:
        windows = self._windows
        return {
            "positions": windows.positions,
            "length": windows.length,
            "rows": self._rows,
            "seed": self._seed,
            "apart": int(windows.apart),
        }


def read_windows(store: TokenStore, *, length: int, batch_tokens: int, bos_id: int, apart: bool) -> Iterator[Batch]:
    """Every position once, for measuring: whole windows, then what is left as a shorter one."""
    positions = len(store.tokens)
    length = min(length, positions)
    windows = Windows(store, length, bos_id, apart=apart)
    starts = np.arange(0, positions - length + 1, length)
    rows = max(1, batch_tokens // length)
    for at in range(0, len(starts), rows):
        yield windows.batch(starts[at : at + rows])
    if rest := positions % length:
        yield Windows(store, rest, bos_id, apart=apart).batch(np.array([positions - rest]))
