import numpy as np
import pytest
import torch

from jogak import config, models
from jogak.errors import UserError
from jogak.looking import attention, collect
from jogak.mixers import EMPTY, Context, Mixer, State

SOURCE, TARGET = [5, 6, 7, 8, 2], [1, 9, 10, 11, 12, 13, 14]
WIDTH = 24


class Shift(Mixer):
    """A mixer without weights: each position takes the one before it."""

    @property
    def state_grows(self):
        return False

    def forward(self, x, state=None, context=EMPTY):
        return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1), State({}, owner="Shift")


def build(topology="encoder-decoder", depth=2, placement="post", dropout=0.3, **mixer):
    torch.manual_seed(0)
    stack = {"depth": depth, "placement": placement, "pattern": [{"name": "attention", "heads": 4, **mixer}]}
    given: dict = {"topology": topology, "width": WIDTH, "dropout": dropout, "vocab_size": 20}
    for side in topology.split("-"):
        given[side] = dict(stack)
    if topology == "encoder-decoder":
        given["decoder"]["cross"] = {"name": "attention", "heads": 3}
    return models.build(config.Model.model_validate(given))


def run_and_record(model, *ids):
    """What each mixer was given and gave: {mixer: (x, context, y)}."""
    record = {}

    def note(module, args, kwargs, result):
        record[module] = (args[0], args[2], result[0])

    hooks = [m.register_forward_hook(note, with_kwargs=True) for m in model.modules() if isinstance(m, Mixer)]
    model.eval()
    with torch.no_grad():
        model(*(torch.tensor([i]) for i in ids))
    for hook in hooks:
        hook.remove()
    return record


FORMS = [
    {},
    {"kv_heads": 2},
    {"kv_heads": 1, "position": "rotary"},
    {"position": "alibi"},
    {"position": "t5", "window": 3},
]


