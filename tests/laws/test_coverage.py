"""Nothing registered escapes the laws."""

from importlib import import_module
from importlib.util import find_spec

import pytest

from jogak import mixers
from jogak.mixers import Mixer
from tests.laws.cases import operations
from tests.laws.forms import Form, registered


@pytest.mark.parametrize("name", mixers.names())
def test_every_mixer_has_forms(name: str) -> None:
    """tests/laws/mixers/NAME.py lists them: at least one for each role that the mixer has."""
    assert find_spec(f"tests.laws.mixers.{name}"), f"write tests/laws/mixers/{name}.py with FORMS"
    listed: list[Form] = import_module(f"tests.laws.mixers.{name}").FORMS
    module = import_module(f"jogak.mixers.{name}")
    roles = {"MIXER": False, "CROSS_MIXER": True}
    for role, is_cross in roles.items():
        if hasattr(module, role):
            assert any(form.cross == is_cross for form in listed), f"{name}: no form of its {role}"


def test_form_names_are_distinct() -> None:
    names = [form.name for form in registered()]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)


@pytest.mark.parametrize("name", mixers.names())
def test_roles_are_what_they_say(name: str) -> None:
    """MIXER and CROSS_MIXER are mixers; the second says that it reads a memory."""
    module = import_module(f"jogak.mixers.{name}")
    roles = [role for role in ("MIXER", "CROSS_MIXER") if hasattr(module, role)]
    assert roles, f"jogak.mixers.{name} has neither MIXER nor CROSS_MIXER"
    for role in roles:
        assert issubclass(getattr(module, role), Mixer)
    assert "CROSS_MIXER" not in roles or module.CROSS_MIXER.supports_cross


@pytest.mark.parametrize("name", sorted(operations()))
def test_every_operation_has_cases(name: str) -> None:
    """tests/laws/ops/NAME.py lists them; the reference is the first of FORMS."""
    assert next(iter(operations()[name].FORMS)) == "reference"
    assert import_module(f"tests.laws.ops.{name}").CASES
