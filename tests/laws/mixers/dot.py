"""The forms of Luong's attention."""

from tests.laws.forms import ODD, forms

FORMS = [
    *forms("dot", {"general": {}}, cross=True, lengths=ODD),
    # Unscaled products of inputs near 1 leave one place nearly all the weight, and the law wants every place heard.
    *forms("dot", {"scaled": {"scaled": True}, "dot": {"score": "dot", "scaled": True}}, cross=True),
]
