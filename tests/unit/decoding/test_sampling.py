"""Drawing units: its distribution, its seeds, log-probabilities, several answers to one prompt."""

import pytest
import torch
from scipy.stats import chisquare, kstest

from jogak.decoding.processors import Chain, Forbidden
from jogak.decoding.sampling import Row, Start, draw, generator, sample
from jogak.decoding.settings import Sampling
from jogak.errors import UserError
from jogak.models import Decoder, ModelState
from tests.unit.decoding.writers import codec, decoder, translator, writer

PROMPT, OTHER = codec().encode("저장 저장 save"), codec().encode("open it")


def test_draw_inverts_the_cumulative_distribution():
    scores = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
    for u, unit in ((0.0, 0), (0.05, 0), (0.11, 1), (0.29, 1), (0.31, 2), (0.59, 2), (0.61, 3), (1 - 1e-12, 3)):
        assert int(draw(scores, torch.tensor([u], dtype=torch.float64))) == unit
    only = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    assert {int(draw(only, torch.tensor([u], dtype=torch.float64))) for u in (0.0, 0.5, 1 - 1e-12)} == {1}


def test_draws_follow_the_distribution():
    """Chi-square of 20,000 units, each from the seed of a request of its own."""
    scores = torch.randn(1, 12, generator=torch.Generator().manual_seed(3)) * 1.5
    scores[0, 5] = -torch.inf
    u = torch.stack([torch.rand(1, generator=generator(seed, 0), dtype=torch.float64) for seed in range(20_000)])
    counts = draw(scores.expand(20_000, -1), u.squeeze(1)).bincount(minlength=12)
    expected = scores[0].double().softmax(-1) * 20_000
    assert counts[5] == 0
    kept = expected > 0
    assert chisquare(counts[kept].numpy(), expected[kept].numpy()).pvalue > 0.01


def test_streams_of_chance_are_uniform_and_apart():
    """Of one seed's steps, of many seeds' first steps, and of the answers to one request."""
    steps = torch.rand(4000, generator=generator(1, 0), dtype=torch.float64)
    seeds = torch.cat([torch.rand(1, generator=generator(seed, 0), dtype=torch.float64) for seed in range(4000)])
    choices = torch.cat([torch.rand(1, generator=generator(5, choice), dtype=torch.float64) for choice in range(4000)])
    for numbers in (steps, seeds, choices):
        assert kstest(numbers.numpy(), "uniform").pvalue > 0.01
    table = torch.stack([steps, seeds, choices])
    assert torch.corrcoef(table).fill_diagonal_(0).abs().max() < 0.06
    assert not torch.equal(
        torch.rand(4, generator=generator(1, 0, "draft")), torch.rand(4, generator=generator(1, 0, "verify"))
    )


class Table:
    """A model whose logits depend on the last unit only."""

    def __init__(self, logits):
        self.logits = logits

    def hidden(self, ids, state=None, context=None):
        return ids.unsqueeze(-1), state

    def head(self, x, /):
        return self.logits[x.squeeze(-1)]


class Nothing(ModelState):
    def __init__(self):
        super().__init__((), None)  # pyright: ignore[reportArgumentType]  # it is never read

    def reorder(self, index, memory_index=None):
        return self


def test_two_steps_have_the_joint_distribution_of_the_processed_logits():
    """8,000 answers of two units: temperature and top_k give each pair its probability."""
    width, count = 5, 8000
    logits = torch.randn(width, width, generator=torch.Generator().manual_seed(2)) * 2
    given = Sampling(temperature=1.7, top_k=4, max_new_tokens=2)
    chain = Chain.of([given] * count, 99, torch.device("cpu"))
    start = Start(logits[:1].expand(count, -1).clone(), Nothing(), torch.zeros(count, 1, dtype=torch.int64))
    units = torch.zeros(count, 2, dtype=torch.int64)
    none = Forbidden([()] * count, torch.device("cpu"))
    for step, tokens in enumerate(sample(Table(logits), start, [Row(given, s) for s in range(count)], chain, none, 99)):
        for token in tokens:
            units[token.row, step] = token.id
    scaled = logits / 1.7
    p = scaled.masked_fill(scaled < scaled.topk(4, dim=1).values[:, -1:], -torch.inf).softmax(-1).double()
    expected = (p[0].unsqueeze(1) * p).flatten() * count
    counts = (units[:, 0] * width + units[:, 1]).bincount(minlength=width**2)
    assert counts[expected == 0].sum() == 0
    enough = expected > 5
    assert enough.sum() > 8
    ratio = counts[enough].sum() / expected[enough].sum()
    assert chisquare(counts[enough].numpy(), (expected[enough] * ratio).numpy()).pvalue > 0.01


