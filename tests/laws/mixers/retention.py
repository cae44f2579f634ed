"""The forms of retention."""

from tests.laws.forms import ODD, forms

SMALL = {"heads": 4}

FORMS = [
    *forms("retention", {"auto": SMALL}, lengths=ODD, same_as={"backend": "reference"}),
    *forms(
        "retention",
        {
            "parallel": {**SMALL, "backend": "parallel"},
            "narrow": {"heads": 2, "key_dim": 16, "value_dim": 24, "rotary_base": 100.0},
            "rms": {**SMALL, "norm": "rms"},
        },
        same_as={"backend": "reference"},
    ),
    *forms("retention", {"recurrent": {**SMALL, "backend": "recurrent"}}),
]
