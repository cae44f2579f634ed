"""Checkpoints that are damaged, dangerous or not supported: refused in one sentence that names what is wrong."""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jogak import api
from jogak.errors import UserError
from jogak.families import gpt2
from jogak.hub.checkpoint import INDEX, SINGLE, Checkpoint
from jogak.hub.read import plan, read

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("good") / "gpt2"
    given = transformers.GPT2Config(**gpt2.TINY["GPT2LMHeadModel"])
    transformers.GPT2LMHeadModel(given).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good, tmp_path / "gpt2")


def change(folder: Path, **fields: object) -> None:
    """Other fields in config.json; None: gone."""
    file = folder / "config.json"
    found = {**json.loads(file.read_text()), **fields}
    file.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))


def refused(folder: Path) -> str:
    """What is said, which is one sentence."""
    with pytest.raises(UserError) as error:
        api.load(folder, device="cpu")
    assert "\n" not in str(error.value)
    return str(error.value)


def header(folder: Path, tensors: dict[str, object], data: bytes = b"") -> None:
    """A safetensors file with a header of one's own."""
    text = json.dumps(tensors).encode()
    (folder / SINGLE).write_bytes(struct.pack("<Q", len(text)) + text + data)


# ---------------------------------------------------------------- config.json


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model_type": "gtp2"}, "model type 'gtp2' is not supported; did you mean 'gpt2'?"),
        ({"model_type": "qwen3_moe"}, "did you mean 'qwen3'?"),
        ({"model_type": "zzzz"}, "model type 'zzzz' is not supported; known: bart, bert"),
        ({"model_type": None}, "'model_type' is missing"),
        ({"model_type": ["gpt2"]}, "'model_type' is missing or no string"),
        ({"model_type": "../gpt2"}, "model type '../gpt2' is not supported"),
        ({"model_type": "_keys"}, "model type '_keys' is not supported"),
        ({"architectures": ["GPT2ForQuestions"]}, "architecture 'GPT2ForQuestions' is not supported"),
        ({"architectures": "GPT2Model"}, "'architectures' must be a list of strings, got 'GPT2Model'"),
        ({"n_embd": "32"}, "'n_embd' must be a whole number, got '32'"),
        ({"n_embd": 32.0}, "'n_embd' must be a whole number, got 32.0"),
        ({"n_embd": True}, "'n_embd' must be a whole number, got True"),
        ({"n_layer": -1}, "'n_layer' must be between 0 and 4096, got -1"),
        ({"n_head": 0}, "'n_head' must be between 1 and"),
        ({"n_head": 5}, "must be a multiple of heads"),
        ({"layer_norm_epsilon": "small"}, "'layer_norm_epsilon' must be a number, got 'small'"),
        ({"layer_norm_epsilon": float("nan")}, "'layer_norm_epsilon' must be a number, got nan"),
        ({"resid_pdrop": 1.5}, "'resid_pdrop' must be at least 0 and below 1, got 1.5"),
        ({"tie_word_embeddings": "yes"}, "'tie_word_embeddings' must be true or false, got 'yes'"),
        ({"activation_function": "gelu_old"}, "'activation_function' is 'gelu_old', which is not supported; did you"),
        ({"add_cross_attention": True}, "'add_cross_attention' is True, and only False is supported"),
        ({"quantization_config": {"quant_method": "gptq"}}, "'quantization_config', method 'gptq'), which is not read"),
        ({"quantization_config": "odd"}, "quantised ('quantization_config', method 'unknown')"),
        ({"compression_config": {"format": "x"}}, "quantised ('compression_config', method 'unknown')"),
    ],
    ids=str,
)
def test_fields(folder: Path, fields: dict[str, object], told: str) -> None:
    change(folder, **fields)
    said = refused(folder)
    assert told in said
    assert "config.json" in said or "heads" in said


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "damaged"),
        ("[1]", "a JSON object is expected, found list"),
        ("\xff", "damaged"),
        ("[" * 200_000, "damaged"),
        ('{"model_type": "gpt2"', "damaged"),
    ],
    ids=["cut", "list", "no UTF-8", "deep", "open"],
)
def test_config_that_is_no_object(folder: Path, text: str, told: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    assert told in refused(folder)


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert f"holds neither {SINGLE} nor {INDEX}" in refused(tmp_path)
    for name in (tmp_path / "none", "../no/such", "a/b/c", "~/x", "http://x/y", "a b/c"):
        with pytest.raises(UserError):
            api.verify(name)


# ---------------------------------------------------------------- code that lies beside


@pytest.mark.parametrize("model_type", ["gpt2", "own"])
def test_code_beside_a_checkpoint_is_never_run(folder: Path, model_type: str) -> None:
    mark = folder / "ran"
    for name in ("modeling_own.py", "configuration_own.py", "__init__.py", "gpt2.py", "tokenization_own.py"):
        (folder / name).write_text(f"open({str(mark)!r}, 'w').close()\nclass Own: pass\nclass OwnConfig: pass\n")
    where = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.Own"}
    change(folder, model_type=model_type, auto_map=where)
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["tokenization_own.Own"]}}))
    if model_type == "gpt2":
        api.load(folder, device="cpu")
        assert api.verify(folder).holds
    else:
        assert "model type 'own' is not supported" in (said := refused(folder))
        assert "it brings code of its own, which is never run" in said
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "x.pth", "last.ckpt", "tf_model.h5"]
)
def test_pickles_are_never_opened(folder: Path, name: str) -> None:
    """The way to convert is told; the file would delete itself if it were unpickled."""
    (folder / SINGLE).rename(folder / name)
    said = refused(folder)
    assert name in said
    assert "save_pretrained(DIR, safe_serialization=True)" in said


