"""An encoder that hands its last states to the decoder keeps what every model keeps, and refuses what does not fit."""

from dataclasses import replace

import pytest
import torch

from jogak import config, models
from jogak.decoding.search import Settings, search
from jogak.errors import UserError
from jogak.looking.attention import collect
from jogak.mixers import EMPTY, Context

VOCABULARY = 40
WAYS = [("state", False), ("both", False), ("state", True)]  # handover, reverse_source


def _model(handover="state", reverse=False, *, encoder=None, decoder=None, pattern=("lstm",), **changes):
    torch.manual_seed(0)
    stack = {"depth": 2, "placement": "pre", "pattern": pattern}
    cross = {"cross": {"name": "dot", "scaled": True}} if handover == "both" else {}
    given = config.Model.model_validate(
        {
            "width": 16,
            "dropout": 0.0,
            "position": "none",
            "handover": handover,
            "reverse_source": reverse,
            "encoder": {**stack, **(encoder or {})},
            "decoder": {**stack, **cross, **(decoder or {})},
            **changes,
        }
    )
    return models.build(given, VOCABULARY).double().eval()


def _ids(rows, length, seed=1):
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("handover", "reverse"), WAYS)
def test_steps_equal_the_whole(handover, reverse):
    model = _model(handover, reverse)
    source, ids = _ids(2, 9), _ids(2, 7, seed=2)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 5:] = False
    whole = model(source, ids, mask)
    state, parts = None, []
    context = model.read(source, mask)
    for place in range(7):
        logits, state = model.decode(ids[:, place : place + 1], state, context if place == 0 else EMPTY)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert state.seen == 7


