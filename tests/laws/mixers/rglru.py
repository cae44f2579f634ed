"""The forms of RG-LRU, the recurrent block of Griffin and Hawk."""

from tests.laws.forms import ODD, forms

SMALL = {"blocks": 4}

FORMS = [
    *forms("rglru", {"auto": SMALL}, lengths=ODD, same_as={"backend": "reference"}),
    *forms(
        "rglru",
        {
            "wide": {"blocks": 2, "width": 48, "taps": 2, "activation": "gelu"},
            "one-block-one-tap": {"blocks": 1, "width": 24, "taps": 1},
            "associative": {**SMALL, "backend": "associative"},
        },
        same_as={"backend": "reference"},
    ),
]
