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
            "lagt-backward-euler": {"size": 8, "init": "lagt", "discretisation": "backward_euler"},
            "euler-ungated": {
                "size": 4,
                "init": "legs",
                "discretisation": "euler",
                "dt_min": 1e-3,
                "dt_max": 1e-2,
                "gated": False,
            },
        },
        same_as=REFERENCE,
    ),
    *forms("s4", {"reference": {"size": 4, **REFERENCE}}),
]
