"""The forms of convolution: causal and centred, each channel for itself and all of all, dilated."""

from tests.laws.forms import ODD, forms

CAUSAL = {"causal": True}

FORMS = [
    *forms("convolution", {"causal": CAUSAL, "centred": {"kernel": 5}}, lengths=ODD),
    *forms(
        "convolution",
        {
            "causal-full": {**CAUSAL, "depthwise": False, "kernel": 4},
            "causal-dilated": {**CAUSAL, "dilation": 2, "kernel": 2, "bias": False},
            "centred-full": {"depthwise": False, "kernel": 5, "bias": False},
            "centred-dilated": {"dilation": 2, "kernel": 5},
        },
    ),
    *forms("bidirectional", {"convolution": {"inner": "convolution"}}),
]
