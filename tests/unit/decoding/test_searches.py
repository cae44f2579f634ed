"""Diverse beam search and contrastive search beside plain counting, from whole passes without a state."""

import pytest
import torch

from jogak.decoding.generate import Generator
from jogak.decoding.sampling import Start
from jogak.decoding.search import Settings, beams
from tests.unit.decoding.writers import OVER, codec, decoder, translator, writer

VOCABULARY, END, PROMPT = 9, 2, [3, 4, 5, 3]


@pytest.fixture(scope="module")
def model():
    return decoder(vocab=VOCABULARY, seed=1)


def log_probs(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]))[0, -1].log_softmax(-1)


def by_hand(model, beam, groups, diversity, length, alpha):
    """Group after group at each step, every continuation of every beam written out."""
    wide = beam // groups
    alive = [[([], 0.0)] for _ in range(groups)]
    ended = [[] for _ in range(groups)]
    for step in range(1, length + 1):
        taken = [0] * VOCABULARY
        for group in range(groups):
            every = []
            for answer, total in alive[group]:
                for unit, p in enumerate(log_probs(model, [*PROMPT, *answer]).tolist()):
                    every.append((total + p - diversity * taken[unit], total + p, [*answer, unit]))
            every.sort(key=lambda one: one[0], reverse=True)
            best = every[: 2 * wide]
            for _, total, answer in best[:wide]:
                if answer[-1] == END:
                    ended[group].append((total / ((5 + step) / 6) ** alpha, tuple(answer[:-1])))
            alive[group] = [(answer, total) for _, total, answer in best if answer[-1] != END][:wide]
            for answer, _ in alive[group]:
                taken[answer[-1]] += 1
    for group in range(groups):
        ended[group] += [(total / ((5 + length) / 6) ** alpha, tuple(answer)) for answer, total in alive[group]]
    # Of each group its W best, of these the best of all, each answer once.
    kept = {answer: score for ours in ended for score, answer in sorted(ours, reverse=True)[:wide]}
    return sorted(((score, answer) for answer, score in kept.items()), reverse=True)


@pytest.mark.parametrize(("beam", "groups"), [(4, 1), (4, 2), (6, 3), (3, 3)])
@pytest.mark.parametrize("diversity", [0.0, 0.5, 5.0])
def test_diverse_beams_are_those_found_by_hand(model, beam, groups, diversity):
    settings = Settings(
        end=END, max_length=4, beam=beam, n_best=beam, groups=groups, diversity=diversity, length_penalty=0.0
    )
    with torch.no_grad():
        logits, state = model.decode(torch.tensor([PROMPT]))
    (found,) = beams(model, Start(logits[:, -1], state, torch.tensor([PROMPT])), settings)
    expected = by_hand(model, beam, groups, diversity, 4, 0.0)[: len(found)]
    assert [h.ids for h in found] == [ids for _, ids in expected]
    assert [h.score for h in found] == pytest.approx([score for score, _ in expected], abs=1e-4)


def test_diversity_makes_answers_differ_sooner():
    made, prompt = writer(), codec().encode("저장 open")
    plain = made.generate([prompt], beam=4, n=4, max_new_tokens=8)[0]
    diverse = made.generate([prompt], beam=4, n=4, beam_groups=4, diversity_penalty=20.0, max_new_tokens=8)[0]
    assert len({a.ids[:1] for a in diverse}) == 4
    assert len({a.ids[:1] for a in plain}) < 4
    together = made.generate([prompt, prompt[:2]], beam=4, n=4, beam_groups=2, diversity_penalty=1.0, max_new_tokens=8)
    for one, answers in zip([prompt, prompt[:2]], together, strict=True):
        alone = made.generate([one], beam=4, n=4, beam_groups=2, diversity_penalty=1.0, max_new_tokens=8)[0]
        assert [a.ids for a in alone] == [a.ids for a in answers]


def contrastive(made, source, prompt, alpha, k, length):
    """The definition, one candidate at a time, every one of them read with all that stands before it."""
    answer = []
    never = made.codec.forbidden({})

    def hidden(ids):
        with torch.no_grad():
            context = made.model.read(torch.tensor([source])) if source is not None else None
            x = (
                made.model.hidden(torch.tensor([ids]), None, context)[0]
                if context
                else made.model.hidden(torch.tensor([ids]))[0]
            )
            return x[0], made.model.head(x)[0, -1]

    while len(answer) < length:
        before, logits = hidden([*prompt, *answer])
        logits[never] = -torch.inf
        p = logits.softmax(-1)
        best = None
        for unit in p.topk(k).indices.tolist():
            after = hidden([*prompt, *answer, unit])[0][-1]
            same = float(torch.cosine_similarity(before, after.unsqueeze(0)).max())
            value = (1 - alpha) * float(p[unit]) - alpha * same
            if best is None or value > best[0]:
                best = (value, unit)
        assert best is not None
        if best[1] == made.codec.eos_id:
            break
        answer.append(best[1])
    return tuple(answer)


@OVER
def test_contrastive_search_is_its_definition(pattern):
    made, prompt = Generator(decoder(pattern), codec()), codec().encode("저장 op")
    settings = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": 6}
    found = made.generate([prompt, prompt[-2:]], **settings)
    assert [answers[0].ids for answers in found] == [
        contrastive(made, None, one, 0.6, 4, 6) for one in (prompt, prompt[-2:])
    ]


def test_contrastive_search_of_a_translator():
    made, source = Generator(translator(), codec()), codec().encode("저장 op")
    (found,) = made.generate([source], penalty_alpha=0.3, top_k=3, max_new_tokens=6)[0]
    assert found.ids == contrastive(made, source, [made.codec.bos_id], 0.3, 3, 6)


def test_contrastive_search_repeats_itself_less():
    made, prompt = writer(), codec().encode("저장 저장 저장")
    greedy = made.generate([prompt], max_new_tokens=40)[0][0].ids
    contrasted = made.generate([prompt], max_new_tokens=40, penalty_alpha=0.6, top_k=6)[0][0].ids
    assert len(set(contrasted)) >= len(set(greedy))


def test_a_beam_of_one_with_processors_is_greedy_with_them():
    made, prompt = writer(), codec().encode("저장 저장")
    settings = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "max_new_tokens": 12}
    greedy = made.generate([prompt], **settings)[0][0]
    with torch.no_grad():
        logits, state = made.model.decode(torch.tensor([prompt]))
    from jogak.decoding.processors import Chain
    from jogak.decoding.settings import settings as of

    chain = Chain.of([of(None, **settings)], made.codec.eos_id, torch.device("cpu"))
    never = (tuple(made.codec.forbidden({})),)
    wanted = Settings(end=made.codec.eos_id, max_length=12, beam=1, chain=chain, forbidden=never)
    ((found,),) = beams(made.model, Start(logits[:, -1], state, torch.tensor([prompt])), wanted)
    assert found.ids == greedy.ids
