"""Configurations in which Mamba-2 must keep the laws."""

from tests.laws.forms import ODD, forms

SMALL = {"state": 4, "head_dim": 16}
REFERENCE = {"backend": "reference"}

FORMS = [
    *forms("mamba2", {"causal": SMALL}, lengths=ODD, same_as=REFERENCE),
    *forms(
        "mamba2",
        {
            "groups-one-tap": {**SMALL, "groups": 2, "bias": True, "conv": 1, "conv_bias": False},
            "limited": {**SMALL, "dt_limit": (0.01, 0.05)},
        },
        same_as=REFERENCE,
    ),
    *forms("mamba2", {"reference": {"state": 3, "head_dim": 8, **REFERENCE}}),
]
