"""Prompts read once: states at the ends of blocks of a prompt, kept for the next prompt that begins alike.

States are immutable, so that a snapshot is a reference, for attention's keys and values as for a recurrence. What is
kept is bounded in bytes of memory that is really held (views of one buffer count once); the least lately used goes
first.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b

import torch
from torch import Tensor

from jogak.decoding.sampling import Generates, Start
from jogak.errors import UserError
from jogak.mixers import EMPTY, Context
from jogak.models import EncoderDecoder, ModelState, Source

Kept = ModelState | Source


@dataclass
class Report:
    """What the cache did: lookups that found something or nothing, positions that were not computed again, what is
    held now."""

    hits: int = 0
    misses: int = 0
    reused: int = 0
    evicted: int = 0
    refused: int = 0  # states larger than the whole cache
    entries: int = 0
    bytes: int = 0


class PrefixCache:
    """block: positions between two snapshots; max_bytes: what may be held."""

    def __init__(self, max_bytes: int = 1 << 30, block: int = 64) -> None:
        if max_bytes < 1 or block < 1:
            raise UserError(f"a prefix cache needs max_bytes and block of at least 1, got {max_bytes} and {block}")
        self.max_bytes, self.block = max_bytes, block
        self.report = Report()
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._holders: dict[int, list[int]] = {}  # storage -> [bytes, entries that hold it]

    def clear(self) -> None:
        """Forget every state; the counts stay."""
        self._kept.clear()
        self._holders.clear()
        self.report.entries = self.report.bytes = 0

    def ends(self, ids: Sequence[int]) -> list[int]:
        """Lengths of prefixes of `ids` that may be kept: at block ends, and the last id is always read anew, since
        what comes next is asked of it."""
        return list(range(self.block, len(ids), self.block))

    def longest(self, ids: Sequence[int]) -> tuple[int, ModelState | None]:
        """The longest prefix of `ids` that is kept, and the state after it."""
        keys = list(self._keys(ids))
        for length, key in reversed(keys):
            state = self._kept.get(key)
            if isinstance(state, ModelState):
                self._kept.move_to_end(key)
                self._count(length)
                return length, state
        self._count(0)
        return 0, None

    def put(self, ids: Sequence[int], state: ModelState) -> None:
        """Keep the state after `ids`, which end where a block ends."""
        self._put(digest(ids), state)

    def source(self, ids: Sequence[int]) -> Source | None:
        """What an encoder made of the source `ids`, if that is kept."""
        key = digest(ids, "source")
        found = self._kept.get(key)
        if not isinstance(found, Source):
            self._count(0)
            return None
        self._kept.move_to_end(key)
        self._count(len(ids))
        return found

    def put_source(self, ids: Sequence[int], read: Source) -> None:
        self._put(digest(ids, "source"), read)

    def _count(self, reused: int) -> None:
        self.report.hits += reused > 0
        self.report.misses += reused == 0
        self.report.reused += reused

    def _keys(self, ids: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Of each prefix its length and key, from one pass over the ids."""
        running = blake2b(b"prefix", digest_size=16)
        for end in self.ends(ids):
            running.update(_bytes(ids[end - self.block : end]))
            yield end, running.copy().digest()

    def _put(self, key: bytes, value: Kept) -> None:
        if key in self._kept:
            self._kept.move_to_end(key)
            return
        own = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(value)}
        if sum(own.values()) > self.max_bytes:
            self.report.refused += 1
            return
        self._kept[key] = value
        for storage, size in own.items():
            holders = self._holders.setdefault(storage, [size, 0])
            holders[1] += 1
            self.report.bytes += size if holders[1] == 1 else 0
        while self.report.bytes > self.max_bytes:
            self._drop()
        self.report.entries = len(self._kept)

    def _drop(self) -> None:
        _, value = self._kept.popitem(last=False)
        self.report.evicted += 1
        for storage in {t.untyped_storage().data_ptr() for t in _tensors(value)}:
            holders = self._holders[storage]
            holders[1] -= 1
            if not holders[1]:
                self.report.bytes -= holders[0]
                del self._holders[storage]


def digest(ids: Sequence[int], purpose: str = "prefix") -> bytes:
    """What names a row of ids: 128 bits of BLAKE2, so that no two rows share it."""
    running = blake2b(purpose.encode(), digest_size=16)
    running.update(_bytes(ids))
    return running.digest()


def _bytes(ids: Sequence[int]) -> bytes:
    return b"".join(n.to_bytes(4, "little") for n in ids)


def _tensors(value: Kept) -> Iterator[Tensor]:
    if isinstance(value, Source):
        yield from (t for f in fields(value) if isinstance(t := getattr(value, f.name), Tensor))
        for state in value.handed or ():
            yield from state.values()
        return
    yield from value.places.values()
    for block in value.blocks:
        yield from block.mixer.values()
        if block.cross is not None:
            yield from block.cross.values()


