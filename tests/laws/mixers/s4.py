"""The forms of S4: its HiPPO matrices, and how it is discretised.

The backend 'fft' is causal up to rounding only, so that it is no form here; tests/parity/test_s4.py says what it keeps.
"""

from tests.laws.forms import ODD, forms

REFERENCE = {"backend": "reference"}

FORMS = [
    *forms("s4", {"legs": {"size": 16}}, lengths=ODD, same_as=REFERENCE),
    *forms(
        "s4",
        {
            "legt-zoh": {"size": 8, "init": "legt", "discretisation": "zoh"},
            "lagt-ungated": {"size": 8, "init": "lagt", "discretisation": "backward_euler", "gated": False},
        },
        same_as=REFERENCE,
    ),
    *forms("s4", {"reference": {"size": 4, **REFERENCE}}),
]
