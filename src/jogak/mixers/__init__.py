"""Mixers: one file each, found by the file's name. `names()` lists them, `build()` makes one."""

import inspect

from jogak import registry
from jogak.errors import UserError, nearest
from jogak.mixers.contract import EMPTY, Context, InOne, Mixer, State

__all__ = ["EMPTY", "Context", "InOne", "Mixer", "State", "build", "kind", "names", "parameters"]


def names() -> list[str]:
    """The registered mixers."""
    return registry.names("mixers")


def kind(name: str, *, cross: bool = False) -> type[Mixer]:
    """The class behind a name: the module's MIXER, or its CROSS_MIXER, which reads context.memory.

    Raises: UserError for an unknown name, or for a role that this mixer does not have.
    """
    module = registry.find("mixers", name)
    role = "CROSS_MIXER" if cross else "MIXER"
    if not hasattr(module, role):
        can = sorted(n for n in names() if hasattr(registry.find("mixers", n), role))
        what = "read a memory (cross)" if cross else "mix a sequence with itself"
        raise UserError(f"mixer '{name}' cannot {what}; these can: {', '.join(can)}")
    return getattr(module, role)


def build(name: str, *, d_model: int, cross: bool = False, **options: object) -> Mixer:
    """The mixer `name` for inputs [B T d_model]; options are its constructor's.

    Raises: UserError for an unknown name or option.
    """
    mixer, known = kind(name, cross=cross), parameters(name, cross=cross)
    for option in options:
        if option not in known:
            raise UserError(f"mixer '{name}' has no option '{option}'{nearest(option, known)}")
    missing = [option for option, needed in known.items() if needed and option not in options]
    if missing:
        raise UserError(f"mixer '{name}' needs option '{missing[0]}'; write {{name: {name}, {missing[0]}: ...}}")
    return mixer(d_model=d_model, **options)


def parameters(name: str, *, cross: bool = False) -> dict[str, bool]:
    """The options of the mixer `name`, and whether each must be given."""
    found = inspect.signature(kind(name, cross=cross)).parameters.values()
    return {p.name: p.default is p.empty for p in found if p.name != "d_model"}
