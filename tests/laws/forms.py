"""What the laws are tested on: a form is a mixer with the options that it is built with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module

import pytest
import torch
from torch import nn

from jogak import mixers
from jogak.mixers import Mixer
from tests.laws.support import DEVICE, WIDTH, noise

ODD = (1, 2, 63, 65, 500)  # of the main forms: one, two, both sides of a tile, several tiles
FEW = (65,)  # of the other forms


@dataclass(frozen=True)
class Form:
    """One way of building a mixer. `make` gives a fresh one; `same_as` are forms that say the same numbers.

    name: as it is shown in test ids. lengths: T for the laws that are tested at several. compiled: also through
    inductor, which takes half a minute.
    """

    name: str
    make: Callable[[], Mixer]
    lengths: Sequence[int] = FEW
    cross: bool = False
    same_as: "Form | None" = None
    compiled: bool = False
    options: Mapping[str, object] = field(default_factory=dict)

    def build(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> Mixer:
        """The mixer in evaluation mode, with parameters far from zero, so that nothing hides behind one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            mixer = self.make()
        with torch.no_grad():
            for number, parameter in enumerate(mixer.parameters()):
                parameter.add_(noise(*parameter.shape, seed=1000 + number, device="cpu").to(parameter.dtype), alpha=0.2)
        return mixer.to(DEVICE, dtype).eval()

    @cached_property
    def sample(self) -> Mixer:
        """One built for asking what it is; never run."""
        return self.make()

    @property
    def splits(self) -> bool:
        """Whether a sequence may come in pieces: it looks back only, or at the memory only."""
        return self.cross or self.sample.causal

    @property
    def grows(self) -> bool:
        return self.sample.state_grows


def forms(
    mixer: str,
    configurations: Mapping[str, Mapping[str, object]],
    *,
    lengths: Sequence[int] = FEW,
    cross: bool = False,
    compiled: bool = False,
    same_as: Mapping[str, object] | None = None,
) -> list[Form]:
    """Forms of the registered `mixer`, one for each named configuration.

    same_as: options with which each of them must say the same numbers.
    """

    def form(name: str, options: Mapping[str, object], twin: "Form | None") -> Form:
        def make() -> Mixer:
            return mixers.build(mixer, d_model=WIDTH, cross=cross, **options)

        return Form(f"{mixer}-{name}", make, lengths, cross, twin, compiled, options)

    result = []
    for name, options in configurations.items():
        twin = form(f"{name}-twin", {**options, **same_as}, None) if same_as else None
        result.append(form(name, options, twin))
    return result


def registered() -> list[Form]:
    """The forms of all registered mixers: FORMS of tests/laws/mixers/NAME.py."""
    found: list[Form] = []
    for name in mixers.names():
        try:
            found += import_module(f"tests.laws.mixers.{name}").FORMS
        except ModuleNotFoundError as error:
            if error.name != f"tests.laws.mixers.{name}":
                raise  # test_coverage.py says which mixers have no forms
    return found


def over(*conditions: Callable[[Form], object], lengths: bool = False, most: int | None = None) -> pytest.MarkDecorator:
    """Run a test for every registered form that meets the conditions, and at each of its lengths (up to `most`)."""
    chosen = [form for form in registered() if all(condition(form) for condition in conditions)]
    if not lengths:
        return pytest.mark.parametrize("form", [pytest.param(form, id=form.name) for form in chosen])
    pairs = [(form, length) for form in chosen for length in form.lengths if most is None or length <= most]
    return pytest.mark.parametrize(
        ("form", "length"), [pytest.param(form, length, id=f"{form.name}-T{length}") for form, length in pairs]
    )


def self_mixing(form: Form) -> bool:
    return not form.cross


def cross(form: Form) -> bool:
    return form.cross


def splits(form: Form) -> bool:
    return form.splits


def looks_back(form: Form) -> bool:
    """Causal, and mixes its own sequence."""
    return form.splits and not form.cross


def looks_ahead(form: Form) -> bool:
    return not form.splits


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