@pytest.mark.parametrize(("handover", "reverse"), WAYS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_source_is_as_unpadded(handover, reverse, side):
    model = _model(handover, reverse)
    source, ids = _ids(1, 6), _ids(1, 5, seed=2)
    filler = torch.zeros(1, 4, dtype=torch.int64)
    padded = torch.cat([filler, source] if side == "left" else [source, filler], dim=1)
    mask = torch.zeros(1, 10, dtype=torch.bool)
    mask[:, slice(4, None) if side == "left" else slice(None, 6)] = True
    torch.testing.assert_close(model(padded, ids, mask), model(source, ids))


@pytest.mark.parametrize(("handover", "reverse"), WAYS)
def test_beams_share_their_sentences_state(handover, reverse):
    model = _model(handover, reverse)
    source, ids = _ids(2, 5), _ids(6, 4, seed=2)
    shared, _ = model.decode(ids, None, model.read(source))
    spread, _ = model.decode(ids, None, model.read(source.repeat_interleave(3, 0)))
    torch.testing.assert_close(shared, spread)


@pytest.mark.parametrize(("handover", "reverse"), WAYS)
def test_a_sentence_alone_is_searched_as_in_a_batch(handover, reverse):
    model = _model(handover, reverse)
    source = _ids(3, 6)
    prompt = torch.full((3, 1), 1)
    settings = Settings(end=2, max_length=8, beam=3, n_best=3)
    together = search(model, prompt, model.read(source), settings)
    for row in range(3):
        alone = search(model, prompt[:1], model.read(source[row : row + 1]), settings)[0]
        assert [h.ids for h in together[row]] == [h.ids for h in alone]


def test_the_decoder_goes_on_where_the_encoder_ended():
    """With one set of weights on both sides, source and target are one sequence."""
    model = _model("state")
    model.encoder.load_state_dict(model.decoder.state_dict())
    source, ids = _ids(2, 5), _ids(2, 4, seed=2)
    one, _ = model.decoder(torch.cat([source, ids], 1))
    torch.testing.assert_close(model(source, ids), model.head(one[:, 5:]))


def test_a_reversed_source_is_the_source_from_its_end():
    plain, reverse = _model("both"), _model("both", reverse=True)
    source, ids = _ids(2, 5), _ids(2, 4, seed=2)
    torch.testing.assert_close(reverse(source, ids), plain(source.flip(1), ids))
    torch.testing.assert_close(reverse.read(source).memory, plain.read(source.flip(1)).memory.flip(1))


def test_the_source_reaches_the_target_through_the_state_alone():
    model = _model("state")
    source = _ids(1, 5)
    context = model.read(source)
    assert context.memory is None
    assert all(block.cross is None for block in model.decoder.stack.blocks)
    other = source.clone()
    other[0, 0] = (other[0, 0] + 1) % VOCABULARY
    ids = _ids(1, 3, seed=2)
    assert not torch.allclose(model(source, ids), model(other, ids))
    assert [panel.kind for panel in collect(model, [1, 2], [3])] == ["encoder", "decoder"]


@pytest.mark.parametrize("on", ["encoder", "decoder", "both"])
def test_gradient_checkpointing_gives_the_same_gradients(on):
    grads = []
    for checkpointing in (False, True):
        model = _model().train()
        for side in ("encoder", "decoder") if on == "both" else (on,):
            getattr(model, side).stack.gradient_checkpointing = checkpointing
        model(_ids(2, 5), _ids(2, 4)).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_packed_sources_are_refused():
    segments = torch.tensor([[0, 0, 0, 1, 1]])
    with pytest.raises(UserError, match=r"set train\.pack to false"):
        _model().read(_ids(1, 5), None, segments)


def test_a_decoder_without_its_source_is_refused():
    model = _model()
    for call in (lambda: model.decode(_ids(1, 2)), lambda: model.decode(_ids(1, 2), None, Context())):
        with pytest.raises(UserError, match="the context that read"):
            call()
    with pytest.raises(UserError, match="no multiple of the 2 rows"):
        model.decode(_ids(3, 2), None, model.read(_ids(2, 5)))
    with pytest.raises(UserError, match="decode without one"):
        model.init_state(2)
    with pytest.raises(UserError, match="the context that read"):
        model.decode(_ids(2, 2), None, replace(EMPTY, mask=torch.ones(2, 2, dtype=torch.bool)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"encoder": {"depth": 3}}, "there are 3 and 2; give both sides one depth"),
        ({"encoder": {"pattern": ("gru",)}}, "decoder's 'lstm' cannot go on with the state of the encoder's 'gru'"),
        ({"decoder": {"pattern": ({"name": "lstm", "hidden": 8},)}}, "give both sides one mixer of one size"),
        ({"pattern": ("attention",)}, "'attention' keeps every position"),
        ({"decoder": {"pattern": ("attention",)}}, "'attention' keeps every position"),
        ({"encoder": {"pattern": ({"name": "bidirectional", "inner": "lstm"},)}}, "looks ahead, which an encoder"),
        ({"encoder": {"causal": False}}, "remove 'encoder.causal'"),
        ({"decoder": {"cross": "dot"}}, "set 'handover' to 'both'"),
        ({"decoder": {"causal": True}}, "a decoder always is"),
        ({"source_vocab_size": 50}, "set 'tie' to 'output' or 'none'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(changes, sentence):
    with pytest.raises((UserError, ValueError), match=sentence):
        _model(**changes)


@pytest.mark.parametrize(("key", "value"), [("handover", "state"), ("reverse_source", True), ("source_vocab_size", 9)])
def test_one_stack_hands_nothing_over(key, value):
    with pytest.raises(ValueError, match=f"'{key}' needs topology 'encoder-decoder'"):
        config.Model.model_validate({"topology": "decoder", key: value})


def test_an_encoder_may_look_back_only_without_a_handover():
    model = _model("memory", encoder={"causal": True})
    source = _ids(1, 6)
    later = source.clone()
    later[0, 4:] = 0
    torch.testing.assert_close(model.encode(source)[:, :4], model.encode(later)[:, :4])


def test_without_a_residual_there_is_no_cross_mixer():
    with pytest.raises(UserError, match="'plain' has no residual"):
        _model("both", decoder={"placement": "plain"})


def test_sides_may_have_vocabularies_of_their_own():
    model = _model(tie="output", source_vocab_size=50)
    assert model.encoder.embedding.table.num_embeddings == 50
    assert model(torch.tensor([[49]]), _ids(1, 2)).shape == (1, 2, VOCABULARY)
