"""What decoding keeps for every mixer: speculation and the prefix cache change nothing, a batch changes nobody."""

import pytest
import torch

from jogak.decoding.generate import Generator
from jogak.decoding.prefix import PrefixCache
from tests.laws.forms import looks_back, registered
from tests.unit.decoding.writers import OVER, PATTERNS, codec, decoder, translator


def generator(pattern, **settings):
    return Generator(decoder(pattern), codec(), **settings)


PROMPT = codec().encode("저장 저장 save save 저장 저장 save")
OTHER = codec().encode("open it")


def ids(found):
    return [[answer.ids for answer in answers] for answers in found]


def test_every_causal_mixer_is_here():
    from jogak import mixers

    known = {form.name.split("-")[0] for form in registered() if looks_back(form)}
    assert {name.split("-")[0] for name in PATTERNS if "+" not in name} == known & set(mixers.names())


@OVER
def test_greedy_speculation_is_greedy(pattern):
    plain = generator(pattern)
    expected = plain.generate([PROMPT], max_new_tokens=24)
    assert ids(plain.generate([PROMPT], max_new_tokens=24, draft_tokens=4)) == ids(expected)
    good = Generator(plain.model, codec(), draft=plain.model).generate([PROMPT], max_new_tokens=24, draft_tokens=3)
    assert ids(good) == ids(expected)
    bad = Generator(plain.model, codec(), draft=decoder(seed=5)).generate([PROMPT], max_new_tokens=24, draft_tokens=3)
    assert ids(bad) == ids(expected)
    timings = good[0][0].timings
    assert 0 <= timings.drafted - timings.accepted < 3 < timings.drafted  # its own are kept, until an end among them
    assert timings.calls < 24
    told = bad[0][0].timings
    assert told.accepted < told.drafted


@OVER
def test_a_prefix_cache_changes_nothing(pattern):
    cache = PrefixCache(block=8)
    plain, cached = generator(pattern), generator(pattern, cache=cache)
    first = cached.generate([PROMPT], max_new_tokens=12)
    assert cache.report.misses == 1
    again = cached.generate([PROMPT], max_new_tokens=12)
    expected = plain.generate([PROMPT], max_new_tokens=12)
    assert ids(first) == ids(again) == ids(expected)
    assert cache.report.hits == 1
    assert again[0][0].timings.cached_tokens == cache.report.reused == (len(PROMPT) - 1) // 8 * 8
    together = [[*PROMPT, *OTHER], [*PROMPT, *OTHER[3:]]]
    assert ids(cached.generate(together, max_new_tokens=8)) == ids(plain.generate(together, max_new_tokens=8))
    assert cache.report.hits == 2


@OVER
def test_who_shares_the_batch_changes_nothing(pattern):
    made = generator(pattern)
    settings = {"max_new_tokens": 10, "temperature": 0.9, "top_p": 0.9, "seed": 7, "repetition_penalty": 1.2}
    together = made.generate([PROMPT, OTHER, PROMPT[:3]], **settings)
    for prompt, answers in zip([PROMPT, OTHER, PROMPT[:3]], together, strict=True):
        assert ids(made.generate([prompt], **settings))[0] == [answers[0].ids]


@OVER
def test_decoders_that_read_a_source_keep_the_same_laws(pattern):
    """Speculation, the cache of sources and the batch, with every mixer in the decoder."""
    model, cache = translator(pattern), PrefixCache()
    plain, cached = Generator(model, codec()), Generator(model, codec(), cache=cache)
    sources = [PROMPT, OTHER, PROMPT[:5]]
    expected = ids(plain.generate(sources, max_new_tokens=12))
    assert [ids(plain.generate([source], max_new_tokens=12))[0] for source in sources] == expected
    assert ids(plain.generate(sources, max_new_tokens=12, draft_tokens=3)) == expected
    draft = Generator(model, codec(), draft=translator(seed=3))
    assert ids(draft.generate(sources, max_new_tokens=12, draft_tokens=2)) == expected
    for _ in range(2):
        assert ids(cached.generate(sources, max_new_tokens=12)) == expected
    assert (cache.report.hits, cache.report.misses) == (3, 3)