@pytest.mark.parametrize("placement", ["post", "pre", "sandwich", "parallel"])
@pytest.mark.parametrize("form", FORMS, ids=lambda f: "-".join(map(str, f.values())) or "plain")
def test_weights_times_values_are_what_the_mixers_gave(form, placement):
    model = build(placement=placement, **form)
    panels = collect(model, SOURCE, TARGET)
    record = run_and_record(model, SOURCE, TARGET)
    assert [p.kind for p in panels] == ["encoder", "decoder", "cross"]
    stacks = [model.encoder.stack, model.decoder.stack, model.decoder.stack]
    for panel, stack in zip(panels, stacks, strict=True):
        for layer, block in enumerate(stack.blocks):
            mixer = block.cross if panel.kind == "cross" else block.mixer
            x, context, y = record[mixer]
            with torch.no_grad():
                if panel.kind == "cross":
                    v = mixer.kv(context.memory).unflatten(-1, (-1, mixer.head_dim)).chunk(2, dim=2)[1]
                else:
                    v = mixer.qkv(x).unflatten(-1, (-1, mixer.head_dim))[:, :, -mixer.groups :]
                v = v.repeat_interleave(mixer.heads // mixer.groups, dim=2)[0]
                w = torch.from_numpy(panel.weights[layer, : mixer.heads])
                again = mixer.out(torch.einsum("hts,shv->thv", w, v).flatten(1))
            torch.testing.assert_close(again, y[0], atol=1e-5, rtol=0)


def test_rows_sum_to_one_and_a_decoder_sees_no_future():
    encoder, decoder, cross = collect(build(depth=3), SOURCE, TARGET)
    for panel in (encoder, decoder, cross):
        np.testing.assert_allclose(panel.weights.sum(-1), 1, atol=1e-6)
    assert encoder.weights.shape == (3, 4, 5, 5)
    assert cross.weights.shape == (3, 3, 7, 5)
    assert not np.triu(decoder.weights, 1).any()
    assert (np.triu(encoder.weights, 1) > 0).sum() == 3 * 4 * 10


@pytest.mark.parametrize(
    ("topology", "ids", "kind"), [("encoder", (SOURCE, ()), "encoder"), ("decoder", ((), TARGET), "decoder")]
)
def test_models_of_one_stack(topology, ids, kind):
    (panel,) = collect(build(topology), *ids)
    assert (panel.kind, panel.weights.shape[2]) == (kind, len(ids[0] or ids[1]))


def test_rows_made_in_parts_are_the_same(monkeypatch):
    model = build(position="rotary")
    whole = collect(model, SOURCE, TARGET)
    monkeypatch.setattr(attention, "ROWS", 2)
    for one, other in zip(whole, collect(model, SOURCE, TARGET), strict=True):
        np.testing.assert_allclose(one.weights, other.weights, atol=1e-7)


def test_labels():
    model = build()
    source, target, written = list("나는은행에"), list("abcdefg"), list("bcdefgh")
    plain = collect(model, SOURCE, TARGET, source_labels=source, target_labels=target)
    assert [(p.queries, p.keys) for p in plain] == [(source, source), (target, target), (target, source)]
    moved = collect(model, SOURCE, TARGET, source_labels=source, target_labels=target, written_labels=written)
    assert [(p.queries, p.keys) for p in moved] == [(source, source), (written, target), (written, source)]
    assert [p.rows_write for p in moved] == [False, True, True]
    assert collect(model, SOURCE, TARGET)[0].keys == ["5", "6", "7", "8", "2"]


def test_looking_leaves_the_model_as_it_was():
    model = build(dropout=0.5).train()
    model.encoder.stack.eval()  # as when a part is frozen
    before = [m.training for m in model.modules()]
    first, second = (collect(model, SOURCE, TARGET)[0].weights for _ in range(2))
    np.testing.assert_array_equal(first, second)  # no dropout
    assert [m.training for m in model.modules()] == before
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_a_model_that_fails_is_left_as_it_was_too():
    model = build().train()
    with pytest.raises(IndexError):
        collect(model, [99], TARGET)  # beyond the vocabulary
    assert model.training
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_mixers_without_weights_are_named():
    model = build(depth=3)
    model.encoder.stack.blocks[1].mixer = Shift(WIDTH)
    for block in model.decoder.stack.blocks:
        block.mixer = Shift(WIDTH)
    encoder, decoder, cross = collect(model, SOURCE, TARGET)
    assert encoder.layers == (1, 3)
    assert encoder.without == ((2, "test_attention"),)  # the file that the mixer is in
    assert encoder.weights.shape == (2, 4, 5, 5)
    assert decoder.layers == ()
    assert [number for number, _ in decoder.without] == [1, 2, 3]
    assert cross.layers == (1, 2, 3)
    assert cross.without == ()


def test_layers_may_differ_in_heads():
    model = build("encoder")
    model.encoder.stack.blocks[1].mixer = (
        models.build(
            config.Model.model_validate(
                {"topology": "encoder", "width": WIDTH, "encoder": {"pattern": [{"name": "attention", "heads": 2}]}}
            ),
            20,
        )
        .encoder.stack.blocks[0]
        .mixer
    )
    (panel,) = collect(model, SOURCE)
    assert panel.heads == (4, 2)
    assert np.isnan(panel.weights[1, 2:]).all()


@pytest.mark.parametrize(
    ("source", "target", "labels", "message"),
    [
        ([], TARGET, {}, "the source is empty"),
        (SOURCE, [], {}, "the target is empty"),
        (SOURCE, TARGET, {"source_labels": ["a"]}, "1 labels for the 5 tokens of the source"),
        (SOURCE, TARGET, {"written_labels": ["a"]}, "1 labels for the 7 tokens of the target"),
    ],
)
def test_what_does_not_fit_is_refused(source, target, labels, message):
    with pytest.raises(UserError, match=message):
        collect(build(), source, target, **labels)


def test_contexts_reach_the_weights():
    """A mask in the context counts, so that a padded example shows what the model really read."""
    model = build("encoder")
    mixer = model.encoder.stack.blocks[0].mixer
    x = torch.randn(1, 4, WIDTH, generator=torch.Generator().manual_seed(0))
    padded = attention._weights(mixer, x, Context(mask=torch.tensor([[True, True, True, False]])), 4)
    np.testing.assert_allclose(padded[:, :3, :3], attention._weights(mixer, x[:, :3], EMPTY, 3), atol=1e-6)
