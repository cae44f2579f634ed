"""Pieces split into what they were merged from: the text stays, the spelling changes, a seed decides."""

import numpy as np
import pytest

from jogak.codecs.text import TextCodec
from jogak.config import Codec
from jogak.data.batching import Loader
from jogak.data.splitting import Splitting
from jogak.data.tokens import TokenStore
from jogak.errors import UserError

TEXTS = [
    "파일을 저장할 수 없습니다",
    "새 창에서 링크 열기",
    "the file could not be saved",
    "open the link in a new window",
] * 5
# 0 to 3 are letters; 4 = 0 1, 5 = 4 2, 6 = 5 4.
PARTS = np.array([[-1, -1]] * 4 + [[0, 1], [4, 2], [5, 4]])


def split(ids: list[int], lengths: list[int], rate: float = 0.5, longest: int = 100, seed: int = 0):
    found, counts = Splitting(PARTS, rate, longest)(np.array(ids), np.array(lengths), np.random.default_rng(seed))
    return found.tolist(), counts.tolist()


def test_a_rate_of_nearly_one_splits_down_to_what_nothing_was_merged_from() -> None:
    assert split([6, 3, 5, 6], [2, 0, 2], rate=1 - 1e-12) == ([0, 1, 2, 0, 1, 3, 0, 1, 2, 0, 1, 2, 0, 1], [6, 0, 8])


def test_an_example_that_would_grow_too_long_stays_as_it_is_and_the_others_do_not() -> None:
    assert split([6, 3, 5, 6, 5], [2, 2, 1], rate=1 - 1e-12, longest=6) == (
        [0, 1, 2, 0, 1, 3, 5, 6, 0, 1, 2],
        [6, 2, 3],
    )


def test_each_piece_is_split_as_often_as_the_rate_says() -> None:
    _, counts = split([4] * 40_000, [1] * 40_000, rate=0.3)
    assert np.mean(np.array(counts) == 2) == pytest.approx(0.3, abs=0.01)
    _, counts = split([5] * 40_000, [1] * 40_000, rate=0.3)  # and of those, the first part again
    assert np.mean(np.array(counts) == 3) == pytest.approx(0.09, abs=0.01)


def test_the_text_of_what_a_codec_split_is_the_same() -> None:
    codec = TextCodec.train(TEXTS, Codec(vocab_size=420))
    ids = [codec.encode(text) for text in TEXTS[:4]]
    splitting = Splitting(codec.parts(), 0.5, 1000)
    flat, counts = splitting(np.concatenate(ids), np.array([len(row) for row in ids]), np.random.default_rng(1))
    rows = np.split(flat, np.cumsum(counts)[:-1])
    assert [codec.decode(row.tolist()) for row in rows] == TEXTS[:4]
    assert all(len(row) > len(whole) for row, whole in zip(rows, ids, strict=True))


def test_a_codec_without_merges_is_refused_in_one_sentence() -> None:
    codec = TextCodec.train(TEXTS, Codec(kind="unigram", vocab_size=420))
    with pytest.raises(UserError, match="bpe_dropout"):
        codec.parts()


def test_a_loader_spells_an_example_anew_each_time_and_goes_on_with_the_same_after_a_stop() -> None:
    store = TokenStore.of([([6, 5, 4], [6, 6]), ([5, 5], [4, 6, 5])] * 8)

    def loader() -> Loader:
        return Loader(store, batch_tokens=80, seed=3, pad_id=3, bos_id=7, eos_id=8, splitting=Splitting(PARTS, 0.4, 50))

    straight = loader()
    seen = [next(straight) for _ in range(12)]
    resumed = loader()
    for _ in range(5):
        next(resumed)
    state, again = resumed.state_dict(), loader()
    again.load_state_dict(state)
    for batch in seen[5:]:
        other = next(again)
        assert batch.rows == other.rows
        assert batch.units.ids.equal(other.units.ids)
        assert batch.targets.equal(other.targets)
    spellings = {tuple(b.targets[b.rows.index(0)].tolist()) for b in seen if 0 in b.rows}
    assert len(spellings) > 1
