"""The forms of additive attention."""

from tests.laws.forms import ODD, forms

FORMS = [
    *forms("additive", {"cross": {}}, cross=True, lengths=ODD),
    *forms("additive", {"narrow": {"hidden": 8}}, cross=True),
]
