"""Configurations in which Mamba must keep the laws."""

from tests.laws.forms import ODD, forms

SMALL = {"state": 4}
REFERENCE = {"backend": "reference"}

FORMS = [
    *forms("mamba", {"causal": SMALL}, lengths=ODD, same_as=REFERENCE),
    *forms(
        "mamba",
        {
            "wide-one-tap": {"state": 3, "expand": 3, "dt_rank": 5, "bias": True, "conv": 1, "conv_bias": False},
            # Not fewer numbers: of two or three all may be near zero at once, where a norm has no steady slope.
            "norms": {"state": 7, "dt_rank": 6, "norms": "learned"},
            "plain-norms": {"state": 8, "dt_rank": 9, "norms": "plain", "norm_eps": 1e-3},
        },
        same_as=REFERENCE,
    ),
    *forms("mamba", {"reference": {"state": 2, **REFERENCE}}),
]
