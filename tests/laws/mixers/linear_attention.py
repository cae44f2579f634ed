"""The forms of linear attention: looking back and both ways."""

from tests.laws.forms import ODD, forms

SMALL = {"heads": 4}
CAUSAL = {**SMALL, "causal": True}

FORMS = [
    *forms("linear_attention", {"causal": CAUSAL}, lengths=ODD, same_as={"backend": "reference"}),
    *forms("linear_attention", {"self": SMALL}, lengths=ODD),
    *forms(
        "linear_attention",
        {
            "causal-parallel": {**CAUSAL, "backend": "parallel"},
            "causal-softmax-no-bias": {**CAUSAL, "feature": "softmax", "bias": False, "head_dim": 12},
        },
        same_as={"backend": "reference"},
    ),
    *forms("linear_attention", {"self-softmax": {**SMALL, "feature": "softmax", "head_dim": 12}}),
]
