"""RecurrentGemma of transformers: blocks and the whole model, in one call and in cached steps, forward and backward."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from jogak import config, mixers, models
from jogak.families import recurrent_gemma
from jogak.hub.checkpoint import Checkpoint
from jogak.hub.pretrained import Pretrained
from jogak.hub.read import read
from jogak.mixers import Context, Mixer
from tests.laws.support import close, close_all, noise

transformers = pytest.importorskip("transformers")
peer = pytest.importorskip("transformers.models.recurrent_gemma.modeling_recurrent_gemma")

WIDTH, HEADS, WINDOW, LAYERS, VOCABULARY, CAP = 64, 4, 8, 5, 40, 30.0
NEAR = 1e-4

CONFIG = transformers.RecurrentGemmaConfig(
    hidden_size=WIDTH,
    num_attention_heads=HEADS,
    num_key_value_heads=1,
    attention_window_size=WINDOW,
    num_hidden_layers=LAYERS,
    intermediate_size=2 * 96,
    vocab_size=VOCABULARY,
    logits_soft_cap=CAP,
    attn_implementation="eager",
)
PATTERN = [
    *2 * [{"name": "rglru", "blocks": HEADS}],
    {
        "name": "attention",
        "heads": HEADS,
        "kv_heads": 1,
        "window": WINDOW,
        "position": "rotary",
        "rotary_dim": WIDTH // HEADS // 2,
        "bias": False,
        "out_bias": True,
    },
]


def _peer() -> nn.Module:
    """Their model, with parameters far from zero, so that nothing hides behind one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = peer.RecurrentGemmaForCausalLM(CONFIG)
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.add_(0.2 * noise(*parameter.shape, seed=number))
    return module.eval()


def _recurrent(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their weights (or gradients) of a recurrent block under our names; our Lambda is their parameter's negative."""
    blocks = [theirs[f"rg_lru.{gate}_gate_weight"] for gate in ("input", "recurrent")]
    biases = [theirs[f"rg_lru.{gate}_gate_bias"] for gate in ("input", "recurrent")]
    return {
        "inner.weight": torch.cat([theirs["linear_x.weight"], theirs["linear_y.weight"]]),
        "inner.bias": torch.cat([theirs["linear_x.bias"], theirs["linear_y.bias"]]),
        "out.weight": theirs["linear_out.weight"],
        "out.bias": theirs["linear_out.bias"],
        "conv_weight": theirs["conv_1d.weight"].squeeze(1),
        "conv_bias": theirs["conv_1d.bias"],
        "gate_weight": torch.cat(blocks, 2),
        "gate_bias": torch.cat(biases, 1),
        "rate": -theirs["rg_lru.recurrent_param"],
    }


def _attention(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "qkv.weight": torch.cat([theirs[f"{part}_proj.weight"] for part in "qkv"]),
        "out.weight": theirs["o_proj.weight"],
        "out.bias": theirs["o_proj.bias"],
    }


def _model(theirs: dict[str, Tensor], one: float) -> dict[str, Tensor]:
    """Their weights (one=1) or gradients (one=0) under our names: they keep a norm's gain without the 1."""
    ours = {
        "decoder.embedding.table.weight": theirs["model.embed_tokens.weight"],
        "decoder.stack.final_norm.weight": one + theirs["model.final_norm.weight"],
    }
    for index in range(LAYERS):
        prefix, mine = f"model.layers.{index}.", f"decoder.stack.blocks.{index}."
        block = {n.removeprefix(prefix): t for n, t in theirs.items() if n.startswith(prefix)}
        inside = {n.removeprefix("temporal_block."): t for n, t in block.items() if n.startswith("temporal_block.")}
        mixer = _attention(inside) if "q_proj.weight" in inside else _recurrent(inside)
        ours |= {f"{mine}mixer.{n}": t for n, t in mixer.items()}
        ours[f"{mine}mixer_residual.norm.weight"] = one + block["temporal_pre_norm.weight"]
        ours[f"{mine}feedforward_residual.norm.weight"] = one + block["channel_pre_norm.weight"]
        for kind in ("weight", "bias"):
            parts = [block[f"mlp_block.{part}_proj.{kind}"] for part in ("gate", "up")]
            ours[f"{mine}feedforward.inner.{kind}"] = torch.cat(parts)
            ours[f"{mine}feedforward.out.{kind}"] = block[f"mlp_block.down_proj.{kind}"]
    return ours


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in module.named_parameters()}


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in module.named_parameters()}


