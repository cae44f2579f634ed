"""A block's step in one compiled loop says what its modules say one after another, and keeps every law of states."""

import copy

import pytest
import torch

from jogak import config, models
from jogak.layers.quantised import quantise
from jogak.mixers import Context
from jogak.models import step
from jogak.ops import _threads
from tests.laws.support import close, noise, same_bits

pytestmark = pytest.mark.skipif(not _threads.found(), reason="torch has no OpenMP library of GNU's here")
MAMBA = {"name": "mamba", "state": 8}
MADE = {
    "mamba": ("rms", "silu", {**MAMBA, "dt_rank": 21}),
    "gated mamba": ("layer", "swiglu", {**MAMBA, "conv": 2, "conv_bias": False, "bias": True, "dt_rank": 16}),
    "mamba of one tap": ("rms", "relu", {**MAMBA, "conv": 1, "expand": 1.5, "dt_rank": 17}),
    "gpt-2": ("layer", "gelu_tanh", {"heads": 4}),
    "llama": ("rms", "swiglu", {"heads": 4, "kv_heads": 2, "position": "rotary"}),
    "gemma": ("rms_plus_one", "geglu_tanh", {"heads": 4, "kv_heads": 1, "position": "rotary", "bias": False}),
    "part turned": ("layer", "geglu", {"heads": 2, "position": "rotary", "rotary_dim": 8, "scale": 0.5}),
    "plain": ("rms", "relu", {"heads": 2, "kv_heads": 1}),
    "other": ("layer", "silu", {"heads": 4, "head_dim": 32}),
    "gated relu": ("rms", "reglu", {"heads": 4}),
    "gelu": ("layer", "gelu", {"heads": 4}),
}
WIDTH, PROMPT, STEPS = 64, 7, 40  # more steps than a buffer has room for at first


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Blocks of any size, which remember whether their last step was taken in one."""
    call = step.Step.__call__

    def told(self, *given):
        found = call(self, *given)
        self.took = found is not None
        return found

    monkeypatch.setattr(step, "LEAST", 1)
    monkeypatch.setattr(step.Step, "__call__", told)


def build(made="llama", kind=None, **stack):
    norm, activation, mixer = MADE[made]
    given = {
        "topology": "decoder",
        "width": WIDTH,
        "vocab_size": 50,
        "max_length": 128,
        "position": "none" if "position" in mixer or "name" in mixer else "learned",
        "decoder": {
            "depth": 2,
            "norm": norm,
            "placement": "pre",
            "pattern": [{"name": "attention", **mixer}],
            "feedforward": None if made == "mamba" else {"width": 96, "activation": activation},
            **stack,
        },
    }
    torch.manual_seed(0)
    model = models.build(config.Model.model_validate(given)).eval()
    for parameter in model.parameters():  # norms and biases too
        parameter.data += 0.1 * torch.randn_like(parameter)
    if kind is not None:
        quantise(model, kind)
    return model


def by_modules(model):
    """The same, its blocks going module by module, since someone wants to see what goes into them."""
    other = copy.deepcopy(model)
    for block in other.decoder.stack.blocks:
        block.mixer.register_forward_pre_hook(lambda *given: None)
    return other


def taken(model):
    """Whether every block has taken its last step in one."""
    return all(getattr(getattr(b, "_step", None), "took", False) for b in model.decoder.stack.blocks)


@torch.inference_mode()
def write(model, ids, steps, state=None):
    """Logits of each step, fed with given units, and the last state."""
    found, at = [], 0
    if state is None:
        _, state = model.decode(ids[:, :PROMPT])
        at = PROMPT
    for i in range(at, at + steps):
        logits, state = model.decode(ids[:, i : i + 1], state)
        found.append(logits)
    return torch.cat(found, 1), state


def units(rows, length=PROMPT + STEPS):
    return torch.randint(50, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", [None, "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("made", MADE)
def test_one_loop_equals_modules(made, kind):
    model = build(made, kind)
    ids = units(2)
    expected, after = write(by_modules(model), ids, STEPS)
    found, state = write(model, ids, STEPS)
    assert taken(model)
    tolerance = 3e-4 if kind == "int4" else 2e-5  # activations of int4's products are rounded to 16 bits
    close(found, expected, made, tolerance=tolerance)
    for one, other in zip(state.blocks, after.blocks, strict=True):
        assert one.mixer.seen == other.mixer.seen == PROMPT + STEPS
        for name in one.mixer:
            close(one.mixer[name], other.mixer[name], name, tolerance=tolerance)


@pytest.mark.parametrize("made", ["llama", "mamba"])
@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_number_of_rows_and_threads(made, rows, threads):
    model, ids, before = build(made), units(rows), torch.get_num_threads()
    expected, _ = write(by_modules(model), ids, STEPS)
    torch.set_num_threads(threads)
    try:
        found, _ = write(model, ids, STEPS)
    finally:
        torch.set_num_threads(before)
    close(found, expected, f"{rows} rows on {threads} threads")


@pytest.mark.parametrize("made", ["llama", "mamba"])
def test_from_the_first_unit(made):
    """A state that has seen nothing."""
    model, ids = build(made), units(2)
    with torch.inference_mode():
        begun, state = model.decode(ids[:, :1], model.init_state(2))
        expected = model.decode(ids[:, :1])[0]
    assert taken(model)
    close(begun, expected, "one unit")
    assert state.blocks[0].mixer.seen == 1


@pytest.mark.parametrize("made", ["llama", "mamba"])
def test_a_state_may_be_gone_on_with_twice(made):
    model, ids, others = build(made), units(2), units(2).flip(1)
    _, state = write(model, ids, 3)
    held = {n: t.clone() for n, t in state.blocks[0].mixer.items()}
    first, _ = write(model, ids[:, 20:], 5, state)
    second, _ = write(model, others, 5, state)
    again, _ = write(model, ids[:, 20:], 5, state)
    same_bits(again, first, "gone on with as before")
    assert not torch.equal(first, second)
    for name, tensor in state.blocks[0].mixer.items():
        same_bits(tensor, held[name], name)


@pytest.mark.parametrize("made", ["llama", "gated mamba"])
def test_states_go_from_one_to_the_other(made):
    """Modules continue what the loop began, and the loop what modules did; reordered too."""
    model, ids = build(made), units(2)
    plain = by_modules(model)
    expected, _ = write(plain, ids, 12)
    _, state = write(model, ids, 6)
    late, _ = write(plain, ids[:, PROMPT + 6 :], 6, state)
    close(late, expected[:, 6:], "modules after the loop")
    _, state = write(plain, ids, 6)
    turned = torch.tensor([1, 0])
    late, _ = write(model, ids[turned][:, PROMPT + 6 :], 6, state.reorder(turned, turned))
    close(late, expected[turned][:, 6:], "the loop after modules")


@pytest.mark.parametrize("change", ["in place", "moved", "replaced", "packed"])
def test_changed_weights_are_seen(change):
    model, ids = build("gpt-2"), units(1)
    write(model, ids, 2)
    assert taken(model)
    block = model.decoder.stack.blocks[1]
    fresh = noise(*block.feedforward.out.weight.shape, seed=5, device="cpu")
    with torch.no_grad():
        if change == "in place":
            block.feedforward.out.weight.mul_(2)
            block.mixer_residual.norm.bias.add_(1)
        elif change == "moved":
            block.feedforward.out.weight.data = fresh
        elif change == "replaced":
            block.mixer_residual.norm = torch.nn.LayerNorm(WIDTH, eps=0.5)
            block.mixer.out = type(block.mixer.out)(WIDTH, WIDTH)
        else:
            quantise(model, "int8")
    expected, _ = write(by_modules(model), ids, 4)
    found, _ = write(model, ids, 4)
    assert taken(model)
    close(found, expected, change)


def test_changed_numbers_of_a_state_space_are_seen():
    """The loop reads copies of them, laid out otherwise."""
    model, ids = build("mamba"), units(1)
    write(model, ids, 2)
    assert taken(model)
    with torch.no_grad():
        for name in ("a_log", "conv_weight", "conv_bias", "dt_weight", "dt_bias", "d"):
            getattr(model.decoder.stack.blocks[1].mixer, name).mul_(1.5)
    expected, _ = write(by_modules(model), ids, 4)
    found, _ = write(model, ids, 4)
    assert taken(model)
    close(found, expected, "changed in place")


@pytest.mark.parametrize("made", ["llama", "mamba"])
def test_a_compiled_step_is_written_down_whole(made):
    model, ids = build(made), units(2)
    compiled = torch.compile(model.decode, backend="eager", fullgraph=True)
    with torch.no_grad():
        _, state = model.decode(ids[:, :PROMPT])
        expected = model.decode(ids[:, PROMPT : PROMPT + 1], state)[0]
        assert taken(model)
        close(compiled(ids[:, PROMPT : PROMPT + 1], state)[0], expected, made)


def test_hooks_are_called():
    model, ids, seen = build(), units(1), []
    handle = model.decoder.stack.blocks[0].feedforward.out.register_forward_hook(lambda *given: seen.append(1))
    write(model, ids, 3)
    assert len(seen) == 1 + 3  # the prompt, and every step
    handle.remove()
    write(model, ids, 3)
    assert len(seen) == 1 + 3


@pytest.mark.parametrize(
    "given",
    [
        {"placement": "post"},
        {"placement": "parallel"},
        {"pattern": [{"name": "attention", "heads": 4, "window": 5}]},
        {"pattern": [{"name": "attention", "heads": 4, "position": "alibi"}]},
        {"pattern": [{"name": "attention", "heads": 4, "qk_norm": "rms"}]},
        {"pattern": [{"name": "attention", "heads": 8}]},  # heads of 8 numbers
        {"pattern": [{"name": "gru"}]},
        {"feedforward": {"width": 96, "activation": "tanh"}},
    ],
    ids=str,
)
def test_what_the_loop_does_not_know_goes_by_modules(given):
    model, ids = build(**given), units(2)
    found, _ = write(model, ids, 4)
    assert not taken(model)
    with torch.inference_mode():
        whole = model.decode(ids[:, : PROMPT + 4])[0]
    close(found, whole[:, PROMPT:], str(given), tolerance=1e-4)


def test_padding_and_gradients_go_by_modules():
    model, ids = build(), units(2)
    mask = torch.ones(2, PROMPT, dtype=torch.bool)
    mask[1, :3] = False
    with torch.inference_mode():
        _, state = model.hidden(ids[:, :PROMPT], None, Context(mask=mask))
        padded = model.decode(ids[:, PROMPT : PROMPT + 1], state)[0]
        alone = model.decode(ids[1:, 3:PROMPT])[1]
        single = model.decode(ids[1:, PROMPT : PROMPT + 1], alone)[0]
    close(padded[1:], single, "a row with padding before it")
    _, state = model.decode(ids[:, :PROMPT])
    logits, _ = model.decode(ids[:, PROMPT : PROMPT + 1], state)
    logits.sum().backward()
    assert model.decoder.stack.blocks[0].feedforward.inner.weight.grad.abs().sum() > 0