@pytest.mark.parametrize("cross", ["attention", "additive", "dot"])
def test_a_model_that_reads_a_source_keeps_them_too(cross):
    model, draft = translator(cross=cross), translator(cross=cross, seed=3)
    plain, cache = Generator(model, codec()), PrefixCache()
    cached = Generator(model, codec(), cache=cache)
    sources = [PROMPT, OTHER, PROMPT[:5]]
    expected = ids(plain.generate(sources, max_new_tokens=12))
    assert ids(cached.generate(sources, max_new_tokens=12)) == expected
    assert ids(cached.generate(sources[::-1], max_new_tokens=12)) == expected[::-1]
    assert (cache.report.hits, cache.report.misses) == (3, 3)
    assert ids(plain.generate(sources, max_new_tokens=12, draft_tokens=3)) == expected
    assert ids(Generator(model, codec(), draft=draft).generate(sources, max_new_tokens=12, draft_tokens=3)) == expected


def test_handed_over_states_are_kept_too():
    side = {"depth": 1, "pattern": ["gru"], "placement": "pre"}
    model = translator(handover="both", encoder=side, decoder={**side, "cross": "attention"})
    plain, cache = Generator(model, codec()), PrefixCache()
    cached = Generator(model, codec(), cache=cache)
    expected = ids(plain.generate([PROMPT, OTHER], max_new_tokens=9))
    for _ in range(2):
        assert ids(cached.generate([PROMPT, OTHER], max_new_tokens=9)) == expected
    assert (cache.report.hits, cache.report.misses) == (1, 1)


@pytest.mark.parametrize("guesser", ["model", "lookup"])
def test_speculation_draws_from_the_same_distribution(guesser):
    """Chi-square of the first three units that 3,000 seeds give with speculation, and 3,000 without."""
    from scipy.stats import chi2_contingency

    from jogak.decoding.prefix import read
    from jogak.decoding.processors import Chain, Forbidden
    from jogak.decoding.sampling import Row, sample
    from jogak.decoding.settings import Sampling
    from jogak.decoding.speculative import Draft, Lookup, Speculation

    vocabulary, count, prompt = 5, 3000, [1, 2, 3, 1, 2]
    model, draft = decoder("gru", vocab=vocabulary, depth=1), decoder("gru", seed=9, vocab=vocabulary, depth=1)
    given = Sampling(temperature=6.0, top_k=4, max_new_tokens=3, draft_tokens=2)
    (start, _), (other, _) = read(model, [prompt]), read(draft, [prompt])
    chain, none = Chain.of([given], 99, torch.device("cpu")), Forbidden([()], torch.device("cpu"))
    table = torch.zeros(2, vocabulary**3, dtype=torch.int64)
    rows = [Row(given, seed) for seed in range(count)]
    plain = torch.zeros(count, 3, dtype=torch.int64)
    for step, tokens in enumerate(
        sample(
            model,
            start.repeat(count),
            rows,
            chain.select([0] * count),
            none.select(torch.zeros(count, dtype=torch.int64)),
            99,
        )
    ):
        for token in tokens:
            plain[token.row, step] = token.id
    kept = drafted = 0
    places = torch.tensor([vocabulary**2, vocabulary, 1])
    table[0] += (plain * places).sum(1).bincount(minlength=vocabulary**3)
    for seed in range(count):
        row = Row(given, 10_000 + seed)
        guess = Draft(draft, other, row, chain, none, 99) if guesser == "model" else Lookup(prompt)
        run = Speculation(model, start, row, chain, none, 99, guess)
        units = [token.id for tokens in run.run() for token in tokens]
        table[1, int((torch.tensor(units) * places).sum())] += 1
        kept, drafted = kept + run.counts.accepted, drafted + run.counts.drafted
    assert 0 < kept < drafted
    table = table[:, table.sum(0) >= 10]
    assert table.shape[1] > 8
    assert chi2_contingency(table.numpy()).pvalue > 0.01
