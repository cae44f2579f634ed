"""Classification as a task: what it learns from, what it says, and what it refuses."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from sklearn.naive_bayes import MultinomialNB

from jogak import config
from jogak.data.sources import Row
from jogak.errors import UserError
from jogak.tasks import _classes, classify

TEXTS = [("좋아요 정말 좋아요", "good"), ("아주 좋다", "good"), ("싫어요", "bad"), ("정말 나쁘다 싫다", "bad")]


def recipe_of(folder, rows=TEXTS * 6, train=None, **data):
    file = folder / "rows.tsv"
    lines = [f"{text} {number}\t{label}" for number, (text, label) in enumerate(rows)]
    file.write_text("\n".join(["text\tlabel", *lines, ""]), encoding="utf-8")
    tree = {
        "task": "classify",
        "run": str(folder / "run"),
        "data": {"sources": str(file), "test": 4, "validation": 4, "max_length": 40, **data},
        "codec": {"kind": "bytes"},
        "model": {"preset": "sentence-cnn", "vocab_size": None, "width": 16, "head": {"classes": None, "channels": 8}},
        "train": {"batch_tokens": 400, "label_smoothing": 0.0, **(train or {})},
    }
    return config.parse_recipe(tree, "test")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    task = classify.build(recipe_of(tmp_path_factory.mktemp("classify")))
    loader, optimiser = task.loader(0, 1), torch.optim.Adam(task.model.parameters(), lr=1e-2)
    task.model.train()
    for _ in range(40):
        batch = next(loader)
        loss, _ = task.loss(batch)
        (loss / batch.real_targets).backward()
        optimiser.step()
        optimiser.zero_grad()
    return task


def test_it_learns_and_tells_its_labels(task):
    assert task.labels == ["bad", "good"]
    answers = task.labeller(["정말 좋아요 99", "나쁘다 싫다 98"])
    assert [a[0].text for a in answers] == ["good", "bad"]
    figures = task.validate()
    assert figures["accuracy"] >= 75
    assert set(figures) == {"loss", "accuracy", "macro_f1"}


def test_probabilities_of_all_labels_add_up_and_batches_change_nothing(task):
    labeller = classify.Labeller(task.model, task.codec, task.labels, 40, n_best=5)
    texts = ["좋", "싫어요 정말 싫어요", "?"]
    for text, answers in zip(texts, labeller(texts), strict=True):
        assert sum(a.score for a in answers) == pytest.approx(1)
        assert answers[0].score >= answers[1].score
        assert labeller([text])[0][0].score == pytest.approx(answers[0].score, rel=1e-4)


def test_a_batch_has_one_target_a_row(task):
    batch = next(task.loader(0, 1))
    assert batch.real_targets == len(batch.targets) == int((batch.targets >= 0).sum())
    assert batch.source is None
    loss, nll = task.loss(batch)
    assert torch.equal(loss, nll)


def test_what_is_too_long_is_cut_and_told(task):
    (answer,) = task.labeller(["좋아요 " * 20])[0]
    assert answer.cut == 200 - 40
    assert "160 units were not read" in answer.faults[0]


def test_equal_texts_are_on_one_side(task):
    held = {row.target for row in classify.read_split(task.recipe.data).test}
    assert not held & {row.target for row in classify.read_split(task.recipe.data).train()}


def test_figures_are_scikit_learns():
    random = np.random.default_rng(0)
    told, wanted = random.integers(0, 4, 60), random.integers(0, 5, 60)
    found = _classes.figures(told, wanted)
    assert found.accuracy.value == pytest.approx(100 * (told == wanted).mean())
    assert found.macro_f1.value == pytest.approx(100 * f1_score(wanted, told, average="macro"))
    assert found.accuracy.low <= found.accuracy.value <= found.accuracy.high


def test_naive_bayes_is_scikit_learns():
    texts, classes = ["a b b", "b c", "c c d", "a a"], np.array([0, 0, 1, 1])
    table = np.array([[t.split().count(w) for w in "abcd"] for t in texts])
    asked = ["a b", "c", "d d a", "b c c"]
    counts = np.array([[t.split().count(w) for w in "abcd"] for t in asked])
    expected = MultinomialNB().fit(table, classes).predict(counts)
    assert _classes.NaiveBayes(texts, classes, 2)(asked).tolist() == expected.tolist()


def test_an_unknown_label_counts_as_wrong():
    rows = [Row("good", "a", "f:1"), Row("strange", "b", "f:2")]
    found = _classes.evaluate(rows, np.array([1, 1]), ["bad", "good"], [], cut=0)
    assert found.model.accuracy.value == 50
    assert found.bayes is None
    assert "not measured" in found.table()


def test_what_cannot_be_a_classifier(tmp_path, task):
    with pytest.raises(UserError, match=r"data\.validation"):
        classify.build(recipe_of(tmp_path, validation=0))
    with pytest.raises(UserError, match=r"train\.pack"):
        classify.build(recipe_of(tmp_path, train={"pack": True}))
    with pytest.raises(UserError, match="has 1 label"):
        classify.build(recipe_of(tmp_path, rows=TEXTS[:2] * 6))
    recipe = recipe_of(tmp_path)
    units = recipe.model.model_copy(update={"head": config.Head()})
    with pytest.raises(UserError, match=r"model\.head\.kind"):
        classify.build(recipe.model_copy(update={"model": units}))
    with pytest.raises(UserError, match="text 1: is empty"):
        task.labeller([" "])
    trained = classify.TrainedClassifier(task.recipe, task.model, task.codec, task.labels)
    with pytest.raises(UserError, match="leave out --beam"):
        trained.predictor(beam=2)
    with pytest.raises(UserError, match="leave out --max-length"):
        trained.predictor(max_length=2)
