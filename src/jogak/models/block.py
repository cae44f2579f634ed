"""A block: mixer, optional cross-mixer, feedforward, each on the residual stream; and a stack of blocks.

Legend: B batch, T time, D model width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jogak import config, mixers
from jogak.errors import UserError
from jogak.layers.dropout import Dropout
from jogak.layers.feedforward import build_feedforward
from jogak.layers.moe import Experts
from jogak.layers.norm import build_norm
from jogak.mixers import EMPTY, Context, Mixer, State
from jogak.models.step import Step

Side = Literal["encoder", "decoder"]


@dataclass(frozen=True, eq=False)
class BlockState:
    """What a block carries: its mixer's state, and its cross-mixer's."""

    mixer: State
    cross: State | None = None

    @property
    def nbytes(self) -> int:
        return self.mixer.nbytes + (self.cross.nbytes if self.cross is not None else 0)


class PreNorm(nn.Module):
    """x + f(norm(x)). Source: Xiong et al. 2020 (2002.04745)."""

    def __init__(self, norm: Callable[[], nn.Module], dropout: float) -> None:
        super().__init__()
        self.norm, self.dropout = norm(), Dropout(dropout)

    def inside(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        return self.dropout(y, onto=x)


class PostNorm(nn.Module):
    """norm(x + f(x)). Source: Vaswani et al. 2017 (1706.03762) section 3.1."""

    def __init__(self, norm: Callable[[], nn.Module], dropout: float) -> None:
        super().__init__()
        self.norm, self.dropout = norm(), Dropout(dropout)

    def inside(self, x: Tensor) -> Tensor:
        return x

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(self.dropout(y, onto=x))


class Sandwich(nn.Module):
    """x + norm(f(norm(x))). Source: Ding et al. 2021 (2105.13290) section 2.3."""

    def __init__(self, norm: Callable[[], nn.Module], dropout: float) -> None:
        super().__init__()
        self.norm, self.norm_after, self.dropout = norm(), norm(), Dropout(dropout)

    def inside(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        return self.dropout(self.norm_after(y), onto=x)


class Plain(nn.Module):
    """f(x), without residual or norm: layers stacked as in Sutskever et al. 2014 (1409.3215)."""

    def __init__(self, norm: Callable[[], nn.Module], dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)

    def inside(self, x: Tensor) -> Tensor:
        return x

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        return self.dropout(y)


Residual = PreNorm | PostNorm | Sandwich | Plain
PLACEMENTS: dict[str, type[Residual]] = {"pre": PreNorm, "post": PostNorm, "sandwich": Sandwich, "plain": Plain}


def _mix(mixer: Mixer, x: Tensor, state: State | None, context: Context) -> tuple[Tensor, State]:
    if state is not None and x.shape[1] == 1:
        return mixer.step(x, state, context)
    return mixer(x, state, context)


class Block(nn.Module):
    """Mixer, cross-mixer and feedforward one after another, each with a residual of its own: [B T D] -> [B T D]."""

    def __init__(
        self,
        mixer: Mixer,
        cross: Mixer | None,
        feedforward: nn.Module | None,
        residual: Callable[[], Residual],
    ) -> None:
        super().__init__()
        self.mixer, self.cross, self.feedforward = mixer, cross, feedforward
        self.mixer_residual = residual()
        self.cross_residual = residual() if cross is not None else None
        self.feedforward_residual = residual() if feedforward is not None else None
        self._step = Step()

    def forward(
        self, x: Tensor, state: BlockState | None = None, context: Context = EMPTY
    ) -> tuple[Tensor, BlockState]:
        if state is not None and (found := self._in_one(x, state, context)) is not None:
            return found
        inside = self.mixer_residual
        y, mixer_state = _mix(self.mixer, inside.inside(x), None if state is None else state.mixer, context)
        x, cross_state = inside.join(x, y), None
        if self.cross is not None and self.cross_residual is not None:
            inside = self.cross_residual
            y, cross_state = _mix(self.cross, inside.inside(x), None if state is None else state.cross, context)
            x = inside.join(x, y)
        if self.feedforward is not None and self.feedforward_residual is not None:
            inside = self.feedforward_residual
            x = inside.join(x, self.feedforward(inside.inside(x)))
        return x, BlockState(mixer_state, cross_state)

    def _in_one(self, x: Tensor, state: BlockState, context: Context) -> tuple[Tensor, BlockState] | None:
        """A step of decoding in one compiled loop, where that is possible: see `Step`."""
        children = self._modules  # without what looking up an attribute of a module costs
        first, feedforward = children["mixer_residual"], children.get("feedforward")
        if x.shape[1] != 1 or self.training or type(first) is not PreNorm or "cross" in children:
            return None
        parts = (children["mixer"], first)
        if feedforward is not None:
            parts = (*parts, feedforward, children["feedforward_residual"])
        found = self._step(cast(tuple[nn.Module, ...], parts), x, state.mixer, context)
        return None if found is None else (found[0], BlockState(found[1]))


class ParallelBlock(nn.Module):
    """x + mixer(norm(x)) + cross(norm(x)) + feedforward(norm(x)).

    Source: Wang & Komatsuzaki 2021 (GPT-J); Chowdhery et al. 2022 (2204.02311) section 2. With a second norm for the
    feedforward: Black et al. 2022 (GPT-NeoX, 2204.06745) section 2.1.
    """

    def __init__(
        self,
        mixer: Mixer,
        cross: Mixer | None,
        feedforward: nn.Module | None,
        residual: Callable[[], Residual],
        apart: Callable[[], nn.Module] | None = None,
    ) -> None:
        """apart: makes a norm of its own for what the feedforward reads."""
        super().__init__()
        self.mixer, self.cross, self.feedforward = mixer, cross, feedforward
        self.residual = residual()
        self.feedforward_norm = None if apart is None or feedforward is None else apart()

    def forward(
        self, x: Tensor, state: BlockState | None = None, context: Context = EMPTY
    ) -> tuple[Tensor, BlockState]:
        h = self.residual.inside(x)
        y, mixer_state = _mix(self.mixer, h, None if state is None else state.mixer, context)
        cross_state = None
        if self.cross is not None:
            read, cross_state = _mix(self.cross, h, None if state is None else state.cross, context)
            y = y + read
        if self.feedforward is not None:
            y = y + self.feedforward(h if self.feedforward_norm is None else self.feedforward_norm(x))
        return self.residual.join(x, y), BlockState(mixer_state, cross_state)


class Stack(nn.Module):
    """Blocks in a row, their mixers following a repeating pattern: [B T D] -> [B T D].

    keeps_states: whether the states are wanted in training too, where gradient checkpointing otherwise drops them.
    """

    def __init__(self, blocks: Sequence[Block | ParallelBlock], final_norm: nn.Module | None) -> None:
        super().__init__()
        self.blocks = cast(list[Block | ParallelBlock], nn.ModuleList(blocks))  # which iterates like a list
        self.final_norm = final_norm
        self.gradient_checkpointing = False
        self.keeps_states = False

    def in_a_row(self, longest: int) -> bool:
        """Whether every mixer would as soon train on documents in one row: see Mixer.in_a_row."""
        mixers = [m for block in self.blocks for m in (block.mixer, block.cross) if m is not None]
        return all(mixer.in_a_row(longest) for mixer in mixers)

    def forward(
        self, x: Tensor, states: tuple[BlockState, ...] | None = None, context: Context = EMPTY
    ) -> tuple[Tensor, tuple[BlockState, ...]]:
        after: list[BlockState] = []
        for index, block in enumerate(self.blocks):
            state = None if states is None else states[index]
            if self.gradient_checkpointing and self.training:
                call = partial(block, state=state, context=context)
                x, new = cast(tuple[Tensor, BlockState], checkpoint(call, x, use_reentrant=False))
            else:
                x, new = block(x, state, context)
            if state is not None or self.keeps_states or not (self.gradient_checkpointing and self.training):
                after.append(new)
        return (x if self.final_norm is None else self.final_norm(x)), tuple(after)


def build_stack(given: config.Stack, width: int, dropout: float, side: Side) -> Stack:
    """The stack that the configuration describes; a decoder's mixers are causal, an encoder's look both ways.

    Raises: UserError where a mixer does not fit its place.
    """

    def norm() -> nn.Module:
        return build_norm(given.norm, width, given.norm_eps, bias=given.norm_bias)

    def residual() -> Residual:
        return PLACEMENTS.get(given.placement, PreNorm)(norm, dropout)

    if given.placement == "plain" and given.cross is not None:
        raise UserError(
            f"{side}.placement: 'plain' has no residual, so that what a cross-mixer reads would replace what it is "
            "for; use 'pre', 'post', 'sandwich' or 'parallel'"
        )
    kind: Callable[..., Block | ParallelBlock] = Block
    if given.placement in ("parallel", "parallel_apart"):
        kind = partial(ParallelBlock, apart=norm if given.placement == "parallel_apart" else None)
    causal = side == "decoder" or bool(given.causal)
    blocks: list[Block | ParallelBlock] = []
    for index in range(given.depth):
        mixer = _mixer(given.pattern[index % len(given.pattern)], width, side, causal=causal)
        cross = None if given.cross is None else _cross(given.cross, width)
        blocks.append(kind(mixer, cross, _feedforward(given, index, width), residual))
    if not given.first_norm and blocks:
        _leave_out_first_norm(blocks[0], side)
    if given.share_position:
        _share_position(blocks, side)
    final = given.final_norm if given.final_norm is not None else given.placement not in ("post", "plain")
    return Stack(blocks, norm() if final else None)


def _feedforward(given: config.Stack, index: int, width: int) -> nn.Module | None:
    pattern = (given.feedforward,) if given.feedforwards is None else given.feedforwards
    if not pattern or (ff := pattern[index % len(pattern)]) is None:
        return None
    inner = ff.width or 4 * width
    if ff.experts is not None:
        return Experts(width, inner, ff.activation, ff.experts, ff.chosen, bias=ff.bias, norm_chosen=ff.norm_chosen)
    return build_feedforward(width, inner, ff.activation, bias=ff.bias)


def _leave_out_first_norm(block: Block | ParallelBlock, side: Side) -> None:
    if not isinstance(block, Block) or not isinstance(block.mixer_residual, PreNorm):
        raise UserError(f"{side}.first_norm: only placement 'pre' has a norm before the first mixer to leave out")
    block.mixer_residual.norm = nn.Identity()


def _share_position(blocks: Sequence[Block | ParallelBlock], side: Side) -> None:
    """Give all blocks the module of the first that adds a learned number to each score."""
    first = next(iter(blocks), None)
    for block in blocks:
        if not isinstance(getattr(block.mixer, "score_bias", None), nn.Module):
            raise UserError(
                f"{side}.share_position: a mixer adds no position bias to its scores; give all of the pattern "
                "position: t5, or remove share_position"
            )
        block.mixer.score_bias = first.mixer.score_bias  # pyright: ignore[reportOptionalMemberAccess]


def _mixer(given: config.Mixer, width: int, side: Side, *, causal: bool) -> Mixer:
    options = given.options
    if "causal" in options:
        raise UserError(f"{side}.pattern: '{given.name}' must not say 'causal'; being in the {side} says it")
    kind = mixers.kind(given.name)
    if "causal" in mixers.parameters(given.name):
        options["causal"] = causal
    elif causal and not kind.causal_only:
        place = "a decoder" if side == "decoder" else "an encoder that is causal or hands over its states"
        raise UserError(
            f"{side}.pattern: mixer '{given.name}' looks ahead, which {place} must not; name one that looks back only"
        )
    elif not causal and kind.causal_only:
        raise UserError(
            f"encoder.pattern: mixer '{given.name}' cannot look ahead, which an encoder needs; "
            f"write {{name: bidirectional, inner: {given.name}}}"
        )
    return mixers.build(given.name, d_model=width, **options)


def with_mixer(given: config.Model, name: str) -> config.Model:
    """The configuration with the mixer `name` in every block, or several that take turns, joined by "+".

    Options that the configuration gives to a mixer of that name are kept. Where an encoder needs one that looks
    ahead, one that cannot is run both ways.

    Raises: UserError for an unknown name.
    """
    if given.towers is not None:
        first, second = (with_mixer(tower, name) for tower in given.towers)
        return given.model_copy(update={"towers": (first, second)})
    changes: dict[str, config.Stack] = {}
    for side in given.topology.split("-"):
        stack = getattr(given, side) or config.Stack()
        both_ways = side == "encoder" and not stack.causal and given.handover == "memory"
        pattern = tuple(_placed(part, stack.pattern, both_ways=both_ways) for part in name.split("+"))
        changes[side] = stack.model_copy(update={"pattern": pattern})
    return given.model_copy(update=changes)


def _placed(name: str, pattern: Sequence[config.Mixer], *, both_ways: bool) -> config.Mixer:
    given = next((m for m in pattern if m.name == name), None)
    if given is not None:
        return given
    if both_ways and mixers.kind(name).causal_only:
        return config.Mixer.model_validate({"name": "bidirectional", "inner": name})
    mixers.kind(name)
    return config.Mixer(name=name)


def check_handover(encoder: Stack, decoder: Stack) -> None:
    """Refuse stacks of which one cannot go on with the states of the other.

    Raises: UserError.
    """
    if len(encoder.blocks) != len(decoder.blocks):
        raise UserError(
            f"model.handover: each block's state goes to the decoder's block of the same number, and there are "
            f"{len(encoder.blocks)} and {len(decoder.blocks)}; give both sides one depth"
        )
    for number, (first, second) in enumerate(zip(encoder.blocks, decoder.blocks, strict=True), start=1):
        ours, theirs = first.mixer, second.mixer
        names = [type(m).__module__.rpartition(".")[2] for m in (ours, theirs)]
        if ours.state_grows or theirs.state_grows:
            raise UserError(
                f"model.handover: block {number}'s '{names[ours.state_grows is False]}' keeps every position, so there "
                "is no last state to hand over; use a recurrent mixer, or handover: memory"
            )
        shapes = [{n: t.shape for n, t in m.init_state(1, device="meta").items()} for m in (ours, theirs)]
        if type(ours) is not type(theirs) or shapes[0] != shapes[1]:
            raise UserError(
                f"model.handover: in block {number} the decoder's '{names[1]}' cannot go on with the state of the "
                f"encoder's '{names[0]}'; give both sides one mixer of one size"
            )


def _cross(given: config.Mixer, width: int) -> Mixer:
    return mixers.build(given.name, d_model=width, cross=True, **given.options)
