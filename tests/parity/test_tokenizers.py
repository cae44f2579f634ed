"""Tokenizers of older checkpoints and of new ones: the ids of `transformers`, over texts that are hard to cut."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

import jogak
from jogak import families
from jogak.codecs import renumbered, vocabularies
from jogak.errors import UserError

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

TORTURE = [
    "",
    " ",
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "다람쥐 헌 쳇바퀴에 타고파",
    "한글과 English가 섞인 문장, 그리고 123번.",
    "한글",  # the same letters, decomposed
    "👩‍👩‍👧‍👦 👍🏽 🇰🇷 ❤️",  # joined by zero-width joiners, with skin tones and selectors
    "e\u0301 n\u0303 Zalgo: Z\u0351\u036b\u0343\u036aA\u0310\u030d",
    "naïve café Ünïcödé STRASSE straße İstanbul",
    "zero\u200bwidth\u200cnon\u200djoiner\u2060word\ufeffmark",
    "run" + " " * 40 + "of" + " " * 7 + "spaces" + " " * 3,
    "\t\ttabs\n\nlines\r\nmore\x0b\x0cfeeds",
    "def f(x: int) -> str:\n    return f'{x!r}' if x >= 0x1F else \"-\"  # done\n",
    "a\x00b\x01c\x1bd\x7fe\x85f\x1c g\x1dh\x1ei\x1fj",
    "\u00a0no\u2003break\u3000spaces\u202f\u2028line\u2029paragraph",
    "中文字符和日本語のテキスト、カタカナ",
    "مرحبا بالعالم שלום עולם \u202eright to left\u202c",
    "ﬁ ligature ① ½ Ⅳ ㎏ ｆｕｌｌ",
    "don't I'll we've they're O'Neill's 'quoted'",
    "1234567890 3.14159 1,000,000 1e-5 0xDEADBEEF",
    "!!!???...---___===***###@@@$$$%%%^^^&&&",
    "https://example.org/a_b?c=d&e=f#g user@example.org",
    "x" * 150 + " after a long word",
    "\U0001d4d7\U0001d4ee\U0001d4f5\U0001d4f5\U0001d4f8 \U00020000 \U0010ffff \ufffd \ufffe",
    "<s> in text </s> <mask> [MASK] [CLS]x[SEP] <|endoftext|> <unk>",
    " leading and trailing ",
    "MKTAYIAKQR <mask>QISFVKSHFSRQ LEERLGLIEVQA X.B-U*Z|J <cls><eos>",
    "mktay M K\tT\nA",
]
CORPUS = [text for text in TORTURE if "中" not in text] * 3  # so that some characters stay unknown


def wordpiece(folder: Path, *, lower: bool = True) -> None:
    made = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lower)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=330, special_tokens=special))
    made.model.save(str(folder))


def byte_level(folder: Path, special: tuple[str, ...]) -> None:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(special), initial_alphabet=alphabet)
    made.train_from_iterator(CORPUS, trainer)
    made.model.save(str(folder))


def lower_case(folder: Path) -> None:
    made = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=["<unk>"], end_of_word_suffix="</w>")
    made.train_from_iterator(CORPUS, trainer)
    made.model.save(str(folder))


def letters(folder: Path) -> None:
    entries = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(entries))


def pieces(folder: Path, name: str, kind: str, **options: Any) -> None:
    """A SentencePiece model of its own library."""
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = [" ".join(text.replace("\0", "").splitlines()) for text in CORPUS]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "made"),
        model_type=kind,
        vocab_size=620,
        character_coverage=0.98,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    (folder / "made.vocab").unlink()
    (folder / "made.model").rename(folder / name)


def t5(folder: Path, **options: Any) -> None:
    pieces(folder, "spiece.model", "unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, **options)


def pegasus(folder: Path) -> None:
    pieces(folder, "spiece.model", "unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


def marian(folder: Path) -> None:
    """Pieces of both languages in one vocabulary, in an order of its own, without some of the source's."""
    pieces(folder, "source.spm", "unigram")
    pieces(folder, "target.spm", "unigram", normalization_rule_name="identity")
    sentencepiece = pytest.importorskip("sentencepiece")
    found: list[str] = []
    for name, step in (("target.spm", 1), ("source.spm", 3)):
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
        found += [model.id_to_piece(n) for n in range(3, model.get_piece_size()) if n % step == 0 or step == 1]
    order = dict.fromkeys(["</s>", "<unk>", ">>kor<<", ">>deu<<", *reversed(found), "中", "<pad>"])
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(order)}))


