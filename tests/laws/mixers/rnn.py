"""The forms of Elman's network."""

from tests.laws.forms import ODD, forms

FORMS = [
    *forms("rnn", {"plain": {}}, lengths=ODD),
    *forms("rnn", {"narrow": {"hidden": 24}}),
    *forms("bidirectional", {"rnn": {"inner": "rnn"}}),
]
