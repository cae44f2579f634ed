"""Beam search against exhaustive search, and what batches, lengths and forbidden units do to it."""

import pytest
import torch

from jogak import config, models
from jogak.decoding.search import Settings, search
from jogak.errors import UserError

VOCABULARY, END = 8, 2


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    stack = config.Stack(depth=1)
    model = models.build(config.Model(width=32, encoder=stack, decoder=stack), VOCABULARY).eval()
    for parameter in model.parameters():
        parameter.data *= 1.5  # far from uniform, so that choices matter
    return model


SOURCE = torch.randint(0, VOCABULARY, (5, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(9) < torch.tensor([[9], [5], [7], [9], [2]])
PROMPT = torch.ones(5, 1, dtype=torch.int64)


def _search(model, settings, rows=slice(None)):
    with torch.inference_mode():
        return search(model, PROMPT[rows], model.read(SOURCE[rows], MASK[rows]), settings)


def _every_answer(model, row, length, settings, forbidden=()):
    """(score, ids) of every answer of at most `length` units, best first: from whole passes, without a state."""
    found = []

    def grow(ids, log_prob):
        logits = model(SOURCE[row : row + 1], torch.tensor([[1, *ids]]), MASK[row : row + 1])[0, -1]
        logits[list(forbidden)] = -torch.inf
        for unit, p in enumerate(logits.log_softmax(-1).tolist()):
            total = log_prob + p
            if unit == END or len(ids) + 1 == length:
                found.append((settings.score(total, len(ids) + 1), tuple(ids) + ((unit,) if unit != END else ())))
            elif p > -float("inf"):
                grow([*ids, unit], total)

    with torch.no_grad():
        grow([], 0.0)
    return sorted(found, reverse=True)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_a_beam_as_wide_as_the_tree_finds_the_best(model, alpha):
    settings = Settings(end=END, max_length=4, beam=VOCABULARY**3, n_best=5, length_penalty=alpha)
    for row, found in enumerate(_search(model, settings)):
        expected = _every_answer(model, row, 4, settings)[:5]
        assert [h.ids for h in found] == [ids for _, ids in expected]
        assert [h.score for h in found] == pytest.approx([score for score, _ in expected], rel=1e-5)


def test_a_beam_of_one_is_greedy(model):
    settings = Settings(end=END, max_length=6)
    for row, (found,) in enumerate(_search(model, settings)):
        ids = [1]
        with torch.no_grad():
            while len(ids) < 7:
                unit = int(model(SOURCE[row : row + 1], torch.tensor([ids]), MASK[row : row + 1])[0, -1].argmax())
                if unit == END:
                    break
                ids.append(unit)
        assert found.ids == tuple(ids[1:])


@pytest.mark.parametrize("beam", [1, 2, 4])
def test_batch_and_single_agree(model, beam):
    settings = Settings(end=END, max_length=12, beam=beam, n_best=beam)
    together = _search(model, settings)
    for row in range(5):
        (alone,) = _search(model, settings, slice(row, row + 1))
        assert [h.ids for h in alone] == [h.ids for h in together[row]]
        assert [h.score for h in alone] == pytest.approx([h.score for h in together[row]], rel=1e-4)


def test_a_wider_beam_is_never_worse_here(model):
    narrow = _search(model, Settings(end=END, max_length=8))
    wide = _search(model, Settings(end=END, max_length=8, beam=6))
    assert all(w[0].score >= n[0].score - 1e-5 for w, n in zip(wide, narrow, strict=True))


def test_n_best_are_different_and_in_order(model):
    for found in _search(model, Settings(end=END, max_length=8, beam=5, n_best=5)):
        assert len({h.ids for h in found}) == len(found) == 5
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


@pytest.mark.parametrize("beam", [1, 3])
def test_forbidden_units_never_come(model, beam):
    free = _search(model, Settings(end=END, max_length=6, beam=beam))
    banned = tuple(tuple({h[0].ids[0]} if h[0].ids else {5}) for h in free)
    found = _search(model, Settings(end=END, max_length=6, beam=beam, forbidden=banned))
    assert all(not set(ban) & set(h[0].ids) for ban, h in zip(banned, found, strict=True))
    assert [h[0].ids for h in found] != [h[0].ids for h in free]


def test_forbidden_units_give_the_best_of_what_is_left(model):
    settings = Settings(end=END, max_length=3, beam=VOCABULARY**2, forbidden=((0, 5),) * 5)
    for row, found in enumerate(_search(model, settings)):
        assert found[0].ids == _every_answer(model, row, 3, settings, forbidden=(0, 5))[0][1]


def test_an_answer_that_is_cut_says_so(model):
    for found in _search(model, Settings(end=END, max_length=2, beam=2, forbidden=((END,),) * 5)):
        assert not found[0].ended
        assert len(found[0].ids) == 2


def test_decoder_only_prompts_with_left_padding():
    torch.manual_seed(5)
    given = config.Model(topology="decoder", width=32, decoder=config.Stack(depth=2, placement="pre"))
    model = models.build(given, VOCABULARY).eval()
    from jogak.mixers import EMPTY, Context

    prompts = [torch.tensor([[3, 4, 5, 6]]), torch.tensor([[7, 3]])]
    padded = torch.tensor([[3, 4, 5, 6], [0, 0, 7, 3]])
    mask = torch.tensor([[True] * 4, [False, False, True, True]])
    for beam in (1, 3):
        settings = Settings(end=END, max_length=8, beam=beam)
        together = search(model, padded, Context(mask=mask), settings)
        apart = [search(model, p, EMPTY, settings)[0] for p in prompts]
        assert [h[0].ids for h in together] == [h[0].ids for h in apart]


@pytest.mark.parametrize("wrong", [{"beam": 0}, {"max_length": 0}, {"n_best": 2}])
def test_settings_out_of_range(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Settings(end=END, **wrong)
