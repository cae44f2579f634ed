"""The three topologies: an encoder, a decoder, and a decoder that reads what an encoder wrote.

Legend: B batch, T time, S source length, D model width, V vocabulary, M rows of memory (B a multiple of M).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from jogak import config
from jogak.errors import UserError
from jogak.layers import inputs
from jogak.layers.embedding import Embedding
from jogak.layers.inputs import Input
from jogak.mixers import EMPTY, Context, State
from jogak.models.block import BlockState, Side, build_stack, check_handover
from jogak.models.contacts import Contacts, attention_of
from jogak.models.heads import TokenHead, VectorHead, build_head, build_pooler
from jogak.models.initialise import initialise
from jogak.ops import positions as counting


@dataclass(frozen=True, eq=False)
class ModelState:
    """What a decoder carries from one call to the next; like every state, no call changes it.

    places: how many real positions each row's document has (count [B]) and which document that is (segment [B]),
    kept once a mask or segments were given.
    """

    blocks: tuple[BlockState, ...]
    places: State

    @property
    def seen(self) -> int:
        """Positions that have gone by, padding included."""
        return self.places.seen

    @property
    def nbytes(self) -> int:
        return self.places.nbytes + sum(b.nbytes for b in self.blocks)

    def reorder(self, index: Tensor, memory_index: Tensor | None = None) -> "ModelState":
        """The state of rows x[index]; the memory's rows are taken by memory_index, and stay where it is None.

        With None, row b of the result must still belong to memory row b // (B / M): beams that change places
        within their sentence.
        """
        blocks = tuple(
            BlockState(
                b.mixer.reorder(index),
                b.cross if b.cross is None or memory_index is None else b.cross.reorder(memory_index),
            )
            for b in self.blocks
        )
        return ModelState(blocks, self.places.reorder(index))


class Coder(nn.Module):
    """An embedding (or another input) and a stack: what an encoder and a decoder have in common.

    What it reads is ids [B T], or whatever the configuration's `input` takes.
    """

    def __init__(self, given: config.Model, vocab_size: int, side: Side) -> None:
        super().__init__()
        stack = given.stack(side)
        first = side == given.topology.split("-", maxsplit=1)[0]
        self.input: Input | None = None
        if given.input is not None and first:
            self.input = inputs.build(given.input.name, d_model=given.width, **given.input.options)
        else:
            self.embedding = Embedding(given, vocab_size, stack)
        if stack.norm == "batch" and (self.input is None or self.input.padded or side == "decoder" or stack.causal):
            raise UserError(
                f"{side}.norm: 'batch' would count padding and what comes later while it trains; use layer or rms, or "
                "an encoder with an input that is never padded"
            )
        self.stack = build_stack(stack, given.width, given.dropout, side)
        self.contacts = None if given.contacts_end is None else Contacts(self.stack, given.contacts_end)

    def forward(
        self,
        ids: Tensor,
        state: ModelState | None = None,
        context: Context = EMPTY,
        types: Tensor | None = None,
    ) -> tuple[Tensor, ModelState]:
        """types: int64 [B T], the kind of each unit, where the model tells kinds apart; zeros where not given."""
        if self.input is not None:
            x = self.input(ids, context.mask)
            context = replace(context, mask=self.input.mask(context.mask))
            _, places = _positions(x[..., 0], None if state is None else state.places, context)
        else:
            positions, places = _positions(ids, None if state is None else state.places, context)
            x = self.embedding(ids, positions, types, context.mask, context.segments)
        x, blocks = self.stack(x, None if state is None else state.blocks, context)
        return x, ModelState(blocks, places)

    def touching(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """How likely each two places touch, the first and last place left out: ids [B T] -> [B T-2 T-2].

        Raises: UserError where the model does not say so.
        """
        if self.contacts is None:
            raise UserError("model.contacts_end is not set: this model does not say which places touch")
        context = Context(mask=mask)
        positions, _ = _positions(ids, None, context)
        x = self.embedding(ids, positions, None, mask)
        return self.contacts(attention_of(self.stack, x, context), ids, mask)

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> ModelState:
        blocks = tuple(
            BlockState(
                block.mixer.init_state(batch, device=device, dtype=dtype),
                None if block.cross is None else block.cross.init_state(batch, device=device, dtype=dtype),
            )
            for block in self.stack.blocks
        )
        return ModelState(blocks, State({}, owner="Coder"))


def _positions(ids: Tensor, before: State | None, context: Context) -> tuple[Tensor, State]:
    """Positions of ids [B T], and the places that the next call continues from."""
    before = State({}, owner="Coder") if before is None else before
    seen = before.seen + ids.shape[1]
    if context.mask is None and context.segments is None and "count" not in before:
        if context.positions is not None:
            return context.positions, State({}, seen=seen, owner="Coder")
        at = counting.count((1, ids.shape[1]), ids.device, before=before.seen)
        return at, State({}, seen=seen, owner="Coder")
    mask = torch.ones_like(ids, dtype=torch.bool) if context.mask is None else context.mask
    last = before.get("segment")
    segments = context.segments
    if segments is None:
        segments = torch.zeros_like(ids, dtype=torch.int64) if last is None else last.unsqueeze(1).expand_as(ids)
    at = counting.count(
        (ids.shape[0], ids.shape[1]),
        ids.device,
        mask=mask,
        segments=segments,
        before=before.get("count", before.seen),
        last_segment=last,
    )
    places = {"count": at[:, -1] + mask[:, -1].long(), "segment": segments[:, -1]}
    return at if context.positions is None else context.positions, State(places, seen=seen, owner="Coder")


class Encoder(nn.Module):
    """ids [B T] -> hidden [B T D] (`encode`), and through a tied head logits [B T V] (masked language models).

    head.kind 'none': hidden is all that it gives; `pooled` makes one vector of it, where head.dense says how. Where the
    input makes several rows R of one, outputs are [B R T D].
    """

    def __init__(self, given: config.Model, vocab_size: int) -> None:
        super().__init__()
        self.config = given
        self.encoder = Coder(given, vocab_size, "encoder")
        self.head = build_head(given, vocab_size, given.stack("encoder"), self.encoder.input)
        self.pooler = build_pooler(given, given.stack("encoder"))
        if given.tie in ("output", "all") and isinstance(self.head, TokenHead):
            self.head.projection.weight = self.encoder.embedding.table.weight
        initialise(self, given.init, given.width)

    def encode(self, ids: Tensor, context: Context = EMPTY, types: Tensor | None = None) -> Tensor:
        return self.encoder(ids, None, context, types)[0]

    def pooled(self, hidden: Tensor, mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        """One vector for each row of what `encode` gave, [B T D] -> [B D]; ids: where head.pool is 'unit'.

        Raises: UserError where the model has no such layer.
        """
        if self.pooler is None:
            raise UserError("model.head: nothing says how one vector is made; set head.kind to none and head.dense")
        return self.pooler(hidden, mask, ids)

    def forward(self, ids: Tensor, mask: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        hidden = self.encode(ids, Context(mask=mask), types)
        if isinstance(self.head, VectorHead):
            return self.head(hidden, mask if self.encoder.input is None else self.encoder.input.mask(mask), ids)
        y = self.head(hidden)
        return y if y.shape[0] == ids.shape[0] else y.unflatten(0, (ids.shape[0], -1))


class Decoder(nn.Module):
    """ids [B T] -> logits [B T V] of the next unit; with a state, after everything that the state has seen."""

    def __init__(self, given: config.Model, vocab_size: int) -> None:
        super().__init__()
        self.config = given
        self.decoder = Coder(given, vocab_size, "decoder")
        self.head = build_head(given, vocab_size, given.stack("decoder"))
        if given.tie in ("output", "all") and isinstance(self.head, TokenHead):
            self.head.projection.weight = self.decoder.embedding.table.weight
        initialise(self, given.init, given.width)

    def init_state(self, batch: int) -> ModelState:
        embedding = self.decoder.embedding
        return self.decoder.init_state(batch, embedding.device, embedding.dtype)

    def hidden(
        self, ids: Tensor, state: ModelState | None = None, context: Context = EMPTY
    ) -> tuple[Tensor, ModelState]:
        """What the head reads: [B T D]."""
        return self.decoder(ids, state, context)

    def decode(
        self, ids: Tensor, state: ModelState | None = None, context: Context = EMPTY
    ) -> tuple[Tensor, ModelState]:
        x, state = self.hidden(ids, state, context)
        return self.head(x), state

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.decode(ids, None, Context(mask=mask))[0]


@dataclass(frozen=True, eq=False)
class Source(Context):
    """The context of a decoder that reads a source: the memory, and what the encoder's blocks left behind.

    handed: a state of M rows for each block, which it begins with; rows b of B begin with row b // (B / M).
    """

    handed: tuple[State, ...] | None = None

    def begin(self, batch: int) -> ModelState | None:
        """The state in which a decoder begins `batch` rows; None: empty.

        Raises: UserError where the rows are no multiple of the source's.
        """
        if self.handed is None:
            return None
        blocks: list[BlockState] = []
        for state in self.handed:
            rows = next(iter(state.values())).shape[0]
            if batch % rows:
                raise UserError(f"the decoder has {batch} rows, which is no multiple of the {rows} rows of the source")
            repeat = batch // rows
            blocks.append(
                BlockState(state if repeat == 1 else state.map(lambda t, n=repeat: t.repeat_interleave(n, 0)))
            )
        return ModelState(tuple(blocks), State({}, owner="Coder"))


class EncoderDecoder(Decoder):
    """source [M S], ids [B T] -> logits [B T V]: the Transformer of 1706.03762 where its mixers are attention.

    handover 'state': no memory; each block of the decoder goes on with the last state of the encoder's block of its
    number, as in Sutskever et al. 2014 (1409.3215). 'both': that, and cross-mixers that read the memory.
    """

    def __init__(self, given: config.Model, vocab_size: int) -> None:
        super().__init__(given, vocab_size)
        self.encoder = Coder(given, given.source_vocab_size or vocab_size, "encoder")
        if given.handover != "memory":
            check_handover(self.encoder.stack, self.decoder.stack)
            self.encoder.stack.keeps_states = True
        if given.tie in ("embeddings", "all") and given.input is None:
            self.encoder.embedding.table.weight = self.decoder.embedding.table.weight
        initialise(self, given.init, given.width)

    def init_state(self, batch: int) -> ModelState:
        if self.config.handover != "memory":
            raise UserError("the decoder begins with its source's state; decode without one, in the context of read()")
        return super().init_state(batch)

    def in_a_row(self, longest: int) -> bool:
        """Whether training on a CPU gains where sources, and targets, lie one behind another in a row without padding.

        longest: places of the longest of them. The numbers are the same.
        """
        stacks = (self.encoder.stack, self.decoder.stack)
        return self.config.handover == "memory" and all(stack.in_a_row(longest) for stack in stacks)

    def encode(self, source: Tensor, context: Context = EMPTY) -> Tensor:
        """source [M S] -> memory [M S D]."""
        return self._encode(source, context)[0]

    def _encode(self, source: Tensor, context: Context) -> tuple[Tensor, tuple[BlockState, ...]]:
        """The memory [M S D] in the order of the source, and the blocks' last states."""
        if not self.config.reverse_source:
            memory, state = self.encoder(source, None, context)
            return memory, state.blocks
        flipped = {n: t.flip(1) for n in ("mask", "segments", "positions") if (t := getattr(context, n)) is not None}
        memory, state = self.encoder(source.flip(1), None, replace(context, **flipped))
        return memory.flip(1), state.blocks

    def read(
        self,
        source: Tensor,
        source_mask: Tensor | None = None,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Source:
        """The context in which a decoder reads `source`: encode it, and say where it is padded.

        positions: int64 [M S]; None: counted over real places.

        Raises: UserError for packed documents whose states are to be handed over.
        """
        handover = self.config.handover
        if segments is not None and handover != "memory":
            raise UserError(
                f"model.handover: '{handover}' hands over one state a row, and packed rows hold several documents; "
                "set train.pack to false"
            )
        memory, blocks = self._encode(source, Context(mask=source_mask, segments=segments, positions=positions))
        if self.encoder.input is not None:
            source_mask = self.encoder.input.mask(source_mask)
        handed = None if handover == "memory" else tuple(block.mixer for block in blocks)
        if handover == "state":
            return Source(handed=handed)
        return Source(memory=memory, memory_mask=source_mask, memory_segments=segments, handed=handed)

    def hidden(
        self, ids: Tensor, state: ModelState | None = None, context: Context = EMPTY
    ) -> tuple[Tensor, ModelState]:
        """What the head reads, [B T D]; without a state it begins with what the source handed over."""
        if state is None and self.config.handover != "memory":
            if not isinstance(context, Source):
                raise UserError("the decoder begins with its source's state; give the context that read() returns")
            state = context.begin(ids.shape[0])
        return super().hidden(ids, state, context)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # reads a source besides
        self,
        source: Tensor,
        ids: Tensor,
        source_mask: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        context = replace(self.read(source, source_mask), mask=mask)
        return self.decode(ids, None, context)[0]
