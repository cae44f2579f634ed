"""A run in fewer bits, through the command: written small, read back, answering as when made at load."""

import pytest
import torch

from jogak import api
from jogak.cli import main
from jogak.errors import UserError
from jogak.layers.quantised import is_quantised
from tests.end_to_end.test_export import LANGUAGE, ROOT, SMALL


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "run"
    changes = [*SMALL, *LANGUAGE, "model.width=64", "model.decoder.pattern=[mamba, {name: attention, heads: 2}]"]
    api.train(ROOT / "recipes/language-model.yaml", [*changes, f"run={folder}"])
    return folder


def _said(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    told = capsys.readouterr()
    return ended.value.code, told.out, told.err


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4"])
def test_a_run_goes_out_small_and_answers_the_same(run, tmp_path, capsys, kind):
    small = tmp_path / "small"
    assert _said(capsys, "export", run, "-o", small, "--dtype", kind)[0] == 0
    made, read = api.load(run, dtype=kind, device="cpu"), api.load(small, device="cpu")
    assert is_quantised(made.module) == is_quantised(read.module) == kind
    ids = torch.arange(30).unsqueeze(0)
    with torch.inference_mode():
        assert torch.equal(made.module(ids), read.module(ids))
    assert _said(capsys, "run", run, "the next", "--dtype", kind) == _said(capsys, "run", small, "the next")
    assert (small / "model.safetensors").stat().st_size < 0.6 * (run / "model.safetensors").stat().st_size


def test_what_does_not_learn_is_not_trained_on(run, tmp_path, capsys):
    small = api.export(run, tmp_path / "small", dtype="int8")
    with pytest.raises(UserError, match="its matrices are int8, which do not learn"):
        api.train(ROOT / "recipes/language-model.yaml", [*SMALL, f"run={tmp_path / 'on'}"], from_=str(small))
    code, _, told = _said(capsys, "run", small, "x", "--dtype", "int4")
    assert code == 2
    assert "kept in int8; load int4 from what it was made of" in told
