"""On how many GPUs of a kind a model trains or serves, by what its memory must hold."""

import math
from dataclasses import dataclass

from jogak.models.cost import Cost

ROOM = 0.9  # of a GPU's memory: the rest goes to its driver, kernels' workspace and fragments


@dataclass(frozen=True)
class Gpu:
    """memory: bytes. flops: of dense bfloat16 products, each second. bandwidth: bytes each second."""

    name: str
    memory: float
    flops: float
    bandwidth: float


# From the makers' data sheets, without sparsity.
GPUS = (
    Gpu("RTX 4090 24 GB", 24e9, 165e12, 1.008e12),
    Gpu("L40S 48 GB", 48e9, 362e12, 0.864e12),
    Gpu("A100 80 GB", 80e9, 312e12, 2.039e12),
    Gpu("H100 80 GB", 80e9, 989e12, 3.35e12),
    Gpu("H200 141 GB", 141e9, 989e12, 4.8e12),
    Gpu("B200 180 GB", 180e9, 2250e12, 7.7e12),
)


@dataclass(frozen=True)
class Fit:
    """How many GPUs training needs (None: one example alone is too much) and serving; what they reach at best.

    examples: training examples each second, all GPUs together. sequences: decoded side by side on those that serve;
    units: that one sequence gains each second, bound by reading weights and state. Zeros where nothing is decoded.
    """

    training: int | None
    examples: float
    serving: int
    sequences: int
    units: float


def fit(cost: Cost, gpu: Gpu) -> Fit:
    """Weights, gradients and AdamW (16 bytes a parameter) shared out evenly, each GPU with an example of its own.

    Computed in bfloat16, with gradient checkpointing; what is served is in bfloat16, its state too.
    """
    room = ROOM * gpu.memory
    example = cost.checkpoint_bytes / 2
    training = max(1, math.ceil(cost.training_bytes / (room - example))) if example < room else None
    # Checkpointing runs the blocks forward a second time.
    examples = (training or 0) * gpu.flops / (cost.training_flops + cost.forward_flops)
    weights, state = 2 * cost.parameters, cost.state_bytes / 2
    serving = max(1, math.ceil((weights + state) / room))
    if not cost.decoding_flops:
        return Fit(training, examples, serving, 0, 0.0)
    sequences = int((serving * room - weights) / state) if state else 1
    read = (weights + state) / (serving * gpu.bandwidth)
    return Fit(training, examples, serving, sequences, 1 / max(read, cost.decoding_flops / (serving * gpu.flops)))
