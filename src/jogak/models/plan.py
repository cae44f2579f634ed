"""What a model would cost, as lines to read."""

from jogak import config
from jogak.models.cost import Cost
from jogak.models.gpus import GPUS, fit


def describe(name: str, given: config.Model, found: Cost, speed: float, train: config.Train | None = None) -> str:
    """Parameters, memory, FLOPs, GPUs and time.

    speed: FLOP/s of this machine. train: what a recipe says of training, for how long that would take.
    """
    sides = "source and target units" if given.topology == "encoder-decoder" else "units"
    count, length = found.parameters, found.length
    lines = [
        f"{name}: {given.topology}, width {given.width}, vocabulary {given.vocab_size:,}",
        f"  parameters        {count:,} ({found.embeddings:,} in embeddings)",
        f"  weights           {size(4 * count)} float32, {size(2 * count)} bfloat16,",
        f"                    about {size(count)} int8, {size(found.int4_bytes)} int4",
        f"  training keeps    {size(found.training_bytes)}: {size(4 * count)} each for weights and gradients,",
        f"                    {size(8 * count)} for AdamW",
        f"  one example       {length} {sides}",
        f"    forward         {operations(found.forward_flops)}",
        f"    training        {operations(found.training_flops)}",
        f"    activations     {size(found.activation_bytes)}, with gradient checkpointing "
        f"{size(found.checkpoint_bytes)} (float32)",
    ]
    if found.decoding_flops:
        lines += [
            f"    decoding        {operations(found.decoding_flops)} for the next unit",
            f"    decoding state  {size(found.state_bytes)} float32, {size(found.state_bytes / 2)} bfloat16",
        ]
    lines += [
        f"  this machine      {operations(speed)}/s measured (float32 matrix products, all cores): at best",
        f"                    {number(speed / found.training_flops)} training examples/s of that length",
    ]
    if train is not None:
        positions = train.steps * train.accumulate * train.batch_tokens
        seconds = positions / (2 * length) * found.training_flops / speed
        lines.append(f"  the recipe        {positions:,} padded positions: at best {seconds / 60:,.1f} minutes here")
    return "\n".join([*lines, *_on_gpus(found)])


def _on_gpus(found: Cost) -> list[str]:
    lines = [
        "  GPUs              bfloat16, data sheets' figures; at best, for examples of that length. Training: weights,",
        "                    gradients and AdamW shared out, gradient checkpointing, an example for each GPU",
    ]
    for gpu in GPUS:
        needed = fit(found, gpu)
        if needed.training is None:
            trains = "one example is too much to train on"
        else:
            trains = f"trains on {needed.training:,} ({number(needed.examples)} examples/s)"
        serves = f"serves on {needed.serving:,}"
        if needed.units:
            serves += f" ({number(needed.units)} units/s of one, {needed.sequences:,} side by side)"
        lines.append(f"    {gpu.name:<16}{trains}, {serves}")
    return lines


def size(count: float) -> str:
    """Bytes, in the largest unit of which there is at least one."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    raise AssertionError


def operations(count: float) -> str:
    """FLOPs, likewise, from GFLOP on."""
    power, unit = next(((p, u) for p, u in ((15, "PFLOP"), (12, "TFLOP")) if count >= 10**p), (9, "GFLOP"))
    return f"{count / 10**power:,.1f} {unit}"


def number(value: float) -> str:
    """Two figures, or all before the point."""
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value == 0 or value >= 1e-4 else f"1/{1 / value:,.0f}"
