"""A file's name is its registry name: a new mixer, task or preset is one new file, and nobody edits a list."""

from functools import cache
from importlib import import_module, resources
from pkgutil import iter_modules
from types import ModuleType

from jogak.errors import UserError, nearest

# Modules beside the registered ones that hold what they share.
SHARED = frozenset({"contract"})


def names(package: str) -> list[str]:
    """The registered names in `jogak.<package>`: its modules, without those that only hold what they share."""
    path = import_module(f"jogak.{package}").__path__
    return sorted(m.name for m in iter_modules(path) if m.name not in SHARED and not m.name.startswith("_"))


@cache  # a module that was found stays where it is; what was not is looked for again
def find(package: str, name: str) -> ModuleType:
    """The module `jogak.<package>.<name>`.

    Raises: UserError naming the nearest registered name.
    """
    known = names(package)
    if name not in known:
        raise UserError(f"there is no {package.rstrip('s')} called '{name}'{nearest(name, known)}")
    return import_module(f"jogak.{package}.{name}")


def preset_names() -> list[str]:
    """The published models whose sizes jogak knows, by name."""
    folder = resources.files("jogak") / "presets"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The YAML of preset `name`.

    Raises: UserError naming the nearest preset.
    """
    if name not in preset_names():
        raise UserError(f"there is no preset called '{name}'{nearest(name, preset_names())}")
    return (resources.files("jogak") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
