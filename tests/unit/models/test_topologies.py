"""The three topologies: states continue what a whole pass computes, whatever the norms, patterns and padding."""

from importlib import import_module

import pytest
import torch

from jogak import config, mixers, models
from jogak.errors import UserError
from jogak.mixers import EMPTY, Context

VOCABULARY = 40


def _model(topology="encoder-decoder", placement="pre", pattern=("attention",), **changes):
    torch.manual_seed(0)
    stack = config.Stack(depth=2, placement=placement, pattern=pattern)
    sides = {side: stack for side in topology.split("-")}
    given = config.Model(topology=topology, width=32, dropout=0.0, max_length=64, **sides, **changes)
    return models.build(given, VOCABULARY).double().eval()


def _ids(rows, length, seed=1):
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("placement", ["pre", "post", "sandwich", "parallel"])
@pytest.mark.parametrize("position", ["sinusoidal", "learned", "none"])
def test_steps_equal_the_whole(placement, position):
    model = _model(placement=placement, position=position)
    source, ids = _ids(2, 9), _ids(2, 7, seed=2)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 5:] = False
    whole = model(source, ids, mask)
    context, state, parts = model.read(source, mask), model.init_state(2), []
    for place in range(7):
        logits, state = model.decode(ids[:, place : place + 1], state, context if place == 0 else EMPTY)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert state.seen == 7


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side):
    model = _model("decoder", position="sinusoidal")
    ids = _ids(1, 6)
    filler = torch.zeros(1, 4, dtype=torch.int64)
    padded = torch.cat([filler, ids] if side == "left" else [ids, filler], dim=1)
    real = slice(4, None) if side == "left" else slice(None, 6)
    mask = torch.zeros(1, 10, dtype=torch.bool)
    mask[:, real] = True
    torch.testing.assert_close(model(padded, mask)[:, real], model(ids))


def test_decoding_goes_on_after_a_left_padded_prompt():
    model = _model("decoder")
    short, long, next_ids = _ids(1, 3), _ids(1, 6, seed=2), _ids(2, 2, seed=3)
    prompt = torch.cat([torch.cat([torch.zeros(1, 3, dtype=torch.int64), short], 1), long])
    mask = torch.tensor([[False] * 3 + [True] * 3, [True] * 6])
    _, state = model.decode(prompt, None, Context(mask=mask))
    together, _ = model.decode(next_ids, state)
    for row, alone in enumerate((short, long)):
        expected = model(torch.cat([alone, next_ids[row : row + 1]], 1))[:, -2:]
        torch.testing.assert_close(together[row : row + 1], expected)


def test_packed_documents_are_as_apart():
    model = _model()
    sources, targets = [_ids(1, 5), _ids(1, 3, seed=2)], [_ids(1, 4, seed=3), _ids(1, 6, seed=4)]
    source_segments = torch.tensor([[0] * 5 + [1] * 3])
    target_segments = torch.tensor([[0] * 4 + [1] * 6])
    context = model.read(torch.cat(sources, 1), None, source_segments)
    context = Context(memory=context.memory, memory_segments=source_segments, segments=target_segments)
    packed, _ = model.decode(torch.cat(targets, 1), None, context)
    apart = [model(s, t) for s, t in zip(sources, targets, strict=True)]
    torch.testing.assert_close(packed, torch.cat(apart, 1))


def test_beams_share_their_sentences_memory():
    model = _model()
    source, ids = _ids(2, 5), _ids(6, 4, seed=2)
    context = model.read(source)
    shared, _ = model.decode(ids, None, context)
    spread, _ = model.decode(ids, None, Context(memory=context.memory.repeat_interleave(3, 0)))
    torch.testing.assert_close(shared, spread)


def test_reorder_equals_running_the_reordered_batch():
    model = _model()
    source, ids = _ids(3, 5), _ids(3, 4, seed=2)
    index = torch.tensor([2, 0, 0, 1])
    _, state = model.decode(ids, None, model.read(source))
    _, expected = model.decode(ids[index], None, model.read(source[index]))
    after = _ids(4, 1, seed=5)
    torch.testing.assert_close(model.decode(after, state.reorder(index, index))[0], model.decode(after, expected)[0])


@pytest.mark.parametrize(("tie", "tables"), [("all", 1), ("output", 2), ("none", 3)])
def test_ties_share_tables(tie, tables):
    model = _model(tie=tie)
    weights = [
        model.encoder.embedding.table.weight,
        model.decoder.embedding.table.weight,
        model.head.projection.weight,
    ]
    assert len({w.data_ptr() for w in weights}) == tables


def test_a_pattern_repeats():
    local = {"name": "attention", "heads": 2, "window": 3}
    model = _model("decoder", pattern=("attention", local))
    assert [b.mixer.window for b in model.decoder.stack.blocks] == [None, 3]


def test_gradient_checkpointing_gives_the_same_gradients():
    grads = []
    for on in (False, True):
        model = _model().train()
        model.decoder.stack.gradient_checkpointing = model.encoder.stack.gradient_checkpointing = on
        model(_ids(2, 5), _ids(2, 4)).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        (("atention",), "did you mean 'attention'"),
        (({"name": "attention", "causal": True},), "must not say 'causal'"),
        (({"name": "attention", "hedas": 4},), "did you mean 'heads'"),
        (({"name": "attention", "heads": 5},), "multiple of heads"),
    ],
)
def test_what_does_not_fit_is_one_sentence(pattern, sentence):
    with pytest.raises(UserError, match=sentence):
        _model(pattern=pattern)


def test_a_learned_table_says_where_it_ends():
    model = _model("decoder", position="learned")
    with pytest.raises(UserError, match="position 64 is beyond"):
        model(_ids(1, 65))


@pytest.mark.parametrize("topology", ["encoder", "decoder", "encoder-decoder"])
@pytest.mark.parametrize("name", [n for n in mixers.names() if hasattr(import_module(f"jogak.mixers.{n}"), "MIXER")])
def test_every_mixer_may_take_every_place(name, topology):
    """Wrapped where it looks back only and the encoder needs more; nothing else of the stacks changes."""
    if name == "bidirectional":
        pytest.skip("wraps another one")
    stack = config.Stack(depth=1, placement="pre", pattern=("attention",))
    sides = {side: stack for side in topology.split("-")}
    given = models.with_mixer(config.Model(topology=topology, width=32, **sides), name)
    model = models.build(given, VOCABULARY)
    for side in sides:
        assert given.stack(side).placement == "pre"
        kind = type(getattr(model, side).stack.blocks[0].mixer)
        wrapped = side == "encoder" and mixers.kind(name).causal_only
        assert kind is mixers.kind("bidirectional" if wrapped else name)


def test_the_encoder_is_not_wrapped_where_it_hands_over_its_states():
    model = models.build(models.with_mixer(config.Model(width=32, handover="state"), "gru"), VOCABULARY)
    assert type(model.encoder.stack.blocks[0].mixer) is mixers.kind("gru")


def test_a_mixer_that_cannot_look_ahead_says_what_wraps_it():
    with pytest.raises(UserError, match=r"write \{name: bidirectional, inner: lstm\}"):
        _model(pattern=("lstm",))
