"""Translation as a task: what it learns from, what it says, and what it refuses."""

from dataclasses import replace

import pytest
import torch

from jogak import config
from jogak.data.sources import Row
from jogak.errors import UserError
from jogak.tasks import translate
from jogak.tasks._evaluation import evaluate
from jogak.tasks.translate import Translator

PAIRS = [
    ("파일을 열 수 없습니다", "Cannot open the file"),
    ("저장했습니다", "Saved"),
    ("%(name)s님, 안녕하세요", "Hello, %(name)s"),
    ("{0}개 중 {1}개", "{1} of {0}"),
    ("도움말", "Help"),
    ("창을 닫습니다", "Closes the window"),
    ("새 창을 엽니다", "Opens a new window"),
    ("비밀번호가 틀렸습니다", "The password is wrong"),
]


def _recipe(folder, **data):
    table = folder / "pairs.tsv"
    table.write_text("source\ttarget\n" + "".join(f"{s}\t{t}\n" for s, t in PAIRS), encoding="utf-8")
    stack = {"depth": 1, "pattern": [{"name": "attention", "heads": 2}], "placement": "pre"}
    tree = {
        "task": "translate",
        "run": str(folder / "run"),
        "data": {"sources": str(table), "test": 0, "validation": 1, "max_length": 64, **data},
        "codec": {"vocab_size": 350},
        "model": {"width": 48, "dropout": 0.0, "encoder": stack, "decoder": stack},
        "train": {"batch_tokens": 400, "label_smoothing": 0.0},
        "decode": {"beam": 2, "max_length": 48},
    }
    return config.parse_recipe(tree, "test")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A translator that has learnt seven pairs by heart."""
    task = translate.build(_recipe(tmp_path_factory.mktemp("translate")))
    _fit(task, 250)
    return task


def _fit(task, steps):
    loader = task.loader(0, 1)
    optimiser = torch.optim.Adam(task.model.parameters(), lr=3e-3)
    task.model.train()
    for _ in range(steps):
        batch = next(loader)
        loss, _ = task.loss(batch)
        (loss / batch.real_targets).backward()
        optimiser.step()
        optimiser.zero_grad()


def test_it_learns_without_attention(tmp_path):
    """From the encoder's last states alone; all that the task does with a model, it does with this one."""
    recipe = _recipe(tmp_path)
    stack = config.Stack(depth=1, pattern=("lstm",), placement="pre")
    model = config.Model(
        width=48, dropout=0.0, position="none", handover="state", reverse_source=True, encoder=stack, decoder=stack
    )
    task = translate.build(recipe.model_copy(update={"model": model}))
    _fit(task, 120)
    pairs = _learnt(task)
    assert task.translator.best([s for s, _ in pairs]) == [t for _, t in pairs]
    assert task.validate()["loss"] > 0


def _shaped(tmp_path, **options):
    """A translator that nothing has trained yet, with heads of 16."""
    recipe = _recipe(tmp_path)
    attention = {"name": "attention", "heads": 3}
    given = {"depth": 2, "pattern": [{**attention, **options}], "placement": "post"}
    encoder = config.validate(config.Stack, given, "model.encoder", {})
    decoder = config.validate(config.Stack, {**given, "cross": attention}, "model.decoder", {})
    model = recipe.model.model_copy(update={"encoder": encoder, "decoder": decoder})
    return translate.build(recipe.model_copy(update={"model": model}))


def _loss_and_gradients(task, batch, **options):
    task.model.zero_grad()
    loss, plain = translate.pair_loss(task.model, batch, 0.1, **options)
    loss.backward()
    return loss, plain, {n: p.grad.clone() for n, p in task.model.named_parameters()}


