"""The forms of attention: self, causal and cross; grouped heads, windows, positions and backends."""

from tests.laws.forms import ODD, forms

SMALL = {"heads": 4}
CAUSAL = {**SMALL, "causal": True}
REFERENCE = {"backend": "reference"}

FORMS = [
    # the main ones, at every odd length
    *forms("attention", {"self": SMALL}, lengths=ODD, same_as=REFERENCE),
    *forms("attention", {"causal": CAUSAL}, lengths=ODD, same_as=REFERENCE, compiled=True),
    *forms("attention", {"causal-tiled": {**CAUSAL, "backend": "tiled"}}, lengths=ODD, same_as=REFERENCE),
    *forms(
        "attention",
        {"rotary-gqa": {**CAUSAL, "kv_heads": 2, "position": "rotary"}},
        lengths=ODD,
        same_as=REFERENCE,
    ),
    *forms("attention", {"cross": SMALL}, cross=True, lengths=ODD, same_as=REFERENCE, compiled=True),
    # what else an encoder may be
    *forms(
        "attention",
        {
            "self-tiled": {**SMALL, "backend": "tiled"},
            "self-mqa": {**SMALL, "kv_heads": 1},
            "self-window": {**SMALL, "window": 5},
            "self-window-tiled": {**SMALL, "window": 5, "backend": "tiled"},
            "self-rotary": {**SMALL, "position": "rotary"},
            "self-alibi": {**SMALL, "position": "alibi"},
            "self-t5": {**SMALL, "position": "t5", "buckets": 8, "max_distance": 32},
            "self-t5-tiled": {**SMALL, "position": "t5", "buckets": 8, "max_distance": 32, "backend": "tiled"},
        },
        same_as=REFERENCE,
    ),
    # what published models ask for
    *forms(
        "attention",
        {
            "softcap-scale": {**CAUSAL, "softcap": 5.0, "scale": 0.4},
            "softcap-tiled": {**CAUSAL, "softcap": 5.0, "position": "t5", "backend": "tiled"},
            "self-qk-norm": {**SMALL, "qk_norm": "rms", "position": "rotary"},
            "rotary-llama3": {
                **CAUSAL,
                "position": "rotary",
                "rotary_scaling": {"kind": "llama3", "factor": 8.0, "low": 1.0, "high": 4.0, "trained_length": 64},
            },
        },
        same_as=REFERENCE,
    ),
    # what else a decoder may be
    *forms(
        "attention",
        {
            "mqa": {**CAUSAL, "kv_heads": 1, "bias": False},
            "rotary": {**CAUSAL, "position": "rotary"},
            "rotary-part": {**CAUSAL, "position": "rotary", "rotary_dim": 4, "bias": False, "out_bias": True},
            "rotary-tiled": {**CAUSAL, "position": "rotary", "backend": "tiled"},
            "alibi": {**CAUSAL, "position": "alibi"},
            "alibi-gqa-tiled": {**CAUSAL, "kv_heads": 2, "position": "alibi", "backend": "tiled"},
            "t5": {**CAUSAL, "position": "t5", "buckets": 8, "max_distance": 32},
            "t5-tiled": {**CAUSAL, "position": "t5", "buckets": 8, "max_distance": 32, "backend": "tiled"},
            "wide-heads": {**CAUSAL, "head_dim": 24},
        },
        same_as=REFERENCE,
    ),
    # windows: the state stops growing
    *forms(
        "attention",
        {
            "window": {**CAUSAL, "window": 16},
            "window-one": {**CAUSAL, "window": 1},
            "window-rotary-gqa": {**CAUSAL, "window": 5, "kv_heads": 2, "position": "rotary"},
            "window-alibi-tiled": {**CAUSAL, "window": 16, "position": "alibi", "backend": "tiled"},
            "window-t5": {**CAUSAL, "window": 16, "position": "t5", "buckets": 8, "max_distance": 32},
        },
        same_as=REFERENCE,
    ),
    # the reference itself keeps the laws
    *forms(
        "attention",
        {
            "reference": {**CAUSAL, **REFERENCE},
            "self-reference": {**SMALL, **REFERENCE},
            "window-reference": {**CAUSAL, "window": 16, **REFERENCE},
        },
    ),
    # what reads a memory
    *forms(
        "attention",
        {
            "cross-tiled": {**SMALL, "backend": "tiled"},
            "cross-gqa": {**SMALL, "kv_heads": 2},
            "cross-mqa-tiled": {**SMALL, "kv_heads": 1, "bias": False, "backend": "tiled"},
        },
        cross=True,
        same_as=REFERENCE,
    ),
    *forms("attention", {"cross-reference": {**SMALL, **REFERENCE}}, cross=True),
]
