"""What a plan says, beside what is worked out by hand and what whole models are measured to cost."""

import time
from dataclasses import replace

import pytest
import torch

from jogak import config, models
from jogak.errors import UserError
from jogak.layers.moe import Experts
from jogak.models import cost as costing
from jogak.models.cost import cost
from jogak.models.gpus import GPUS, Gpu, fit
from jogak.models.plan import describe, number, operations, size

LENGTH = 24
SMALL = {"vocab_size": 50, "width": 16}


def _model(**fields: object) -> config.Model:
    return config.Model.model_validate({**SMALL, **fields})


ATTENTION = {"name": "attention", "heads": 2}
MODELS = {
    "decoder": _model(topology="decoder", decoder={"depth": 5, "pattern": [ATTENTION]}),
    "pattern": _model(
        topology="decoder", decoder={"depth": 8, "pattern": ["mamba", {**ATTENTION, "window": 5}, "mamba"]}
    ),
    "feedforwards": _model(
        topology="decoder", decoder={"depth": 7, "pattern": [ATTENTION], "feedforwards": [{}, {"experts": 4}]}
    ),
    "encoder": _model(topology="encoder", encoder={"depth": 4, "pattern": [ATTENTION]}),
    "pair": _model(
        encoder={"depth": 3, "pattern": [{**ATTENTION, "position": "t5"}], "share_position": True, "placement": "pre"},
        decoder={"depth": 4, "pattern": [ATTENTION], "cross": ATTENTION},
    ),
    "handed over": _model(
        handover="state", encoder={"depth": 2, "pattern": ["mamba"]}, decoder={"depth": 2, "pattern": ["mamba"]}
    ),
    "one block": _model(topology="decoder", decoder={"depth": 1, "pattern": [ATTENTION]}),
    "none": _model(topology="decoder", decoder={"depth": 0, "pattern": [ATTENTION]}),
}


@pytest.mark.parametrize("name", MODELS)
def test_blocks_that_repeat_cost_what_all_of_them_do(name: str) -> None:
    found, whole = cost(MODELS[name], LENGTH), costing._measure(MODELS[name], LENGTH, None)
    assert replace(found, checkpoint_bytes=0) == replace(whole, checkpoint_bytes=0)
    assert found.checkpoint_bytes <= found.activation_bytes


def test_a_decoders_products_are_two_for_each_weight_and_position() -> None:
    depth, width = 5, 16
    found = cost(MODELS["decoder"], LENGTH)
    matrices = depth * (4 + 8) * width * width + 50 * width
    scores = depth * 2 * 2 * LENGTH * LENGTH * width
    assert found.forward_flops == 2 * matrices * LENGTH + scores
    assert found.decoding_flops == 2 * matrices + depth * 2 * 2 * (LENGTH + 1) * width
    assert found.state_bytes == depth * 2 * LENGTH * width * 4
    assert found.training_bytes == 16 * found.parameters


def test_activations_hold_no_square_of_the_length() -> None:
    """As fused kernels keep none: twice the length, twice the memory."""
    one, two = cost(MODELS["decoder"], 256), cost(MODELS["decoder"], 512)
    assert two.activation_bytes == pytest.approx(2 * one.activation_bytes, rel=0.01)


def test_a_mixture_costs_the_experts_that_are_chosen() -> None:
    def flops(experts: int | None) -> int:
        mixture = {"width": 32, "bias": False, **({} if experts is None else {"experts": experts, "chosen": 2})}
        stack = {"depth": 2, "pattern": [ATTENTION], "feedforward": mixture}
        return cost(_model(topology="decoder", decoder=stack), LENGTH).forward_flops

    expert, router = 2 * 2 * 16 * 32 * LENGTH, 2 * 16 * LENGTH
    assert flops(6) - flops(None) == 2 * (expert + 6 * router)


def test_a_mixture_has_shapes_on_the_meta_device() -> None:
    with torch.device("meta"):
        x = torch.empty(2, 3, 16, requires_grad=True)
        y = Experts(16, 32, "swiglu", 4, 2)(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert x.grad is not None


def test_more_units_than_positions_are_refused() -> None:
    with pytest.raises(UserError, match="2049 units are more than the 2048 positions"):
        cost(config.read_preset("gpt-3-175b"), 2049)


def test_gpt_3_is_planned_quickly_and_as_published() -> None:
    """Brown et al. 2020, table D.1: 3.14e23 FLOPs for 300 billion units, 6 for each parameter and unit."""
    given = config.read_preset("gpt-3-175b")
    cost(config.read_preset("gpt-1"), 8)  # what torch imports at its first use
    start = time.perf_counter()
    found = cost(given, 2048)
    assert time.perf_counter() - start < 2
    assert found.training_flops / 2048 * 300e9 == pytest.approx(3.14e23, rel=0.05)
    assert found.forward_flops / found.training_flops == pytest.approx(1 / 3, rel=0.02)
    assert found.state_bytes == 96 * 2 * 2048 * 12288 * 4


def test_gpus_hold_what_they_are_said_to() -> None:
    found = cost(config.read_preset("gpt-3-175b"), 2048)
    for gpu in GPUS:
        needed = fit(found, gpu)
        assert needed.training is not None
        held, example = 0.9 * gpu.memory, found.checkpoint_bytes / 2
        assert needed.training * (held - example) >= found.training_bytes > (needed.training - 1) * (held - example)
        weights, state = 2 * found.parameters, found.state_bytes / 2
        assert needed.serving * held >= weights + needed.sequences * state > needed.serving * held - state
        assert (needed.serving - 1) * held < weights + state
    small = fit(found, Gpu("small", 5e9, 1e12, 1e12))
    assert small.training is None
    assert small.serving > 70


@pytest.mark.parametrize("name", ["bert-base", "t5-small", "gpt-3-175b"])
def test_a_plan_names_every_figure(name: str) -> None:
    given = config.read_preset(name)
    found = cost(given, 512)
    told = describe(name, given, found, 1e11)
    words = ["parameters", "weights", "gradients", "AdamW", "training", "activations", "checkpointing", "H100"]
    words += ["decoding state", "side by side"] if name != "bert-base" else []
    assert all(word in told for word in words)
    assert f"{found.parameters:,}" in told
    assert ("decoding" in told) is (name != "bert-base")
    assert all(len(line) <= 120 for line in told.splitlines())


def test_figures() -> None:
    assert [size(n) for n in (1000, 2048, 3 * 2**20, 5 * 2**40)] == ["1,000 B", "2.0 KiB", "3.0 MiB", "5,120.0 GiB"]
    assert [operations(n) for n in (1e8, 2e12, 3e15)] == ["0.1 GFLOP", "2.0 TFLOP", "3.0 PFLOP"]
    assert [number(n) for n in (1234.5, 3.14159, 0.25, 1e-5)] == ["1,234", "3.1", "0.25", "1/100,000"]
    assert models.parameter_count(models.build(MODELS["none"], device="meta")) == 2 * 0 + 50 * 16
