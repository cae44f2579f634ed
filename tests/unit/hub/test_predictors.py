"""`run` on checkpoints: text goes on, is labelled, or embedded, as the ids and numbers of the model say."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from jogak import api
from jogak.errors import UserError
from jogak.hub.pretrained import Pretrained

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefgh"]
SIZES = {"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 6}


def made(folder: Path, model: torch.nn.Module, *, frame: bool = True) -> Pretrained:
    """The model in a folder with a tokenizer of one letter a unit, loaded."""
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if frame:
        ends = [("[SEP]", 2), ("[CLS]", 1)]
        tokenizer.post_processor = processors.BertProcessing(*ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    loaded = api.load(folder, device="cpu")
    assert isinstance(loaded, Pretrained)
    return loaded


@pytest.fixture
def labeller(tmp_path: Path) -> Pretrained:
    torch.manual_seed(0)
    given = transformers.BertConfig(
        **SIZES, max_position_embeddings=7, id2label={0: "no", 1: "yes", 2: "가"}, label2id={"no": 0, "yes": 1, "가": 2}
    )
    return made(tmp_path / "bert", transformers.BertForSequenceClassification(given).eval())


@pytest.fixture
def writer(tmp_path: Path) -> Pretrained:
    torch.manual_seed(0)
    given = transformers.GPT2Config(
        vocab_size=12, n_embd=8, n_layer=1, n_head=2, n_positions=12, bos_token_id=1, eos_token_id=2
    )
    return made(tmp_path / "gpt2", transformers.GPT2LMHeadModel(given).eval(), frame=False)


@torch.no_grad()
def test_labels_and_their_probabilities(labeller: Pretrained) -> None:
    found = labeller.run(["a b", "c"], n_best=3)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(labeller.folder)
    for answers, ids in zip(found, ([1, 4, 5, 2], [1, 6, 2]), strict=True):
        p = theirs(torch.tensor([ids])).logits.softmax(-1)[0]
        best = p.argsort(descending=True).tolist()
        assert [a.text for a in answers.answers] == [["no", "yes", "가"][c] for c in best]
        assert [a.score for a in answers.answers] == pytest.approx(p[best].tolist(), abs=1e-6)
    assert labeller.run("a b").value == found[0].value


def test_what_is_cut_is_told(labeller: Pretrained) -> None:
    cut, whole = labeller.run(["a b c d e f g", "a b c d e"])
    assert cut.answers[0].faults == ["cut by 2 units, more than the model reads"]
    assert whole.answers[0].faults == []


def test_text_goes_on(writer: Pretrained) -> None:
    found = writer.run(["a b", "c d e"], max_length=4)
    for answer, ids in zip(found, ([4, 5], [6, 7, 8]), strict=True):
        assert answer.answers[0].plain()["ids"] == writer.generate([ids], 4).ids[0]
    with pytest.raises(UserError, match="text 2: has 9 units and 4 more are to be written, and the model has 12 posi"):
        writer.run(["a", "a b c d e f g h a"], max_length=4)
    with pytest.raises(UserError, match="text 1: is empty"):
        writer.run("")


def test_settings_without_meaning(writer: Pretrained, labeller: Pretrained) -> None:
    with pytest.raises(UserError, match=r"'bean'.*did you mean 'beam'"):
        writer.run("a", bean=2)
    assert len(writer.run("a", beam=2, n_best=2, max_length=3).answers) == 2
    with pytest.raises(UserError, match="'beam' means nothing to this model; n_best can be set"):
        labeller.run("a", beam=2)


@torch.no_grad()
@pytest.mark.parametrize(("settings", "pool"), [({}, "mean"), ({"pooling_mode_cls_token": True}, "first")])
def test_embeddings_pool_as_the_folder_says(tmp_path: Path, settings: dict[str, bool], pool: str) -> None:
    torch.manual_seed(0)
    given = transformers.BertConfig(**SIZES, max_position_embeddings=7)
    model = made(tmp_path / "bert", transformers.BertModel(given).eval())
    if settings:
        (model.folder / "1_Pooling").mkdir()
        (model.folder / "1_Pooling/config.json").write_text(json.dumps(settings))
    hidden = transformers.AutoModel.from_pretrained(model.folder)(torch.tensor([[1, 4, 5, 2]])).last_hidden_state[0]
    wanted = hidden.mean(0) if pool == "mean" else hidden[0]
    assert float((model.embed(["a b", "c"])[0] - wanted).abs().max()) <= 1e-5
    answer = model.run(["a b", "a b"])[0].answers[0]
    assert answer.text == "1.000\t1.000"
    (model.folder / "1_Pooling").mkdir(exist_ok=True)
    both = {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}
    (model.folder / "1_Pooling/config.json").write_text(json.dumps(both))
    with pytest.raises(UserError, match="one way of pooling is expected"):
        model.embed("a")


def test_what_reads_no_text(tmp_path: Path) -> None:
    sizes = {name: value for name, value in SIZES.items() if name != "vocab_size"}
    given = transformers.ViTConfig(**sizes, image_size=8, patch_size=4)
    transformers.ViTForImageClassification(given).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="reads patches, not text"):
        api.load(tmp_path, device="cpu").run("a")
