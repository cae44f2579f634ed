"""The baselines and the intervals that a translator is measured beside."""

import pytest

from jogak.tasks._scores import Nearest, scores


def test_the_nearest_source_gives_its_target():
    nearest = Nearest(["파일을 열 수 없습니다", "저장했습니다", "도움말"], ["Cannot open file", "Saved", "Help"])
    assert nearest("파일을 열었습니다") == "Cannot open file"
    assert nearest("도움말 보기") == "Help"


def test_nearest_is_dice_over_bags_of_bigrams():
    # "aaaa" has the bigrams " a", "aa" x 3, "a ": shared with "aa" (" a", "aa", "a ") are 3 of 5 + 3.
    # Against "aaa" (4 bigrams) 4 of 4 + 5 are shared, which is more.
    assert Nearest(["aa", "aaa"], ["two", "three"])("aaaa") == "three"
    # A long source that holds everything loses to a short one that holds most.
    assert Nearest(["aaaa" + "xyz" * 20, "aaab"], ["long", "short"])("aaaa") == "short"


def test_a_perfect_output_scores_100_with_no_spread():
    texts = ["The file was not found.", "Save the document as a template", "Open the window again now"]
    found = scores(texts, texts)
    for score in (found.chrf, found.bleu):
        assert score.value == pytest.approx(100)
        assert score.low == pytest.approx(100)
        assert score.high == pytest.approx(100)


def test_an_interval_holds_its_value_and_shrinks_with_the_corpus():
    references = [f"open the file number {n} in window {n % 7}" for n in range(200)]
    outputs = [r if n % 3 else r.replace("open", "close the door of") for n, r in enumerate(references)]
    small, large = scores(outputs[:20], references[:20]).chrf, scores(outputs, references).chrf
    for score in (small, large):
        assert score.low < score.value < score.high
    assert large.high - large.low < small.high - small.low


def test_values_are_sacrebleus_own():
    from sacrebleu import corpus_bleu, corpus_chrf

    references = ["open the file in a new window", "save the document as a template", "help"]
    outputs = ["open a file in the window", "save this document as template", "guide"]
    found = scores(outputs, references)
    assert found.chrf.value == pytest.approx(corpus_chrf(outputs, [references]).score)
    assert found.bleu.value == pytest.approx(corpus_bleu(outputs, [references]).score)
