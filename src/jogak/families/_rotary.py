"""What config.json says of rotary positions, old spelling (rope_theta, rope_scaling) and new (rope_parameters)."""

import math
from typing import Any

from jogak.errors import UserError
from jogak.families._fields import Fields


def rotary_options(given: Fields, head_dim: int, *, base: float = 10000.0, layer: str | None = None) -> dict[str, Any]:
    """Options of mixers.attention; layer: the entry of rope_parameters where kinds of layers have their own."""
    rope = given.section("rope_parameters") if "rope_parameters" in given else given.section("rope_scaling")
    if layer is not None and isinstance(rope.raw(layer), dict):
        rope = rope.section(layer)
    theta = rope.positive("rope_theta", given.positive("rope_theta", base))
    options: dict[str, Any] = {"position": "rotary", "rotary_base": theta}
    part = rope.number("partial_rotary_factor", given.number("partial_rotary_factor", 1.0))
    if part != 1:
        options["rotary_dim"] = int(head_dim * part)
    kind = rope.text("rope_type", rope.text("type", "default"))
    if kind != "default":
        options["rotary_scaling"] = _scaling(kind, rope, given)
    return options


def _scaling(kind: str, rope: Fields, given: Fields) -> dict[str, Any]:
    factor = rope.positive("factor")
    if kind == "linear":
        return {"kind": kind, "factor": factor}
    length = rope.positive("original_max_position_embeddings", given.positive("max_position_embeddings"))
    if kind == "llama3":
        low, high = rope.positive("low_freq_factor"), rope.positive("high_freq_factor")
        return {"kind": kind, "factor": factor, "low": low, "high": high, "trained_length": length}
    if kind == "yarn":
        options: dict[str, Any] = {"kind": kind, "factor": factor, "trained_length": length}
        options |= {"fast": rope.positive("beta_fast", 32.0), "slow": rope.positive("beta_slow", 1.0)}
        options["truncate"] = rope.flag("truncate", True)
        if "attention_factor" in rope:
            options["amplitude"] = rope.positive("attention_factor")
        elif "mscale" in rope and "mscale_all_dim" in rope:
            options["amplitude"] = _sharpen(factor, rope.number("mscale")) / _sharpen(
                factor, rope.number("mscale_all_dim")
            )
        return options
    raise UserError(f"{rope.where}: rope_type '{kind}' is not supported; known: default, linear, llama3, yarn")


def _sharpen(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0
