"""Decoders laid out like Llama in which only some blocks look through a window."""

from jogak import config
from jogak.errors import UserError
from jogak.families._fields import Fields

WINDOWED, WHOLE = "sliding_attention", "full_attention"


def windowed(given: Fields, model: config.Model, window: int | None, default: list[str]) -> config.Model:
    """The model with a window of attention in the blocks that `layer_types` (or `default`) says.

    Raises: UserError for another kind of block, or not one kind for each block.
    """
    kinds = given.texts("layer_types") or default
    stack = model.stack("decoder")
    if len(kinds) != stack.depth:
        raise UserError(f"{given.where}: 'layer_types' has {len(kinds)} entries for {stack.depth} blocks")
    if other := sorted(set(kinds) - {WINDOWED, WHOLE}):
        raise UserError(f"{given.where}: 'layer_types' has '{other[0]}'; supported: {WINDOWED}, {WHOLE}")
    if window is None or WINDOWED not in kinds:
        return model
    whole = stack.pattern[0]
    narrow = config.Mixer.model_validate({"name": whole.name, **whole.options, "window": window})
    pattern = _shortest([narrow if kind == WINDOWED else whole for kind in kinds])
    return model.model_copy(update={"decoder": stack.model_copy(update={"pattern": pattern})})


def _shortest(mixers: list[config.Mixer]) -> tuple[config.Mixer, ...]:
    """The fewest mixers that give the same blocks when repeated."""
    for size in range(1, len(mixers)):
        if all(mixer == mixers[index % size] for index, mixer in enumerate(mixers)):
            return tuple(mixers[:size])
    return tuple(mixers)