def test_a_seed_gives_the_same_answer_whoever_else_is_there():
    made = writer()
    asked = [Sampling(temperature=1.2, seed=n, max_new_tokens=12) for n in (3, 4, 3)]
    together = made.generate([PROMPT, PROMPT, OTHER], asked)
    for prompt, one, answers in zip([PROMPT, PROMPT, OTHER], asked, together, strict=True):
        assert made.generate([prompt], one)[0][0].ids == answers[0].ids
        assert answers[0].seed == one.seed
    assert together[0][0].ids != together[1][0].ids


def test_without_a_seed_a_fresh_one_is_drawn_and_told():
    made = writer()
    first, second = (made.generate([PROMPT], temperature=1.5, max_new_tokens=12)[0][0] for _ in range(2))
    assert first.seed != second.seed
    assert made.generate([PROMPT], temperature=1.5, max_new_tokens=12, seed=first.seed)[0][0].ids == first.ids
    assert made.generate([PROMPT], max_new_tokens=3)[0][0].seed is None


def test_requests_of_different_kinds_share_a_call():
    """Greedy, sampled, beam, contrastive, several answers, other lengths: each as it is alone."""
    made = writer()
    asked = [
        Sampling(max_new_tokens=5),
        Sampling(max_new_tokens=9, temperature=1.0, seed=1, n=3),
        Sampling(max_new_tokens=7, beam=3, n=2),
        Sampling(max_new_tokens=6, penalty_alpha=0.5, top_k=3),
        Sampling(max_new_tokens=12, draft_tokens=3),
        Sampling(max_new_tokens=4, temperature=0.8, top_p=0.9, seed=5, repetition_penalty=1.3),
        Sampling(max_new_tokens=5, method="mbr", mbr_samples=4, beam=2),
    ]
    together = made.generate([PROMPT] * len(asked), asked)
    for one, answers in zip(asked, together, strict=True):
        assert [a.ids for a in made.generate([PROMPT], one)[0]] == [a.ids for a in answers]
        assert len(answers) == one.n


def test_log_probabilities_are_the_models_own():
    """Of a whole pass over prompt and answer, before temperature and its like; the likeliest beside them."""
    made = writer()
    (answer,) = made.generate([PROMPT], temperature=2.0, top_k=50, seed=2, max_new_tokens=9, logprobs=3)[0]
    assert isinstance(made.model, Decoder)
    with torch.no_grad():
        logits = made.model(torch.tensor([[*PROMPT, *answer.ids]]))[0, len(PROMPT) - 1 :]
    logits[:, made.codec.forbidden({})] = -torch.inf
    expected = logits.log_softmax(-1)
    told = [*answer.ids, made.codec.eos_id] if answer.reason == "end" else answer.ids
    assert len(answer.scores) == len(answer.top) == len(told)
    for step, (unit, score, top) in enumerate(zip(told, answer.scores, answer.top, strict=True)):
        assert score == pytest.approx(float(expected[step, unit]), abs=1e-4)
        values, units = expected[step].topk(3)
        assert [u for u, _ in top] == units.tolist()
        assert [v for _, v in top] == pytest.approx(values.tolist(), abs=1e-4)
    assert answer.log_prob == pytest.approx(sum(answer.scores))


