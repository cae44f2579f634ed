"""The forms of the gated recurrent unit."""

from tests.laws.forms import ODD, forms

FORMS = [
    *forms("gru", {"plain": {}}, lengths=ODD),
    *forms("gru", {"narrow": {"hidden": 24}}),
    *forms("bidirectional", {"gru": {"inner": "gru"}}),
]