def test_a_pickle_beside_safetensors_does_not_matter(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    api.load(folder, device="cpu")


# ---------------------------------------------------------------- files of weights


@pytest.mark.parametrize("left", [0, 4, 8, 100, -1, -1000])
def test_truncated(folder: Path, left: int) -> None:
    whole = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(whole[:left])
    assert f"{SINGLE}: damaged or truncated (" in refused(folder)


@pytest.mark.parametrize(
    ("tensors", "data"),
    [
        ({"a": [0, 8], "b": [4, 12]}, 12),  # overlap
        ({"a": [0, 8], "b": [0, 8]}, 8),  # the same bytes twice
        ({"a": [0, 8], "b": [12, 20]}, 20),  # a hole
        ({"a": [0, 8], "b": [8, 16]}, 12),  # beyond the end
        ({"a": [0, 8], "b": [8, 16]}, 24),  # bytes that are nobody's
        ({"a": [8, 0], "b": [8, 16]}, 16),  # backwards
        ({"a": [0, 2**62], "b": [8, 16]}, 16),
    ],
)
def test_offsets(folder: Path, tensors: dict[str, list[int]], data: int) -> None:
    entries = {name: {"dtype": "F32", "shape": [2], "data_offsets": at} for name, at in tensors.items()}
    header(folder, entries, bytes(data))
    assert "damaged or truncated" in refused(folder)


@pytest.mark.parametrize("shape", [[2**40], [2**31, 2**31], [2**62, 4], [-2], ["2"], 2])
def test_shapes_that_the_data_does_not_have(folder: Path, shape: object) -> None:
    header(folder, {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}}, bytes(8))
    assert "damaged or truncated" in refused(folder)


def test_a_header_that_says_it_is_huge(folder: Path) -> None:
    (folder / SINGLE).write_bytes(struct.pack("<Q", 2**62) + b"{}")
    assert "damaged or truncated" in refused(folder)