def test_the_scores_of_a_beam_are_those_of_its_units():
    made = writer()
    for answer in made.generate([PROMPT], beam=4, n=4, max_new_tokens=6)[0]:
        with torch.no_grad():
            logits = made.model(torch.tensor([[*PROMPT, *answer.ids]]))[0, len(PROMPT) - 1 :]  # pyright: ignore[reportCallIssue]
        logits[:, made.codec.forbidden({})] = -torch.inf
        told = [*answer.ids, made.codec.eos_id] if answer.reason == "end" else answer.ids
        assert answer.scores == pytest.approx(
            [float(row[unit]) for row, unit in zip(logits.log_softmax(-1), told, strict=False)], abs=1e-4
        )
        assert answer.score == pytest.approx(answer.log_prob / ((5 + len(told)) / 6) ** 0.6, abs=1e-4)


def test_best_of_gives_the_likeliest_a_unit_of_as_many_samples():
    made = writer()
    settings = {"temperature": 1.5, "seed": 4, "max_new_tokens": 8}
    every = made.generate([PROMPT, OTHER], n=9, **settings)
    best = made.generate([PROMPT, OTHER], n=2, best_of=9, **settings)
    for ours, drawn in zip(best, every, strict=True):
        ranked = sorted(drawn, key=lambda a: sum(a.scores) / len(a.scores), reverse=True)
        assert [a.ids for a in ours] == [a.ids for a in ranked[:2]]
        assert len({a.ids for a in drawn}) > 5


def test_min_new_tokens_and_lengths():
    made = ends_at_once()
    assert made.generate([PROMPT], max_new_tokens=9)[0][0].reason == "end"
    (longer,) = made.generate([PROMPT], max_new_tokens=9, min_new_tokens=7)[0]
    assert len(longer.ids) >= 7
    (cut,) = made.generate([PROMPT], max_new_tokens=3, min_new_tokens=3)[0]
    assert (cut.reason, len(cut.ids)) == ("length", 3)


def ends_at_once():
    made = writer()
    with torch.no_grad():
        made.model.head.projection.bias = torch.nn.Parameter(torch.zeros(made.codec.vocab_size))  # pyright: ignore[reportAttributeAccessIssue]
        made.model.head.projection.bias[made.codec.eos_id] = 50.0  # pyright: ignore[reportIndexIssue]
    return made


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ([[]], "input 1: is empty"),
        ([[1, 2], [99999]], "input 2: id 99999 is not in the vocabulary"),
        ([[1] * 30], "input 1: has 30 tokens, and with max_new_tokens=10 more they are beyond the 32 positions"),
    ],
)
def test_a_prompt_that_does_not_fit_is_told(inputs, sentence):
    made = writer(longest=32)
    with pytest.raises(UserError, match=sentence):
        made.generate(inputs, max_new_tokens=10)


def test_as_many_settings_as_inputs():
    with pytest.raises(UserError, match="settings for 1 inputs and 2 inputs"):
        writer().generate([PROMPT, OTHER], [Sampling()])


def test_generating_leaves_the_model_in_its_mode():
    made = writer()
    made.model.train()
    made.generate([PROMPT], max_new_tokens=2)
    pieces = made.stream([PROMPT], max_new_tokens=3)
    next(pieces)
    assert made.model.training
    list(pieces)
    assert made.model.training
    made.model.eval()


def test_an_encoder_decoder_samples_too():
    from jogak.decoding.generate import Generator

    made = Generator(translator(), codec())
    sources = [PROMPT, OTHER, PROMPT[:3]]
    together = made.generate(sources, temperature=1.3, seed=2, max_new_tokens=8, n=3)
    for source, answers in zip(sources, together, strict=True):
        alone = made.generate([source], temperature=1.3, seed=2, max_new_tokens=8, n=3)[0]
        assert [a.ids for a in alone] == [a.ids for a in answers]
        assert len({a.ids for a in answers}) == 3


def test_decoder_is_far_from_uniform():
    """Or none of the tests here would show anything."""
    with torch.no_grad():
        p = decoder()(torch.tensor([PROMPT])).softmax(-1)
    assert float(p.amax(-1).mean()) > 0.05