# ---------------------------------------------------------------- reading prompts and sources


@torch.inference_mode()
def read(
    model: Generates,
    prompts: Sequence[Sequence[int]],
    context: Context = EMPTY,
    *,
    pad: int = 0,
    cache: PrefixCache | None = None,
    device: torch.device | None = None,
) -> tuple[Start, int]:
    """Read the prompts, which stand at the right so that all of them end where writing begins.

    What all of them begin with is read once, up to the last block end that the cache knows or now learns; the second
    of what is given is how many positions the cache had. A decoder that reads a source has its source kept instead.
    """
    common = known = 0
    state: ModelState | None = None
    if cache is not None and context is EMPTY:
        common, known, state = _shared(model, prompts, cache, device)
        if state is not None and len(prompts) > 1:
            rows = torch.zeros(len(prompts), dtype=torch.int64, device=device)
            state = state.reorder(rows, rows)
    ids, mask = pad_left([prompt[common:] for prompt in prompts], pad, device)
    x, state = model.hidden(ids, state, context if mask is None else replace(context, mask=mask))
    history = pad_left(prompts, -1, device)[0]
    return Start(model.head(x[:, -1:])[:, 0], state, history), known


def _shared(
    model: Generates, prompts: Sequence[Sequence[int]], cache: PrefixCache, device: torch.device | None
) -> tuple[int, int, ModelState | None]:
    """How long a prefix of all prompts is read now, how much of it was known, and the state of one row after it."""
    most = min(map(len, prompts)) - 1
    shared = next((n for n in range(most) if any(prompt[n] != prompts[0][n] for prompt in prompts)), most)
    prefix = prompts[0][: shared + 1]
    known, state = cache.longest(prefix)
    length = known
    for end in cache.ends(prefix):
        if end > length:
            ids = torch.tensor([list(prefix[length:end])], device=device)
            _, state = model.hidden(ids, state, EMPTY)
            cache.put(prefix[:end], state)
            length = end
    return length, known, state


def pad_left(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor | None]:
    """Rows of ids, padded on the left: [B T], and its mask, which is None where all are as long."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device).unsqueeze(1)
    if int(lengths.min()) == longest:
        return ids, None
    return ids, torch.arange(longest, device=device) >= longest - lengths


@torch.inference_mode()
def read_sources(
    model: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    *,
    pad: int,
    cache: PrefixCache | None = None,
    device: torch.device | None = None,
) -> tuple[Source, list[int]]:
    """Encode the sources, and how many positions of each the cache had; what it had is not encoded again.

    Where an encoder hands over states, sources that are asked for together are kept together, since the states of
    padded rows say how they were padded.
    """
    if cache is None:
        return _encode(model, sources, pad, device), [0] * len(sources)
    if model.config.handover != "memory":
        together = [n for ids in sources for n in (*ids, SEPARATOR)]
        found = cache.source(together)
        if found is not None:
            return found, [len(ids) for ids in sources]
        found = _encode(model, sources, pad, device)
        cache.put_source(together, found)
        return found, [0] * len(sources)
    kept = {tuple(ids): cache.source(ids) for ids in sources}
    new = [ids for ids, one in kept.items() if one is None]
    if new:
        made = _encode(model, new, pad, device).memory
        assert made is not None
        for row, ids in enumerate(new):
            one = Source(memory=made[row : row + 1, : len(ids)].clone())
            kept[ids] = one
            cache.put_source(ids, one)
    rows = [memory for ids in sources if (one := kept[tuple(ids)]) is not None and (memory := one.memory) is not None]
    return _joined(rows), [0 if tuple(ids) in new else len(ids) for ids in sources]


SEPARATOR = 2**32 - 1


def _encode(model: EncoderDecoder, sources: Sequence[Sequence[int]], pad: int, device: torch.device | None) -> Source:
    longest = max(map(len, sources))
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in sources], device=device)
    lengths = torch.tensor([len(row) for row in sources], device=device)
    return model.read(ids, _mask(lengths, longest))


def _joined(memories: Sequence[Tensor]) -> Source:
    """Memories [1 S D] of different lengths as one, padded on the right."""
    lengths = torch.tensor([m.shape[1] for m in memories], device=memories[0].device)
    longest = int(lengths.max())
    memory = torch.cat([torch.nn.functional.pad(m, (0, 0, 0, longest - m.shape[1])) for m in memories])
    return Source(memory=memory, memory_mask=_mask(lengths, longest))


def _mask(lengths: Tensor, longest: int) -> Tensor | None:
    """Which places are real where the padding is on the right: bool [B longest]; None: all of them."""
    if int(lengths.min()) == longest:
        return None
    return torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)