def test_number_formats_that_are_not_read(folder: Path) -> None:
    header(folder, {"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, bytes(8))
    assert "tensor 'a' is stored as F8_E4M3, which is not read" in refused(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_whole_numbers_where_weights_belong(folder: Path, dtype: torch.dtype) -> None:
    """A quantised checkpoint whose config.json does not say so."""
    tensors = load_file(folder / SINGLE)
    key = "transformer.h.0.attn.c_attn.weight"
    save_file({**tensors, key: tensors[key].to(dtype)}, folder / SINGLE, {"format": "pt"})
    said = refused(folder)
    assert f"key '{key}' is stored as {str(dtype)[6:]}" in said
    assert "quantised" in said


# ---------------------------------------------------------------- shards


def shards(folder: Path, names: list[str], weights: object = None) -> None:
    """The checkpoint over files of these names, and an index that says so (or what is given)."""
    tensors = load_file(folder / SINGLE)
    keys = sorted(tensors)
    parts = {name: keys[number :: len(names)] for number, name in enumerate(names)}
    for name, part in parts.items():
        save_file({key: tensors[key] for key in part}, folder / name, {"format": "pt"})
    found = {key: name for name, part in parts.items() for key in part} if weights is None else weights
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": found}))
    if SINGLE not in names:
        (folder / SINGLE).unlink()


def test_shards_are_read(folder: Path) -> None:
    wanted = read(Checkpoint(folder)).model.state_dict()
    shards(folder, ["model-1.safetensors", "model-2.safetensors"])
    found = read(Checkpoint(folder)).model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    "name",
    [
        "../gpt2/model.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "./model.safetensors",
        "..",
        ".",
        "",
        "a\\model.safetensors",
        "C:\\model.safetensors",
        "model.safetensors\0.bin",
        "~/model.safetensors/..",
    ],
)
def test_shards_lie_beside_their_index(folder: Path, name: str) -> None:
    (folder / "sub").mkdir()
    shutil.copy(folder / SINGLE, folder / "sub")
    shards(folder, [SINGLE], {"transformer.wte.weight": name})
    said = refused(folder)
    assert "is no plain file name; shards lie beside their index" in said


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"a": "pytorch_model.bin"}, "is no safetensors file; convert"),
        ({"a": "gone.safetensors"}, "shard 'gone.safetensors' is missing"),
        ({"a": 3}, "'weight_map' must map keys to the names of files"),
        ({}, "'weight_map' must map keys"),
        (["x"], "'weight_map' must map keys"),
    ],
    ids=str,
)
def test_indices(folder: Path, weights: object, told: str) -> None:
    shards(folder, [SINGLE], weights)
    assert told in refused(folder)


def test_a_tensor_in_two_shards(folder: Path) -> None:
    shards(folder, ["a.safetensors", "b.safetensors"])
    some = load_file(folder / "a.safetensors")
    save_file({**load_file(folder / "b.safetensors"), **dict(list(some.items())[:1])}, folder / "b.safetensors")
    assert f"tensor '{next(iter(some))}' is in a.safetensors too" in refused(folder)


# ---------------------------------------------------------------- sizes meant to exhaust memory


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"n_layer": 4096}, "asks for 4096 blocks, and the checkpoint has only"),
        ({"n_layer": 10**6}, "'n_layer' must be between 0 and 4096"),
        ({"n_embd": 2**23}, "numbers, and the files hold"),
        ({"n_embd": 2**62}, "'n_embd' must be between 1 and"),
        ({"vocab_size": 2**24}, "numbers, and the files hold"),
        ({"n_positions": 2**24}, "numbers, and the files hold"),
        ({"n_inner": 2**24}, "numbers, and the files hold"),
    ],
    ids=str,
)
def test_huge_shapes(folder: Path, fields: dict[str, int], told: str) -> None:
    """Nothing is allocated: the model stands on the meta device until every shape is known to fit."""
    change(folder, **fields)
    assert told in refused(folder)


def test_experts_without_end(tmp_path: Path) -> None:
    """One rule has a key for each expert: they are counted before the rules are made."""
    from jogak.families import mixtral

    architecture, fields = next(iter(mixtral.TINY.items()))
    model = getattr(transformers, architecture)(transformers.MixtralConfig(**fields))
    model.save_pretrained(tmp_path / "mixtral")
    change(tmp_path / "mixtral", num_local_experts=2**24)
    assert "numbers, and the files hold" in refused(tmp_path / "mixtral")


def test_a_plan_reads_no_numbers(folder: Path) -> None:
    """All that is refused is refused from headers: the model of a plan has no storage."""
    assert all(t.is_meta for t in plan(Checkpoint(folder)).model.state_dict().values())


def test_a_file_that_shrinks_while_it_is_read(folder: Path) -> None:
    checkpoint = Checkpoint(folder)
    (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:-1000])
    with pytest.raises(UserError, match="is shorter than it was when it was opened"):
        read(checkpoint)