def m2m_100(folder: Path) -> None:
    pieces(folder, "sentencepiece.bpe.model", "bpe", bos_id=0, pad_id=1, eos_id=2, unk_id=3, pad_piece="<pad>")
    model = pytest.importorskip("sentencepiece").SentencePieceProcessor(
        model_file=str(folder / "sentencepiece.bpe.model")
    )
    found = [model.id_to_piece(n) for n in range(4, model.get_piece_size())]
    order = ["<s>", "<pad>", "</s>", "<unk>", *reversed(found)]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(order)}))


def llama(folder: Path, **options: Any) -> None:
    plain = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    spelled = {"byte_fallback": True, "unk_id": 0, "bos_id": 1, "eos_id": 2}
    pieces(folder, "tokenizer.model", "bpe", **plain, **spelled, **options)


def gemma(folder: Path) -> None:
    special: dict[str, Any] = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    names = {"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>"}
    plain = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False}
    turns = ["<mask>", "<start_of_turn>", "\n\n"]
    pieces(
        folder, "tokenizer.model", "bpe", byte_fallback=True, user_defined_symbols=turns, **special, **names, **plain
    )


LLAMA = {"tokenizer_class": "LlamaTokenizer"}
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
NEOX = ("<|endoftext|>", "<|padding|>")
ADDED = {"[NEW]": 330, "[more]": 331}
LEFT = {"content": "<mask>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False}
Files = Mapping[str, Any]
# model type, who writes the vocabulary, what lies beside it
CASES: dict[str, tuple[str, Callable[[Path], None], Files]] = {
    "bert": ("bert", wordpiece, {}),
    "bert-cased": ("bert", lambda f: wordpiece(f, lower=False), {"tokenizer_config.json": {"do_lower_case": False}}),
    "bert-accents": (
        "bert",
        wordpiece,
        {"tokenizer_config.json": {"strip_accents": False, "tokenize_chinese_chars": False}},
    ),
    "bert-added": ("bert", wordpiece, {"added_tokens.json": ADDED}),
    "distilbert": ("distilbert", wordpiece, {"tokenizer_config.json": {"tokenizer_class": "DistilBertTokenizer"}}),
    "gpt2": ("gpt2", lambda f: byte_level(f, ("<|endoftext|>",)), {}),
    "gpt2-begin": (
        "gpt2",
        lambda f: byte_level(f, ("<|endoftext|>",)),
        {"tokenizer_config.json": {"add_bos_token": True, "add_prefix_space": True, "pad_token": "<pad>"}},
    ),
    "roberta": ("roberta", lambda f: byte_level(f, ROBERTA), {}),
    "roberta-mask": (
        "roberta",
        lambda f: byte_level(f, ROBERTA),
        {
            "special_tokens_map.json": {"mask_token": LEFT},
            "tokenizer_config.json": {"add_prefix_space": True, "tokenizer_class": "RobertaTokenizerFast"},
        },
    ),
    "roberta-decoder": (
        "roberta",
        lambda f: byte_level(f, ROBERTA),
        {"tokenizer_config.json": {"added_tokens_decoder": {"4": {**LEFT, "special": True}}}},
    ),
    "bart": ("bart", lambda f: byte_level(f, ROBERTA), {}),
    "gpt_neox": ("gpt_neox", lambda f: byte_level(f, NEOX), {}),
    "openai-gpt": ("openai-gpt", lower_case, {}),
    "esm": ("esm", letters, {}),
    "t5": ("t5", t5, {}),
    "t5-fewer": ("t5", t5, {"tokenizer_config.json": {"tokenizer_class": "T5Tokenizer", "extra_ids": 7}}),
    "mt5": ("mt5", lambda f: t5(f, normalization_rule_name="identity"), {"tokenizer_config.json": {"extra_ids": 0}}),
    "llama": ("llama", llama, {"tokenizer_config.json": {**LLAMA, "add_bos_token": True, "legacy": False}}),
    "llama-old": (
        "llama",
        llama,
        {"tokenizer_config.json": {**LLAMA, "add_bos_token": True, "add_eos_token": True, "legacy": True}},
    ),
    "llama-padded": ("llama", llama, {"tokenizer_config.json": {**LLAMA, "pad_token": "<pad>", "unk_token": "<unk>"}}),
    "llama-bare": (
        "llama",
        lambda f: llama(f, user_defined_symbols=["[INST]", "O'Neill's"]),
        {"tokenizer_config.json": {**LLAMA, "add_prefix_space": False}},
    ),
    "pegasus": ("pegasus", pegasus, {}),
    "gemma2": ("gemma2", gemma, {"tokenizer_config.json": {"add_bos_token": True}}),
    "recurrent_gemma": ("recurrent_gemma", gemma, {}),
}


@pytest.fixture(params=CASES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind, write, files = CASES[request.param]
    write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def usual(folder: Path) -> str | None:
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    return getattr(families.find(kind), "TOKENIZER", None)


def same(ours: Tokenizer, theirs: Any) -> None:
    for text in TORTURE:
        wanted = theirs(text)["input_ids"]
        assert ours.encode(text).ids == wanted, repr(text)
        assert ours.encode(text, add_special_tokens=False).ids == theirs(text, add_special_tokens=False)["input_ids"]
    pair = TORTURE[3], TORTURE[5]
    assert ours.encode(*pair).ids == theirs(*pair)["input_ids"]


def test_older_files(folder: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert len({tuple(theirs(text)["input_ids"]) for text in TORTURE}) > len(TORTURE) // 3
    same(vocabularies.read(folder, usual(folder)), theirs)


def test_tokenizer_json(folder: Path, tmp_path: Path) -> None:
    """What `transformers` saves; ESM's has no tokenizer.json, and is read from its vocabulary again."""
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "tokenizer.json").exists() != (usual(folder) == "EsmTokenizer")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved", config=theirs_config(folder))
    same(vocabularies.read(tmp_path / "saved", usual(folder)), again)


MARKS = [f"__{code}__" for code in renumbered.LANGUAGES["m2m100"].split()]
RENUMBERED: dict[str, tuple[str, Callable[[Path], None], Files]] = {
    "marian": ("marian", marian, {"tokenizer_config.json": {"tokenizer_class": "MarianTokenizer"}}),
    "marian-bare": ("marian", marian, {}),
    "m2m_100": ("m2m_100", m2m_100, {}),
    "m2m_100-korean": ("m2m_100", m2m_100, {"tokenizer_config.json": {"src_lang": "ko"}}),
    "m2m_100-marks": (
        "m2m_100",
        m2m_100,
        {"tokenizer_config.json": {"additional_special_tokens": MARKS, "src_lang": "ko"}},
    ),
    "m2m_100-wmt21": ("m2m_100", m2m_100, {"tokenizer_config.json": {"language_codes": "wmt21", "src_lang": "ha"}}),
}


@pytest.mark.parametrize("name", RENUMBERED)
@pytest.mark.parametrize("saved", [False, True])
def test_pieces_with_other_numbers(name: str, saved: bool, tmp_path: Path) -> None:
    kind, write, files = RENUMBERED[name]
    write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    for file, content in files.items():
        (tmp_path / file).write_text(json.dumps(content))
    folder, theirs = tmp_path, transformers.AutoTokenizer.from_pretrained(tmp_path)
    if saved:
        folder = tmp_path / "saved"
        theirs.save_pretrained(folder)
    ours = vocabularies.read(folder, usual(tmp_path))
    marked = [">>kor<< The quick brown fox", ">>xyz<<fox", "a >>kor<< b", "__ko__ fox", "한글</s>과 <pad> 문장"]
    ties = TORTURE[21]  # of pieces that are as likely, theirs takes what its rounded sums say
    for text in (text for text in (*TORTURE, *marked) if text != ties):
        wanted = theirs(text)["input_ids"]
        assert ours.encode(text).ids == wanted, repr(text)
        bare = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text, add_special_tokens=False).ids == bare, repr(text)
        written = theirs.decode(bare, skip_special_tokens=True)  # where a mark of language is no special token, theirs
        assert ours.decode(wanted) == written, repr(text)  # writes it


def theirs_config(folder: Path) -> Any:
    return transformers.AutoConfig.from_pretrained(folder)


def test_a_loaded_model_reads_its_older_vocabulary(tmp_path: Path) -> None:
    wordpiece(tmp_path)
    fields = families.find("bert").TINY["BertModel"]
    transformers.BertModel(transformers.BertConfig(**{**fields, "vocab_size": 330})).save_pretrained(tmp_path)
    ours = jogak.load(str(tmp_path))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours.encode(TORTURE[3:6]) == theirs(TORTURE[3:6])["input_ids"]
    assert ours.embed(["다람쥐", "dog"]).shape == (2, 32)


@pytest.mark.parametrize("write", [t5, llama, gemma])
def test_pieces_are_those_of_sentencepiece(write: Callable[[Path], None], tmp_path: Path) -> None:
    """A Mistral folder names Llama's class, too, and is cut as its model was trained: `transformers` has other ids."""
    write(tmp_path)
    file, names = {
        t5: ("spiece.model", "T5Tokenizer"),
        llama: ("tokenizer.model", "LlamaTokenizer"),
        gemma: ("tokenizer.model", "GemmaTokenizer"),
    }[write]
    theirs = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_file=str(tmp_path / file))
    ours = vocabularies.read(tmp_path, names)
    for text in (*TORTURE[2:6], TORTURE[9], TORTURE[13], TORTURE[16], TORTURE[19], TORTURE[20], TORTURE[22]):
        found = ours.encode(text, add_special_tokens=False).ids
        assert found == theirs.encode(text), repr(text)
        if theirs.unk_id() not in found:  # which theirs writes as a mark of its own
            assert ours.decode(found) == theirs.decode(found), repr(text)


