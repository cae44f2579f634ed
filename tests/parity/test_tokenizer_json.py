"""The tokenizers of families that have always had a tokenizer.json: built as theirs are, saved, the same ids."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from jogak.codecs import vocabularies
from tests.parity.test_tokenizers import CORPUS, TORTURE, same

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
GPT4 = (  # how Llama 3 and Qwen2 cut text before they merge
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def merged(special: list[str], pre: Any, normalizer: Any = None) -> dict[str, Any]:
    """vocab and merges of BPE over characters, bytes for what is rare."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre
    if normalizer is not None:
        made.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*special, *BYTES], limit_alphabet=90)
    made.train_from_iterator(CORPUS, trainer)
    model = json.loads(made.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def llama(**settings: Any) -> Any:
    given = merged(["<unk>", "<s>", "</s>"], pre_tokenizers.Metaspace(split=False))
    return transformers.LlamaTokenizer(**given, **settings)


def llama3() -> Any:
    made = Tokenizer(models.BPE(ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(GPT4), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet))
    made.add_special_tokens(special)
    begin = (special[0], made.token_to_id(special[0]))
    frame = processors.TemplateProcessing(
        single=f"{begin[0]} $A", pair=f"{begin[0]} $A {begin[0]}:1 $B:1", special_tokens=[begin]
    )
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), frame])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token=special[0], eos_token=special[1])


def gemma(**settings: Any) -> Any:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    given = merged(special, pre_tokenizers.Split(" ", "merged_with_previous"), normalizers.Replace(" ", "▁"))
    return transformers.GemmaTokenizer(**given, **settings)


def qwen2() -> Any:
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(GPT4), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    made.train_from_iterator(CORPUS, trainer)
    model = json.loads(made.to_str())["model"]
    return transformers.Qwen2Tokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])


def unigram() -> list[tuple[str, float]]:
    """Pieces and their scores."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=400, unk_token="<unk>"))
    return [(piece, score) for piece, score in json.loads(made.to_str())["model"]["vocab"] if piece != "<unk>"]


def charsmap() -> bytes:
    """SentencePiece's own table of NFKC, out of a model that it trained."""
    sentencepiece = pytest.importorskip("sentencepiece")
    proto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    model = io.BytesIO()
    lines = [line for text in CORPUS for line in text.splitlines() if line.strip()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=200, hard_vocab_limit=False, minloglevel=2
    )
    return proto.ModelProto.FromString(model.getvalue()).normalizer_spec.precompiled_charsmap


def t5(**settings: Any) -> Any:
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *unigram()]
    extra = [(f"<extra_id_{number}>", 0.0) for number in reversed(range(100))]
    return transformers.T5Tokenizer(vocab=[*vocabulary, *extra], **settings)


def pegasus() -> Any:
    own = ["<pad>", "</s>", "<mask_1>", "<mask_2>", *(f"<unk_{number}>" for number in range(2, 103)), "<unk>"]
    return transformers.PegasusTokenizer(vocab=[*((name, 0.0) for name in own), *unigram()])


CASES: dict[str, Callable[[], Any]] = {
    "llama": lambda: llama(add_bos_token=True),
    "llama-both": lambda: llama(add_bos_token=True, add_eos_token=True),
    "llama-neither": llama,
    "llama-old": lambda: llama(legacy=True, add_bos_token=True),
    "llama3": llama3,
    "gemma": lambda: gemma(add_bos_token=True),
    "qwen2": qwen2,
    "t5": t5,
    "t5-normed": lambda: t5(_spm_precompiled_charsmap=charsmap()),
    "pegasus": pegasus,
}


@pytest.fixture(params=CASES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    CASES[request.param]().save_pretrained(tmp_path)
    return tmp_path


def test_the_same_ids(folder: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert len({tuple(theirs(text)["input_ids"]) for text in TORTURE}) > len(TORTURE) // 2
    same(vocabularies.read(folder), theirs)


@pytest.mark.parametrize("flags", [(True, False), (False, True), (True, True), (False, False)])
def test_the_file_says_which_marks_there_are(folder: Path, flags: tuple[bool, bool]) -> None:
    """Beside a tokenizer.json, add_bos_token and add_eos_token change nothing, there as here."""
    file = folder / "tokenizer_config.json"
    settings = {**json.loads(file.read_text()), "add_bos_token": flags[0], "add_eos_token": flags[1]}
    file.write_text(json.dumps(settings))
    same(vocabularies.read(folder), transformers.AutoTokenizer.from_pretrained(folder))


def test_text_comes_back(folder: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = vocabularies.read(folder)
    for text in TORTURE:
        ids = theirs(text)["input_ids"]
        wanted = theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert ours.decode(ids) == wanted, repr(text)
