"""Attention panels of a model: one ordinary pass, then the weights made anew from what each mixer was given.

Training and decoding keep their fast paths, which never hold a weight; only looking pays for them.
Legend: B batch, T time, S source length, D model width, H heads.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from jogak.errors import UserError
from jogak.looking.panel import Floats, Kind, Panel
from jogak.mixers import EMPTY, Context, Mixer
from jogak.models import Classifier, Coder, Decoder, Encoder, EncoderDecoder, Model, Rereader

TITLES: dict[Kind, str] = {
    "encoder": "Encoder self-attention",
    "decoder": "Decoder self-attention",
    "cross": "Cross-attention",
}
ROWS = 128  # queries whose float64 weights are held at once

Call = tuple[Tensor, Context]  # x [1 T D] and the context that a mixer was given


@runtime_checkable
class Weighing(Protocol):
    """A mixer that can say how much each position takes from each other one."""

    def weights(self, x: Tensor, context: Context = EMPTY, rows: slice = ...) -> Tensor:
        """x [B T D] -> [B H t S] for the queries in `rows`."""
        ...


def collect(
    model: Model,
    source_ids: Sequence[int] = (),
    target_ids: Sequence[int] = (),
    *,
    source_labels: Sequence[str] = (),
    target_labels: Sequence[str] = (),
    written_labels: Sequence[str] = (),
) -> list[Panel]:
    """Every attention of `model` over one example, as panels: encoder, decoder, cross, those that the model has.

    source_ids: what the encoder reads. target_ids: what the decoder reads, its start token included. The labels
    are one for each of these (the numbers themselves where not given). written_labels: what the decoder writes at
    each position, target_ids moved on by one; where given, they label the decoder's rows. Dropout is off meanwhile.

    Raises: UserError where a sequence is missing, or the labels do not fit.
    """
    if isinstance(model, Classifier):
        labels = _labels("source", source_ids, source_labels)
        kind: Kind = "encoder" if model.config.topology == "encoder" else "decoder"
        return [_panel(kind, _mixers(model.coder), _calls(model, source_ids, ()), labels, labels)]
    if isinstance(model, Rereader):
        raise UserError("a classifier with both sides is not shown yet; look at one of topology 'encoder' or 'decoder'")
    source = _labels("source", source_ids, source_labels) if isinstance(model, Encoder | EncoderDecoder) else []
    target = _labels("target", target_ids, target_labels) if isinstance(model, Decoder) else []
    rows = _labels("target", target_ids, written_labels) if written_labels and target else target
    calls = _calls(model, source_ids, target_ids)
    panels: list[Panel] = []
    if isinstance(model, Encoder | EncoderDecoder):
        panels.append(_panel("encoder", _mixers(model.encoder), calls, source, source))
    if isinstance(model, Decoder):
        panels.append(_panel("decoder", _mixers(model.decoder), calls, rows, target, bool(written_labels)))
        if isinstance(model, EncoderDecoder):
            crosses = [block.cross for block in model.decoder.stack.blocks]
            if any(cross is not None for cross in crosses):
                panels.append(_panel("cross", crosses, calls, rows, source, bool(written_labels)))
    return panels


def _labels(what: str, ids: Sequence[int], labels: Sequence[str]) -> list[str]:
    if not len(ids):
        raise UserError(f"the {what} is empty; give at least one token to look at")
    if labels and len(labels) != len(ids):
        raise UserError(f"there are {len(labels)} labels for the {len(ids)} tokens of the {what}; give one for each")
    return list(labels) or [str(int(i)) for i in ids]


def _mixers(coder: Coder) -> list[Mixer | None]:
    return [block.mixer for block in coder.stack.blocks]


def _calls(model: Model, source_ids: Sequence[int], target_ids: Sequence[int]) -> dict[Mixer, Call]:
    """What every mixer of the model was given when it ran over the example."""
    device = next(model.parameters()).device
    one_sided = {Encoder: (source_ids,), Classifier: (source_ids,), Decoder: (target_ids,)}
    given = one_sided.get(type(model), (source_ids, target_ids))
    with _overhearing(model) as calls, _resting(model), torch.no_grad():
        model(*(torch.tensor([list(ids)], device=device) for ids in given))
    return calls


@contextmanager
def _overhearing(model: nn.Module) -> Iterator[dict[Mixer, Call]]:
    """Notes the input and the context of each mixer that runs inside the block."""
    calls: dict[Mixer, Call] = {}

    def note(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        named = dict(zip(("x", "state", "context"), args, strict=False)) | kwargs
        calls[cast(Mixer, module)] = cast(Tensor, named["x"]), cast(Context, named.get("context", EMPTY))

    mixers = [m for m in model.modules() if isinstance(m, Mixer)]
    hooks = [m.register_forward_pre_hook(note, with_kwargs=True) for m in mixers]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _resting(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards each module's own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _panel(
    kind: Kind,
    mixers: Sequence[Mixer | None],
    calls: dict[Mixer, Call],
    queries: list[str],
    keys: list[str],
    rows_write: bool = False,
) -> Panel:
    """The maps of one kind; layers whose mixer has none are named, layers without such a mixer are not meant."""
    maps: list[Floats] = []
    layers: list[int] = []
    without: list[tuple[int, str]] = []
    for number, mixer in enumerate(mixers, start=1):
        if mixer is None:
            continue
        if isinstance(mixer, Weighing):
            maps.append(_weights(mixer, *calls[mixer], len(queries)))
            layers.append(number)
        else:
            without.append((number, type(mixer).__module__.rpartition(".")[2]))  # the file's name is the mixer's
    shape = (len(maps), max((len(m) for m in maps), default=0), len(queries), len(keys))
    weights = np.full(shape, np.nan, dtype=np.float32)
    for index, found in enumerate(maps):
        weights[index, : len(found)] = found
    return Panel(TITLES[kind], kind, queries, keys, weights, tuple(layers), tuple(without), rows_write)


def _weights(mixer: Weighing, x: Tensor, context: Context, count: int) -> Floats:
    """The mixer's weights [H T S] as float32, made a few rows at a time."""
    with torch.no_grad():
        parts = [mixer.weights(x, context, rows=slice(at, at + ROWS))[0].float().cpu() for at in range(0, count, ROWS)]
    return torch.cat(parts, dim=1).numpy()