# ---------------------------------------------------------------- the recurrent block


def _blocks() -> tuple[nn.Module, Mixer]:
    theirs = _peer().model.layers[0].temporal_block
    ours = mixers.build("rglru", d_model=WIDTH, blocks=HEADS).eval()
    ours.load_state_dict(_recurrent(_weights(theirs)))
    return theirs, ours


def test_the_recurrent_block_forward_and_backward():
    theirs, ours = _blocks()
    x = noise(2, 37, WIDTH, seed=100)
    weight, inputs = noise(2, 37, WIDTH, seed=101), [x.clone().requires_grad_() for _ in range(2)]
    expected, _ = theirs(inputs[0], torch.arange(37)[None], None, use_cache=False)
    actual, _ = ours(inputs[1])
    (expected * weight).sum().backward()
    (actual * weight).sum().backward()
    close(actual, expected, "output", tolerance=NEAR)
    close(inputs[1].grad, inputs[0].grad, "gradient of x", tolerance=NEAR)
    close_all(_gradients(ours), _recurrent(_gradients(theirs)), "gradient", tolerance=NEAR)


def test_the_recurrent_block_in_cached_steps():
    theirs, ours = _blocks()
    x = noise(2, 21, WIDTH, seed=102)
    with torch.no_grad():
        expected, _ = theirs(x[:, :17], torch.arange(17)[None], None, use_cache=True)
        actual, state = ours(x[:, :17])
        close(actual, expected, "prompt", tolerance=NEAR)
        for t in range(17, 21):
            expected, _ = theirs(x[:, t : t + 1], torch.tensor([[t]]), None, use_cache=True)
            actual, state = ours.step(x[:, t : t + 1], state)
            close(actual, expected, f"step {t}", tolerance=NEAR)
    close(state["h"], theirs.rg_lru.recurrent_states, "recurrent state", tolerance=NEAR)
    close(state["past"], theirs.conv1d_state.transpose(1, 2), "convolution's state", tolerance=NEAR)


# ---------------------------------------------------------------- the local attention


def test_the_local_attention_forward_and_backward():
    theirs = _peer().model.layers[2].temporal_block
    options = {n: v for n, v in PATTERN[2].items() if n != "name"}
    ours = mixers.build("attention", d_model=WIDTH, causal=True, **options).eval()
    ours.load_state_dict(_attention(_weights(theirs)))
    place = torch.arange(30)
    distance = place[:, None] - place
    hidden = (distance < 0) | (distance >= WINDOW)
    mask = torch.zeros(30, 30).masked_fill(hidden, -torch.inf)[None, None]
    inputs = [noise(2, 30, WIDTH, seed=103).requires_grad_() for _ in range(2)]
    weight = noise(2, 30, WIDTH, seed=104)
    expected, _ = theirs(inputs[0], place[None], mask)
    actual, _ = ours(inputs[1])
    (expected * weight).sum().backward()
    (actual * weight).sum().backward()
    close(actual, expected, "output", tolerance=NEAR)
    close(inputs[1].grad, inputs[0].grad, "gradient of x", tolerance=NEAR)
    close_all(_gradients(ours), _attention(_gradients(theirs)), "gradient", tolerance=NEAR)


# ---------------------------------------------------------------- the whole model


def _models() -> tuple[nn.Module, models.Decoder]:
    theirs = _peer()
    stack = {
        "depth": LAYERS,
        "pattern": PATTERN,
        "feedforward": {"width": 96, "activation": "geglu_tanh", "bias": True},
        "norm": "rms",
        "norm_eps": 1e-6,
        "placement": "pre",
    }
    given = {"topology": "decoder", "vocab_size": VOCABULARY, "width": WIDTH, "position": "none", "dropout": 0.0}
    ours = models.build(config.Model.model_validate({**given, "tie": "output", "decoder": stack})).eval()
    missing, unexpected = ours.load_state_dict(_model(_weights(theirs), 1.0), strict=False)
    assert missing == ["head.projection.weight"], "tied"
    assert not unexpected
    assert isinstance(ours, models.Decoder)
    return theirs, ours


def _cap(logits: Tensor) -> Tensor:
    """What jogak's head leaves out."""
    return CAP * torch.tanh(logits / CAP)


