"""Tiny models of every kind that a server can have, and a server for them in a thread of its own."""

import http.client
import json
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import uvicorn
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import decoders as tokenizer_decoders
from tokenizers import models as tokenizer_models

from jogak import api, config, models
from jogak.serving.app import create
from jogak.serving.server import Stopping
from jogak.serving.settings import Settings
from jogak.tasks.classify import TrainedClassifier
from jogak.tasks.language_model import TrainedLanguageModel
from jogak.tasks.translate import TrainedTranslation
from tests.unit.decoding import writers

TEMPLATE = """\
{% for message in messages %}<|{{ message.role }}|>{{ message.content }}
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefgh"]
SIZES = {"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 6}


def _recipe(task: str, module, **decode) -> config.Recipe:
    given = {"task": task, "data": {"sources": ["a.tsv"]}, "codec": {"kind": "bytes"}, "decode": decode}
    return config.Recipe.model_validate({**given, "model": module.config.model_dump()})


def language_model(folder: Path, mixer="attention", **changes) -> api.Model:
    module = writers.decoder(mixer, **changes)
    return api.Model(folder, TrainedLanguageModel(_recipe("language_model", module), module, writers.codec()))


def translator(folder: Path) -> api.Model:
    module = writers.translator()
    recipe = _recipe("translate", module, beam=4, max_length=20)
    return api.Model(folder, TrainedTranslation(recipe, module, writers.codec()))


def classifier(folder: Path) -> api.Model:
    given = config.Model.model_validate(
        {
            "topology": "encoder",
            "width": 16,
            "encoder": {"depth": 1, "pattern": ["attention"]},
            "head": {"kind": "classes", "classes": 3},
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = models.build(given, writers.codec().vocab_size).eval()
    labels = ["가", "나", "other"]
    return api.Model(folder, TrainedClassifier(_recipe("classify", module), module, writers.codec(), labels))


def _byte_level() -> Tokenizer:
    """Every byte a unit, and three special ones behind them."""
    vocabulary = {piece: n for n, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizer_decoders.ByteLevel()
    return tokenizer


def chatter(folder: Path) -> api.Pretrained:
    """A checkpoint with a template, as `transformers` writes it."""
    import transformers

    torch.manual_seed(0)
    given = transformers.GPT2Config(
        vocab_size=260, n_embd=32, n_layer=2, n_head=2, n_positions=256, bos_token_id=256, eos_token_id=256
    )
    model = transformers.GPT2LMHeadModel(given).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    model.save_pretrained(folder)
    _byte_level().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return api.load(folder, device="cpu")


def embedder(folder: Path) -> api.Pretrained:
    import transformers

    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**SIZES, max_position_embeddings=7)).save_pretrained(folder)
    tokenizer = Tokenizer(tokenizer_models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.save(str(folder / "tokenizer.json"))
    return api.load(folder, device="cpu")


def with_places(model: api.Model, longest: int) -> api.Model:
    """The model as one that has places for so many units."""
    made = model.trained.generator
    model.trained.generator = lambda *given: _bounded(made(*given), longest)
    return model


def _bounded(generator, longest: int):
    generator.longest = longest
    return generator


class Running:
    """A server in a thread. url: where it is; engine: what it runs in."""

    def __init__(self, given, settings: Settings) -> None:
        self.app = create(given, settings)
        self.state = self.app.state.server
        self.engine = self.state.engine
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        config = uvicorn.Config(
            self.app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=10, lifespan="on"
        )
        self.server = Stopping(config, self.engine, settings.grace)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]}, daemon=True)
        self.thread.start()
        until(lambda: self.server.started)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=30)
        assert not self.thread.is_alive()


@contextmanager
def serving(given, **settings) -> Iterator[Running]:
    running = Running(given, Settings(**settings))
    try:
        yield running
    finally:
        running.stop()


def until(true, seconds: float = 20.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "this never came"
        time.sleep(0.002)


# ---------------------------------------------------------------- asking it, without a client's help


def ask(url: str, path: str, body=None, *, raw: bytes | None = None, method: str | None = None, **headers: str):
    """The status, the headers and the body of an answer; JSON as data."""
    where = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=30)
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json"} if data is not None else {}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method or ("GET" if data is None else "POST"), path, data, given)
        answer = connection.getresponse()
        content = answer.read()
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, answer.headers, json.loads(content) if is_json else content.decode()
    finally:
        connection.close()


class Streaming:
    """A stream that was begun: `events` reads on, `leave` goes away in the middle."""

    def __init__(self, url: str, path: str, body) -> None:
        where = urllib.parse.urlsplit(url)
        self.socket = socket.create_connection((where.hostname, where.port), timeout=30)
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        )
        self.socket.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        self.read = b""

    def until(self, text: bytes) -> bytes:
        """Everything up to where `text` has come, or to the end."""
        while text not in self.read and (part := self.socket.recv(65536)):
            self.read += part
        return self.read

    def leave(self) -> None:
        self.socket.close()


def slow(running: Running, name: str, seconds: float = 0.01) -> None:
    """Have every step of a model's batch take longer."""
    batcher = running.state.models[name].lane.batcher
    step = batcher.step

    def slower():
        time.sleep(seconds)
        return step()

    batcher.step = slower