@pytest.mark.parametrize("pack", [False, True])
def test_padding_left_out_changes_nothing(tmp_path, pack, monkeypatch):
    task = _shaped(tmp_path)
    task.recipe = task.recipe.model_copy(update={"train": task.recipe.train.model_copy(update={"pack": pack})})
    batch = next(task.loader(0, 1))
    assert batch.padded
    rows = []
    read = task.model.read
    monkeypatch.setattr(task.model, "read", lambda ids, *rest: rows.append(ids.shape) or read(ids, *rest))
    loss, plain, gradients = _loss_and_gradients(task, batch)
    expected = _loss_and_gradients(task, batch, padded=True)
    assert rows == [(1, int(batch.source.mask.sum())), tuple(batch.source.ids.shape)]
    assert torch.allclose(loss, expected[0], rtol=1e-5)
    assert torch.allclose(plain, expected[1], rtol=1e-5)
    for name, gradient in gradients.items():
        largest = expected[2][name].abs().max()
        assert (gradient - expected[2][name]).abs().max() <= 2e-5 * largest + 1e-6, name


@pytest.mark.parametrize("stack", [{"position": "alibi"}, {"window": 4}, {"softcap": 9.0}, {"heads": 6}])
def test_padding_stays_where_attention_needs_it(tmp_path, stack):
    task = _shaped(tmp_path, **stack)
    assert not task.model.in_a_row(8)


def test_padding_stays_in_long_rows_and_where_nothing_is_learnt(tmp_path, monkeypatch):
    task = _shaped(tmp_path)
    assert task.model.in_a_row(96)
    assert not task.model.in_a_row(200)
    batch = next(task.loader(0, 1))
    rows = []
    read = task.model.read
    monkeypatch.setattr(task.model, "read", lambda ids, *rest: rows.append(ids.shape) or read(ids, *rest))
    with torch.no_grad():
        task.loss(batch)
    assert rows == [batch.source.ids.shape]


def test_a_source_vocabulary_of_its_own_is_refused(tmp_path):
    recipe = _recipe(tmp_path)
    model = recipe.model.model_copy(update={"source_vocab_size": 9, "tie": "output"})
    with pytest.raises(UserError, match="one codec reads both sides"):
        translate.build(recipe.model_copy(update={"model": model}))


def _learnt(task):
    held_out = {row.source for row in task.validation}
    return [(s, t) for s, t in PAIRS if s not in held_out]


def test_it_learns_its_pairs_placeholders_included(task):
    pairs = _learnt(task)
    assert task.translator.best([s for s, _ in pairs]) == [t for _, t in pairs]


def test_a_placeholder_never_seen_comes_through(task):
    # The model knows slots, not names: another name in a known sentence changes nothing else.
    known = dict(_learnt(task))
    if "%(name)s님, 안녕하세요" in known:
        assert task.translator.best(["%(user_id)d님, 안녕하세요"]) == ["Hello, %(user_id)d"]
    if "{0}개 중 {1}개" in known:
        assert task.translator.best(["{done}개 중 {total}개"]) == ["{total} of {done}"]


def test_batch_and_single_give_the_same_text(task):
    sources = [s for s, _ in PAIRS]
    translator = Translator(task.model, task.codec, config.Decode(beam=3, n_best=3, max_length=48), 64)
    together = translator(sources)
    for source, answers in zip(sources, together, strict=True):
        (alone,) = translator([source])
        assert [a.text for a in alone] == [a.text for a in answers]
        assert [a.score for a in alone] == pytest.approx([a.score for a in answers], rel=1e-4)
        assert len(answers) == 3


def test_loss_is_the_mean_negative_log_likelihood(task):
    batch = next(task.loader(0, 1))
    task.model.eval()
    with torch.no_grad():
        loss, nll = task.loss(batch)
        logits = task.model(batch.source.ids, batch.units.ids, batch.source.mask, batch.units.mask)
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(nll, expected, rtol=1e-4, atol=1e-3)


