"""The fields of a config.json, read with their types and bounds checked; every mistake names the field."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jogak import config
from jogak.errors import UserError, nearest

LARGEST = 2**24  # of any size in a configuration: far above all published, far below what overflows
DEEPEST = 4096  # blocks

# What config.json calls an activation, and what layers.feedforward calls it.
ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "relu2": "relu2",
    "tanh": "tanh",
}
GATED = {"relu": "reglu", "gelu": "geglu", "gelu_tanh": "geglu_tanh", "silu": "swiglu"}


class Fields:
    """config.json (or a section of it); `where` is what errors name, `keys` are the tensors of the checkpoint.

    A configuration should say all; keys are for what older ones leave to the weights, such as whether a head is tied.
    """

    def __init__(self, fields: Mapping[str, Any], where: str, keys: Collection[str] = ()) -> None:
        self._fields, self.where, self.keys = fields, where, keys

    def __contains__(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def raw(self, name: str) -> Any:  # noqa: ANN401  # JSON
        """The field as it stands; None where it is not."""
        return self._fields.get(name)

    def integer(self, name: str, default: int | None = None, *, least: int = 1, most: int = LARGEST) -> int:
        """A whole number from `least` to `most`; must be there where it has no default.

        Raises: UserError naming the field.
        """
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(name, value, "a whole number")
        if not least <= value <= most:
            raise self._wrong(name, value, f"between {least} and {most}")
        return value

    def maybe_integer(self, name: str) -> int | None:
        """A whole number that may be left out."""
        return self.integer(name) if name in self else None

    def depth(self, name: str, default: int | None = None) -> int:
        """A number of blocks."""
        return self.integer(name, default, least=0, most=DEEPEST)

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._wrong(name, value, "a number")
        return float(value)

    def fraction(self, name: str, default: float | None = None) -> float:
        """A number from 0 to below 1: a rate of dropout."""
        value = self.number(name, default)
        if not 0 <= value < 1:
            raise self._wrong(name, value, "at least 0 and below 1")
        return value

    def positive(self, name: str, default: float | None = None) -> float:
        """A number above 0."""
        value = self.number(name, default)
        if value <= 0:
            raise self._wrong(name, value, "above 0")
        return value

    def flag(self, name: str, default: bool | None = None) -> bool:
        """true or false."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._take(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, value, "a string")
        return value

    def texts(self, name: str) -> list[str]:
        """A list of strings; empty where it is not there."""
        value = self._fields.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self._wrong(name, value, "a list of strings")
        return value

    def section(self, name: str) -> "Fields":
        """A mapping inside; empty where it is not there."""
        value = self._fields.get(name)
        if value is None:
            return Fields({}, f"{self.where}: {name}")
        if not isinstance(value, dict):
            raise self._wrong(name, value, "a mapping")
        return Fields(value, f"{self.where}: {name}")

    def choice(self, name: str, known: Mapping[str, str], default: str | None = None) -> str:
        """One of the keys of `known`; its value there."""
        value = self.text(name, default)
        if value not in known:
            raise UserError(f"{self.where}: '{name}' is '{value}', which is not supported{nearest(value, known)}")
        return known[value]

    def activation(self, name: str, default: str | None = None, *, gated: bool = False) -> str:
        """An activation, by the name that layers.feedforward has for it."""
        found = self.choice(name, ACTIVATIONS, default)
        if gated and found not in GATED:
            raise self._wrong(name, self.raw(name), "an activation that has a gated form")
        return GATED[found] if gated else found

    def only(self, name: str, *wanted: object) -> None:
        """Refuse a field that is there and has another value than those that are supported; None is always fine.

        Raises: UserError naming the field.
        """
        value = self._fields.get(name)
        if value is not None and not any(value == w and isinstance(value, bool) == isinstance(w, bool) for w in wanted):
            told = " or ".join(repr(w) for w in wanted)
            raise UserError(f"{self.where}: '{name}' is {_short(value)}, and only {told} is supported")

    def architecture(self, known: Mapping[str, str], default: str) -> str:
        """What the first entry of `architectures` means, by `known`; `default` where the field is not there.

        Raises: UserError naming the nearest one that is known.
        """
        given = self.texts("architectures")
        name = given[0] if given else default
        if name not in known:
            raise UserError(f"{self.where}: architecture '{name}' is not supported{nearest(name, known)}")
        return known[name]

    def decoder_head(self, kind: str) -> config.Head:
        """What stands behind a decoder: scores of units, of classes (read at the last position), or nothing."""
        if kind == "classes":
            return config.Head(kind="classes", pool="last", classes=self.classes(), class_bias=False)
        return config.Head(kind="units" if kind == "units" else "none")

    def classes(self) -> int:
        """How many classes a classifier has."""
        if "num_labels" in self:
            return self.integer("num_labels")
        labels = self.raw("id2label")
        return len(labels) if isinstance(labels, dict) and labels else 2

    def _take(self, name: str, default: object) -> object:
        value = self._fields.get(name)
        if value is None:
            value = default
        if value is None:
            raise UserError(f"{self.where}: field '{name}' is missing; the checkpoint's own config.json has it")
        return value

    def _wrong(self, name: str, value: object, wanted: str) -> UserError:
        return UserError(f"{self.where}: '{name}' must be {wanted}, got {_short(value)}")


# ---------------------------------------------------------------- the other way: fields of a model of jogak


def architecture_of(model: config.Model, known: Mapping[str, str]) -> list[str]:
    """`architectures` for the kind of head; the first of `known` where the family has no such head."""
    return [known.get(model.head.kind, next(iter(known.values())))]


def heads_of(stack: config.Stack) -> int:
    """Query heads of the first mixer; the default of mixers.attention where it does not say."""
    return stack.pattern[0].options.get("heads", 8)


def width_of(stack: config.Stack, width: int) -> int:
    """The inner width of the feedforward."""
    return stack.feedforward.width or 4 * width if stack.feedforward is not None else 4 * width


def activation_of(stack: config.Stack, *preferred: str) -> str:
    """What config.json calls the feedforward's activation, gated or not; of several names one of `preferred`."""
    ours = stack.feedforward.activation if stack.feedforward is not None else "gelu"
    ours = next((plain for plain, gated in GATED.items() if gated == ours), ours)
    known = [name for name, means in ACTIVATIONS.items() if means == ours]
    return next((name for name in preferred if name in known), known[0])


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
