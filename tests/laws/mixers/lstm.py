"""The forms of the long short-term memory."""

from tests.laws.forms import ODD, forms

FORMS = [
    *forms("lstm", {"plain": {}}, lengths=ODD),
    *forms("lstm", {"narrow": {"hidden": 24}}),
    *forms("bidirectional", {"lstm": {"inner": "lstm"}}),
]
