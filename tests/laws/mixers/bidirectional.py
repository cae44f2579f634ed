"""The forms of the wrapper that makes an encoder of a causal mixer."""

from tests.laws.forms import ODD, forms

FORMS = [
    *forms("bidirectional", {"attention": {"inner": {"name": "attention", "heads": 4}}}, lengths=ODD),
    *forms(
        "bidirectional",
        {
            "rotary": {"inner": {"name": "attention", "heads": 4, "position": "rotary"}, "bias": False},
            "window-alibi": {"inner": {"name": "attention", "heads": 4, "window": 5, "position": "alibi"}},
        },
    ),
]
