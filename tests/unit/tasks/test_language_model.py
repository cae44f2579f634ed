"""Language modelling as a task: what it learns from, what it writes, and what it refuses."""

import math

import pytest
import torch

from jogak import config
from jogak.errors import UserError
from jogak.tasks import language_model
from jogak.tasks.language_model import Writer

LINES = ["저장했습니다.", "Saved the file.", "파일을 열 수 없습니다.", "Cannot open it."]


def recipe_of(folder, model=None, **data):
    file = folder / "text.txt"
    file.write_text("".join(f"{line}\n" for _ in range(12) for line in LINES), encoding="utf-8")
    stack = {"depth": 1, "pattern": [{"name": "attention", "heads": 2, "position": "rotary"}], "placement": "pre"}
    tree = {
        "task": "language_model",
        "run": str(folder / "run"),
        "data": {"sources": str(file), "test": 2, "validation": 2, "max_length": 48, **data},
        "codec": {"kind": "bytes"},
        "model": {
            "topology": "decoder", "width": 48, "position": "none", "dropout": 0.0, "decoder": stack, **(model or {})
        },
        "train": {"batch_tokens": 400, "label_smoothing": 0.0},
        "decode": {"max_length": 40},
    }  # fmt: skip
    return config.parse_recipe(tree, "test")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A language model that knows four lines, which follow each other, by heart."""
    task = language_model.build(recipe_of(tmp_path_factory.mktemp("language")))
    loader = task.loader(0, 1)
    optimiser = torch.optim.Adam(task.model.parameters(), lr=5e-3)
    task.model.train()
    for _ in range(200):
        batch = next(loader)
        loss, _ = task.loss(batch)
        (loss / batch.real_targets).backward()
        optimiser.step()
        optimiser.zero_grad()
    return task


def writer(task, **decode):
    return Writer(task.model, task.codec, config.Decode(**{"max_length": 40, **decode}))


def test_it_goes_on_with_what_it_has_read(task):
    (found,) = writer(task, max_length=len(LINES[1]) + 1)(["저장했습니다.\n"])
    assert found[0].text == LINES[1] + "\n"
    assert not found[0].ended
    assert found[0].plain()["cut"] is True


def test_texts_of_any_length_together_are_as_alone(task):
    texts = ["", "S", "저장했습니다.\nSaved the", "파일을 열"]
    together = writer(task)(texts)
    for text, answers in zip(texts, together, strict=True):
        (alone,) = writer(task)([text])
        assert alone[0].text == answers[0].text
        assert alone[0].log_prob == pytest.approx(answers[0].log_prob, rel=1e-4, abs=1e-4)


def test_a_beam_finds_what_is_at_least_as_likely(task):
    best, *others = writer(task, beam=4, n_best=4, max_length=12)(["Saved"])[0]
    greedy = writer(task, max_length=12)(["Saved"])[0][0]
    assert best.log_prob >= greedy.log_prob - 1e-4
    assert all(best.score >= other.score for other in others)
    assert len(others) == 3


@pytest.mark.parametrize("pack", [False, True])
def test_loss_is_the_negative_log_likelihood_of_the_next_unit(task, pack):
    train = task.recipe.train.model_copy(update={"pack": pack})
    recipe = task.recipe.model_copy(update={"train": train})
    same = language_model.LanguageModel(recipe, task.model, task.codec, task.store, task.validation)
    batch = next(same.loader(0, 1))
    task.model.eval()
    with torch.no_grad():
        loss, nll = same.loss(batch)
        if pack:
            assert batch.units.segments is not None
        else:
            logits = task.model(batch.units.ids).log_softmax(-1)
            expected = -logits.gather(2, batch.targets.unsqueeze(2)).sum()
            torch.testing.assert_close(nll, expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(loss, nll)


def test_validation_is_in_bits_per_byte(task):
    figures = task.validate()
    units = sum(len(d.text.encode()) + 1 for d in task.validation)
    size = sum(len(d.text.encode()) for d in task.validation)
    assert figures["bits_per_byte"] == pytest.approx(figures["loss"] / math.log(2) * units / size)
    assert figures["bits_per_byte"] < 1.5  # it knows these lines
    assert set(task.samples(2)[0]) == {"source", "reference", "output"}


def test_a_trained_model_traces_what_it_reads(task):
    trained = language_model.TrainedLanguageModel(task.recipe, task.model, task.codec)
    trace = trained.trace("저장")
    assert len(trace.target_ids) == len(trace.target_labels) == len(trace.written_labels)
    assert list(trace.target_labels[1:]) == list(trace.written_labels[:-1])
    assert trace.source_ids == ()


def test_bpe_gives_bits_per_byte_of_the_same_bytes(tmp_path):
    recipe = recipe_of(tmp_path).model_copy(update={"codec": config.Codec(vocab_size=320)})
    task = language_model.build(recipe)
    assert task.codec.vocab_size > 300
    assert language_model.byte_count(task.validation) == sum(len(d.text.encode()) for d in task.validation)
    assert len(task.store.tokens) < len((tmp_path / "text.txt").read_bytes())
    assert 0 < task.validate()["bits_per_byte"] < 20


def test_building_twice_draws_the_same_model(tmp_path):
    first, second = (language_model.build(recipe_of(tmp_path)) for _ in range(2))
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_cannot_be_a_language_model(tmp_path):
    with pytest.raises(UserError, match=r"data\.validation"):
        language_model.build(recipe_of(tmp_path, validation=0))
    with pytest.raises(UserError, match="too few to hold out"):
        language_model.build(recipe_of(tmp_path, test=500))
    with pytest.raises(UserError, match="needs 'decoder', got 'encoder'"):
        language_model.build(recipe_of(tmp_path, {"topology": "encoder", "decoder": None}))
    with pytest.raises(UserError, match=r"model\.max_length: 8 learned positions"):
        language_model.build(recipe_of(tmp_path, {"position": "learned", "max_length": 8}))


def test_what_it_cannot_do_is_told(task):
    trained = language_model.TrainedLanguageModel(task.recipe, task.model, task.codec)
    with pytest.raises(UserError, match="leave out beam"):
        trained.evaluate(None, None, beam=3)  # pyright: ignore[reportArgumentType]  # never reached
    few = Writer(task.model, task.codec, config.Decode(max_length=40), longest=45)
    assert few.fits("four")
    assert not few.fits("five!")
    with pytest.raises(UserError, match="text 1: has 6 tokens"):
        few(["five!"])
