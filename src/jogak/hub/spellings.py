"""One function spelled in several ways: what a run computes, as the families of Hugging Face lay it out.

A change keeps what a model computes and says it by another configuration and other tensors; `spellings` gives every
combination, the fewest changes first.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from jogak import config, models
from jogak.hub import keymap
from jogak.layers.position import Sinusoidal
from jogak.models import Model

Tensors = dict[str, Tensor]
Asked = Callable[[config.Model], dict[str, object] | None]


@dataclass(frozen=True)
class Change:
    """asks: the keys of the configuration that it sets, None where it cannot be made. tensors: old to new."""

    asks: Asked
    tensors: Callable[[config.Model, Tensors], Tensors]


@dataclass(frozen=True)
class Spelling:
    """A configuration, and the changes that led to it."""

    given: config.Model
    changes: tuple[Change, ...] = ()

    def module(self, module: Model, was: config.Model) -> Model:
        """The model under this configuration; `module` itself where nothing changes."""
        if not self.changes:
            return module
        tensors = {name: t.detach() for name, t in keymap.our_tensors(module).items()}
        for change in self.changes:
            tensors = change.tensors(was, tensors)
            was = _applied(change, was) or was
        made = models.build(self.given, device="meta")
        device = next(module.parameters()).device
        keymap.give(made, tensors, "the model in another spelling", None, device)
        return made.train(module.training)


def spellings(given: config.Model) -> Iterator[Spelling]:
    """The configuration as it is, and every other that computes the same."""
    for count in range(len(CHANGES) + 1):
        for chosen in combinations(CHANGES, count):
            found: config.Model | None = given
            for change in chosen:
                found = None if found is None else _applied(change, found)
            if found is not None:
                yield Spelling(found, chosen)


def _applied(change: Change, given: config.Model) -> config.Model | None:
    asked = change.asks(given)
    return None if asked is None else given.model_copy(update=asked)


# ---------------------------------------------------------------- sines beside their cosines, or before all of them

# The tensors along whose first or second axis the residual stream runs, in models of attention and feedforwards.
_ALONG = {
    0: r".*(norm|norm_after)\.(weight|bias)|.*\.(mixer|cross|feedforward)\.out\.(weight|bias)",
    1: r".*\.embedding\.(table|types)\.weight|.*\.(mixer\.qkv|cross\.q|cross\.kv|feedforward\.inner)\.weight"
    r"|head\.projection\.weight",
}
_BESIDE = r".*\.(mixer\.qkv|cross\.q|cross\.kv|feedforward\.inner)\.bias|.*\.[qk]_norm\.weight|head\.projection\.bias"


def _halves(given: config.Model) -> dict[str, object] | None:
    plain = given.position == "sinusoidal" and given.head.transform is None and given.head.dense is None
    return {"position": "sinusoidal_halves"} if plain and given.head.kind != "classes" and _known(given) else None


def _known(given: config.Model) -> bool:
    """Whether every block is attention and a feedforward, whose tensors the patterns above tell."""
    for side in given.topology.split("-"):
        stack = given.stack("encoder" if side == "encoder" else "decoder")
        mixers = [*stack.pattern, *([] if stack.cross is None else [stack.cross])]
        if any(m.name != "attention" for m in mixers) or stack.feedforwards is not None:
            return False
        if stack.feedforward is not None and stack.feedforward.experts is not None:
            return False
    return True


def _by_halves(given: config.Model, tensors: Tensors) -> Tensors:
    """Any order of the residual stream's numbers will do, if all tensors that touch it keep to it."""
    order = torch.cat([torch.arange(0, given.width, 2), torch.arange(1, given.width, 2)])
    found: Tensors = {}
    for name, tensor in tensors.items():
        if re.fullmatch(_BESIDE, name):
            found[name] = tensor
            continue
        axis = next(axis for axis, pattern in _ALONG.items() if re.fullmatch(pattern, name))
        found[name] = tensor.index_select(axis, order.to(tensor.device))
    return found


# ---------------------------------------------------------------- positions, scales and biases written out


def _learned(given: config.Model) -> dict[str, object] | None:
    return {"position": "learned"} if given.position == "sinusoidal" and given.topology != "encoder-decoder" else None


def _as_table(given: config.Model, tensors: Tensors) -> Tensors:
    """The sines as a table of the longest input."""
    numbers = Sinusoidal(given.width)(torch.arange(given.max_length + given.position_offset))
    weight = tensors[f"{given.topology}.embedding.table.weight"]
    return {**tensors, f"{given.topology}.embedding.position.weight": numbers.to(weight)}


def _unscaled(given: config.Model) -> dict[str, object] | None:
    """The head keeps its own numbers, since those of the embedding grow."""
    if given.scale_embedding is False or given.topology == "encoder-decoder" or given.hidden_id is not None:
        return None
    return {"scale_embedding": False, "tie": "none"}


def _scaled(given: config.Model, tensors: Tensors) -> Tensors:
    name, scale = f"{given.topology}.embedding.table.weight", given.scale_embedding
    factor = given.width**0.5 if isinstance(scale, bool) else scale
    head = {} if given.head.kind != "units" else {"head.projection.weight": tensors[name]}
    return {**head, **tensors, name: tensors[name] * factor}


def _biased(given: config.Model) -> dict[str, object] | None:
    if given.head.kind != "units" or given.head.bias:
        return None
    return {"head": given.head.model_copy(update={"bias": True})}


def _with_bias(given: config.Model, tensors: Tensors) -> Tensors:
    some = next(iter(tensors.values()))
    return {**tensors, "head.projection.bias": some.new_zeros(given.vocab_size or 0)}


def _kinds(given: config.Model) -> dict[str, object] | None:
    return {"token_types": 1} if given.token_types is None and given.topology == "encoder" else None


def _with_kinds(given: config.Model, tensors: Tensors) -> Tensors:
    some = next(iter(tensors.values()))
    return {**tensors, "encoder.embedding.types.weight": some.new_zeros(1, given.width)}


CHANGES = (
    Change(_biased, _with_bias),
    Change(_halves, _by_halves),
    Change(_learned, _as_table),
    Change(_unscaled, _scaled),
    Change(_kinds, _with_kinds),
)