def test_packed_batches_give_the_same_loss(tmp_path):
    sums = []
    for pack in (False, True):
        recipe = _recipe(tmp_path)
        task = translate.build(recipe.model_copy(update={"train": recipe.train.model_copy(update={"pack": pack})}))
        task.model.eval()
        loader, total, targets = task.loader(0, 1), 0.0, 0
        with torch.no_grad():
            for _ in range(loader.batches_per_epoch):
                batch = next(loader)
                total += float(task.loss(batch)[0])
                targets += batch.real_targets
        sums.append((targets, total))
    assert sums[0][0] == sums[1][0]
    assert sums[0][1] == pytest.approx(sums[1][1], rel=1e-5)


def test_building_twice_draws_the_same_model(tmp_path):
    recipe = _recipe(tmp_path)
    first, second = translate.build(recipe), translate.build(recipe)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.codec.digest == second.codec.digest


def test_validation_measures_held_out_pairs(task):
    figures = task.validate()
    assert set(figures) == {"loss", "chrF"}
    assert 0 <= figures["chrF"] <= 100
    assert figures["loss"] > 0
    assert task.samples(5)[0]["source"] == task.validation[0].source


def test_evaluation_counts_what_it_leaves_out(task):
    rows = [Row(s, t, f"test:{n}") for n, (s, t) in enumerate(_learnt(task), 1)]
    too_long = replace(rows[0], source="파일을 열 수 없습니다 " * 40)
    found = evaluate(task.translator, [*rows, too_long], rows)
    assert found.too_long == 1
    assert found.lost == 0
    assert found.model.chrf.value == pytest.approx(100)
    assert found.nearest is not None
    assert found.nearest.chrf.value == pytest.approx(100)  # it searched these very pairs
    assert found.copy.chrf.value < 50
    assert "1 pairs left out" in found.table()


def test_evaluation_measures_by_the_length_of_the_source(task):
    rows = [Row(s, t, f"test:{n}") for n, (s, t) in enumerate(_learnt(task), 1)]
    found = evaluate(task.translator, rows, rows)
    spans = [(part.shortest, part.longest) for part in found.parts]
    assert spans == sorted({next(s for s in ((1, 10), (11, 20), (21, 40)) if len(r.source) <= s[1]) for r in rows})
    for part in found.parts:
        inside = [r for r in rows if part.shortest <= len(r.source) <= (part.longest or 1000)]
        assert part.pairs == len(inside)
        assert part.chrf.value == pytest.approx(100)
    assert sum(part.pairs for part in found.parts) == len(rows)
    assert f"1 to 10 characters     {found.parts[0].chrf}" in found.table()
    parts = found.to_dict()["by_source_length"]
    assert parts[0] == {
        "shortest": 1,
        "longest": 10,
        "pairs": found.parts[0].pairs,
        "chrf": vars(found.parts[0].chrf),
    }


@pytest.mark.parametrize(
    ("text", "sentence"), [("", "text 1: is empty"), (" \n", "is empty"), ("길다 " * 100, "split it into sentences")]
)
def test_what_cannot_be_translated_is_named(task, text, sentence):
    with pytest.raises(UserError, match=sentence):
        task.translator([text])


def test_an_answer_without_its_placeholder_comes_last(task):
    slots = task.codec.encode_source("%(a)s").slots
    (slot,) = slots
    from jogak.codecs.text import Encoded
    from jogak.decoding.search import Hypothesis

    lacking = Hypothesis(tuple(task.codec.encode("Hello")), -0.1, -0.1, ended=True)
    keeping = Hypothesis((slot,), -5.0, -5.0, ended=True)
    answers = task.translator._answers(Encoded([slot], slots), [lacking, keeping])
    assert [a.text for a in answers] == ["%(a)s", "Hello"]
    assert answers[1].lost == ("%(a)s",)


def test_a_recipe_that_cannot_be_a_translator(tmp_path):
    with pytest.raises(UserError, match=r"data\.validation"):
        translate.build(_recipe(tmp_path, validation=0))
    recipe = _recipe(tmp_path)
    decoder = recipe.model.model_copy(update={"topology": "decoder", "encoder": None})
    with pytest.raises(UserError, match="encoder-decoder"):
        translate.build(recipe.model_copy(update={"model": decoder}))