def test_the_model_forward_and_backward():
    theirs, ours = _models()
    ids = torch.randint(1, VOCABULARY, (2, 33), generator=torch.Generator().manual_seed(1))
    weight = noise(2, 33, VOCABULARY, seed=105)
    expected, actual = theirs(ids, use_cache=False).logits, _cap(ours(ids))
    (expected * weight).sum().backward()
    (actual * weight).sum().backward()
    close(actual, expected, "logits", tolerance=NEAR)
    close_all(_gradients(ours), _model(_gradients(theirs), 0.0), "gradient", tolerance=NEAR)


def test_the_model_in_cached_steps():
    """A prompt longer than the window, then steps."""
    theirs, ours = _models()
    ids = torch.randint(1, VOCABULARY, (2, 26), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        cache = transformers.DynamicCache(config=CONFIG)
        given = theirs.model(ids[:, :19], use_cache=True, past_key_values=cache)
        actual, state = ours.decode(ids[:, :19])
        close(_cap(actual), _cap(theirs.lm_head(given.last_hidden_state)), "prompt", tolerance=NEAR)
        for t in range(19, 26):
            given = theirs.model(ids[:, t : t + 1], use_cache=True, past_key_values=cache)
            actual, state = ours.decode(ids[:, t : t + 1], state)
            close(_cap(actual), _cap(theirs.lm_head(given.last_hidden_state)), f"step {t}", tolerance=NEAR)


# ---------------------------------------------------------------- padding


def _checkpoint(path: Path, *, tied: bool) -> nn.Module:
    """Their tiny model of the family tests, saved; its recurrences take no mask, and padding goes through them."""
    torch.manual_seed(0)
    fields = {**recurrent_gemma.TINY["RecurrentGemmaForCausalLM"], "tie_word_embeddings": tied}
    ids = {"eos_token_id": None, "bos_token_id": None}
    theirs = peer.RecurrentGemmaForCausalLM(transformers.RecurrentGemmaConfig(**fields, **ids)).eval()
    with torch.no_grad():
        for number, parameter in enumerate(theirs.parameters()):
            parameter.add_(noise(*parameter.shape, seed=number), alpha=0.3)
    theirs.save_pretrained(path)
    return theirs


PROMPTS = [[5, 17, 80, 33, 9, 41, 77], [60, 2, 91], [15, 16, 100, 8, 23]]


def _padded() -> tuple[Tensor, Tensor]:
    length = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (length - len(p)) + p for p in PROMPTS])
    return ids, ids != 0


@torch.no_grad()
def test_padding_on_the_left_changes_theirs_and_not_ours(tmp_path):
    theirs = _checkpoint(tmp_path, tied=True)
    ours, (ids, mask) = read(Checkpoint(tmp_path)).model, _padded()
    assert isinstance(ours, models.Decoder)
    found, _ = ours.decode(ids, None, Context(mask=mask))
    padded = theirs(ids, attention_mask=mask.long(), use_cache=False).logits
    for row, prompt in enumerate(PROMPTS):
        expected = theirs(torch.tensor([prompt]), use_cache=False).logits[0]
        close(found[row, -len(prompt) :], expected, f"row {row}", tolerance=NEAR)
        changed = float((padded[row, -len(prompt) :] - expected).abs().max())
        assert changed > 0.05 or len(prompt) == ids.shape[1], "theirs minds padding now: put it back into test_families"


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("beams", [1, 3])
def test_generation(beams, tied, tmp_path):
    """Ours padded on the left, theirs row by row; for beams without their cache, whose states do not follow them."""
    theirs = _checkpoint(tmp_path, tied=tied)
    ours, (ids, mask) = Pretrained.of(read(Checkpoint(tmp_path))), _padded()
    found = ours.generate(ids, max_new_tokens=12, mask=mask, beam=beams, end=-1).ids
    settings = {"num_beams": beams, "do_sample": False, "use_cache": beams == 1, "pad_token_id": 0}
    plain = transformers.GenerationConfig(**settings)
    for prompt, answer in zip(PROMPTS, found, strict=True):
        given = torch.tensor([prompt])
        wanted = theirs.generate(given, generation_config=plain, max_new_tokens=12)
        assert answer == wanted[0, len(prompt) :].tolist()
    assert tied or len({unit for row in found for unit in row}) > 5, "nothing to tell apart"
