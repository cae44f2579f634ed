import json
import multiprocessing

import pytest
import torch

from jogak import storage
from jogak.errors import UserError
from jogak.training import fit
from jogak.training import run as runs
from jogak.training.run import Run
from tests.unit.training.tiny import Tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    task = Tiny(steps=6, save_every=3, validate_every=6)
    fit(task, folder)
    return folder, task


def changed(task, **train):
    return task.recipe.model_copy(update={"train": task.recipe.train.model_copy(update=train)})


def test_a_run_is_not_trained_over_by_accident(trained):
    folder, task = trained
    with pytest.raises(UserError, match=r"already holds a run \(checkpoints up to step 6\); resume it"):
        fit(Tiny(steps=6, save_every=3), folder)
    with pytest.raises(UserError, match="cannot both be given"):
        runs.check_start(folder, task.recipe, resume=True, overwrite=True)
    assert runs.check_start(folder, task.recipe, resume=True, overwrite=False) == 6
    assert runs.check_start(folder, task.recipe, resume=False, overwrite=True) is None
    assert runs.check_start(folder / "new", task.recipe, resume=True, overwrite=False) is None


def test_a_file_is_no_place_for_a_run(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        fit(Tiny(), tmp_path / "file")


def test_overwrite_removes_the_run_and_nothing_else(tmp_path):
    folder = tmp_path / "run"
    fit(Tiny(steps=4, save_every=1), folder)
    (folder / "notes.txt").write_text("mine")
    fit(Tiny(steps=2, save_every=2), folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-2"]
    assert max(json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_changed_recipe_names_every_key_that_matters(trained):
    folder, task = trained
    with pytest.raises(UserError) as caught:
        runs.check_start(folder, changed(task, rate=0.5, clip=None, keep=9), resume=True, overwrite=False)
    assert "train.clip was 1.0 and is now None, train.rate was 0.01 and is now 0.5;" in str(caught.value)
    assert "keep" not in str(caught.value)


def test_what_may_change(trained):
    folder, task = trained
    free = changed(task, steps=60, minutes=3.0, log_every=1, keep=1, patience=4, validate_every=2, save_every=9)
    assert runs.check_start(folder, free, resume=True, overwrite=False) == 6
    with pytest.raises(UserError, match=r"6 steps are done, more than train\.steps=5"):
        runs.check_start(folder, changed(task, steps=5), resume=True, overwrite=False)


def test_a_run_of_a_newer_version(trained, tmp_path):
    folder, _ = trained
    about = json.loads((folder / "run.json").read_text())
    new = tmp_path / "new"
    new.mkdir()
    (new / "config.yaml").write_text("nonsense: of the future")
    (new / "run.json").write_text(json.dumps({**about, "format": 2, "jogak": "9.0"}))
    with pytest.raises(UserError, match=r"install jogak 9\.0 or newer"):
        Run(new).recipe()
    with pytest.raises(UserError, match=r"install jogak 9\.0 or newer"):
        fit(Tiny(), new, resume=True)
    storage.write_tensors(new / "model.safetensors", {"w": torch.ones(1)}, {"format": "2", "jogak": "9.0"})
    with pytest.raises(UserError, match=r"install jogak 9\.0 or newer"):
        Run(new).weights()


def test_reading_a_run(trained, tmp_path):
    folder, task = trained
    assert Run(folder).recipe() == task.recipe
    weights = Run(folder).weights()
    assert weights.keys() == runs.tensors_of(task.model).keys()
    other = Tiny(seed=5)
    runs.load_into(other.model, weights, "here")
    assert all(torch.equal(a, b) for a, b in zip(other.model.parameters(), task.model.parameters(), strict=True))
    with pytest.raises(UserError, match="there is no such run"):
        Run(tmp_path / "nothing").recipe()
    with pytest.raises(UserError, match=r"not a run: it has no config\.yaml"):
        Run(tmp_path).recipe()
    with pytest.raises(UserError, match="holds no weights yet"):
        Run(tmp_path).weights()


def test_a_run_under_way_gives_its_newest_checkpoint(tmp_path):
    task = Tiny(steps=8, save_every=4, average="ema")
    fit(task, tmp_path / "run")
    final = Run(tmp_path / "run").weights()
    (tmp_path / "run" / "model.safetensors").unlink()
    newest = Run(tmp_path / "run").weights()
    assert newest.keys() == final.keys()
    assert all(torch.equal(newest[n], final[n]) for n in final)


def test_weights_that_do_not_fit_are_named(trained):
    _, task = trained
    weights = runs.tensors_of(Tiny().model)
    with pytest.raises(UserError, match=r"here: does not fit .* 'norm\.weight' has shape \[3\], and the model \[24\]"):
        runs.load_into(task.model, {**weights, "norm.weight": torch.ones(3)}, "here")
    with pytest.raises(UserError, match="the model lacks 'extra'"):
        runs.load_into(task.model, {**weights, "extra": torch.ones(3)}, "here")
    with pytest.raises(UserError, match=r"is missing, and the model has 'mix\.bias'"):
        runs.load_into(task.model, {n: t for n, t in weights.items() if n != "mix.bias"}, "here")


def test_tied_weights_are_kept_once(trained):
    folder, _ = trained
    names = set(storage.read_tensors(folder / "model.safetensors")[0])
    assert "embedding.weight" in names
    assert "head.weight" not in names


def _hold(folder, ready, done):
    with runs.claimed(folder):
        ready.set()
        done.wait(20)


def test_two_trainings_in_one_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, done))
    other.start()
    try:
        assert ready.wait(20)
        with pytest.raises(UserError, match="another process is training here"):
            fit(Tiny(steps=1), tmp_path)
    finally:
        done.set()
        other.join()
    fit(Tiny(steps=1), tmp_path)


def test_records_are_cut_to_what_a_checkpoint_knew(tmp_path):
    records = runs.Records(tmp_path / "metrics.jsonl", 0)
    records.write({"step": 1, "note": "한글"})
    size = records.sync()
    records.write({"step": 2})
    records.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 3, "no')  # a kill in the middle of a line
    again = runs.Records(tmp_path / "metrics.jsonl", size)
    again.write({"step": 5})
    assert again.read() == [{"step": 1, "note": "한글"}, {"step": 5}]
