"""The forms of S4D: where its modes start, and how it is discretised.

The backend 'fft' is causal up to rounding only, so that it is no form here; tests/parity/test_s4.py says what it keeps.
"""

from tests.laws.forms import ODD, forms

REFERENCE = {"backend": "reference"}

FORMS = [
    *forms("s4d", {"legs": {"size": 16}}, lengths=ODD, same_as=REFERENCE),
    *forms(
        "s4d",
        {
            "inv-bilinear": {"size": 8, "init": "inv", "discretisation": "bilinear"},
            "lin-euler-ungated": {
                "size": 4,
                "init": "lin",
                "discretisation": "euler",
                "dt_min": 1e-3,
                "dt_max": 1e-2,
                "gated": False,
            },
        },
        same_as=REFERENCE,
    ),
    *forms("s4d", {"reference": {"size": 4, **REFERENCE}}),
]
