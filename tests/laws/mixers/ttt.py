"""The forms of test-time training: both inner models, with and without gate, convolution and rotary positions."""

from tests.laws.forms import ODD, forms

SMALL = {"heads": 4}
REFERENCE = {"backend": "reference"}
PLAIN = {**SMALL, "conv": 0, "gate": False}  # the Transformer backbone

FORMS = [
    *forms("ttt", {"linear": SMALL}, lengths=ODD, same_as=REFERENCE),
    *forms("ttt", {"mlp": {**SMALL, "inner": "mlp"}}, lengths=(1, 2, 65), same_as=REFERENCE),
    *forms("ttt", {"plain": {**PLAIN, "mini_batch": 5, "rotary": False}}, same_as=REFERENCE),
]