def test_pieces_that_are_damaged(tmp_path: Path) -> None:
    llama(tmp_path)
    file = tmp_path / "tokenizer.model"
    whole = file.read_bytes()
    for raw in (b"", whole[: len(whole) // 2 + 1], b"IQ== 0\nIg== 1\n", b"\x0a\xff\xff\xff\xff\x0f", b"\x80" * 20):
        file.write_bytes(raw)
        with pytest.raises(UserError, match="damaged, or not the files of a tokenizer"):
            vocabularies.read(tmp_path, "LlamaTokenizer")
    (tmp_path / "tokenizer_config.json").write_text('{"extra_ids": -1}')
    t5(tmp_path)
    with pytest.raises(UserError, match="'extra_ids' must be a number from 0"):
        vocabularies.read(tmp_path, "T5Tokenizer")
    assert vocabularies.there(tmp_path, "T5Tokenizer")
    assert not vocabularies.there(tmp_path, "AlbertTokenizer")


def test_what_is_refused_of_pieces_with_other_numbers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vocab\.json: a number for each piece is expected"):
        vocabularies.read(tmp_path, "MarianTokenizer")
    m2m_100(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"src_lang": "kor"}')
    with pytest.raises(UserError, match="there is no src_lang 'kor'"):
        vocabularies.read(tmp_path, "M2M100Tokenizer")
    with pytest.raises(UserError, match=r"source\.spm: there is no such file"):
        vocabularies.read(tmp_path, "MarianTokenizer")
    (tmp_path / "source.spm").write_bytes(b"\x80" * 20)
    with pytest.raises(UserError, match="damaged, or not the files of a tokenizer"):
        vocabularies.read(tmp_path, "MarianTokenizer")
    (tmp_path / "vocab.json").write_text('{"<unk>": 1}')
    marian(tmp_path)
    (tmp_path / "vocab.json").write_text('{"<unk>": 1}')
    with pytest.raises(UserError, match=r"vocab\.json: '</s>' is missing"):
        vocabularies.read(tmp_path, "MarianTokenizer")
    (tmp_path / "tokenizer_config.json").write_text('{"separate_vocabs": true}')
    with pytest.raises(UserError, match="a vocabulary of its own for each language is not read"):
        vocabularies.read(tmp_path, "MarianTokenizer")
    assert vocabularies.there(tmp_path, "MarianTokenizer")


def test_a_translator_reads_its_pieces(tmp_path: Path) -> None:
    """A Marian checkpoint as it is published: text in, text out, as `transformers` says it."""
    marian(tmp_path)
    size = len(json.loads((tmp_path / "vocab.json").read_text()))
    fields = {**families.find("marian").TINY["MarianMTModel"], "vocab_size": size, "pad_token_id": size - 1}
    fields |= {"eos_token_id": 0, "decoder_start_token_id": size - 1, "forced_eos_token_id": None}
    model = transformers.MarianMTModel(transformers.MarianConfig(**fields)).eval()
    model.save_pretrained(tmp_path)
    theirs, text = transformers.AutoTokenizer.from_pretrained(tmp_path), "다람쥐 헌 쳇바퀴에 타고파"
    asked = {"max_new_tokens": 12, "num_beams": 1, "do_sample": False}
    wanted = model.generate(**theirs([text], return_tensors="pt"), **asked)
    found = jogak.load(str(tmp_path)).run(text, max_new_tokens=12)
    assert found.value == theirs.batch_decode(wanted, skip_special_tokens=True)[0]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json: there is no such file"):
        vocabularies.read(tmp_path)
    with pytest.raises(UserError, match=r"vocab\.txt: there is no such file"):
        vocabularies.read(tmp_path, "BertTokenizer")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertTokenizer"}')
    with pytest.raises(UserError, match="did you mean 'RobertaTokenizer'"):
        vocabularies.read(tmp_path, "BertTokenizer")
    wordpiece(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": "yes"}')
    with pytest.raises(UserError, match="'do_lower_case' must be true or false"):
        vocabularies.read(tmp_path, "BertTokenizer")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json: damaged"):
        vocabularies.read(tmp_path)
