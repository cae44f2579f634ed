"""The official `openai` client against a real server: everything that it reads of what the server writes."""

import json

import pytest

from tests.unit.serving import models
from tests.unit.serving.models import serving

openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")
HELLO = [{"role": "user", "content": "안녕하세요"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    made = {"chat": models.chatter, "emb": models.embedder, "lm": models.language_model, "tr": models.translator}
    given = {}
    for name, make in made.items():
        (root / name).mkdir()
        given[name] = make(root / name)
    with serving(given, max_output=128, api_key="key") as running:
        yield running


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0, timeout=30)


def test_models(client):
    assert [model.id for model in client.models.list()] == ["chat", "emb", "lm", "tr"]
    assert client.models.retrieve("tr").owned_by == "jogak"


def test_a_conversation_by_the_models_own_template(client, server):
    found = client.chat.completions.create(model="chat", messages=HELLO, max_tokens=12, temperature=0)
    model = server.state.models["chat"].model
    ids = model.chat(HELLO)
    alone = model.generate([ids], 12, temperature=0.0)
    assert found.choices[0].message.content == alone.text[0]
    assert found.usage.prompt_tokens == len(ids)
    assert found.usage.total_tokens == len(ids) + found.usage.completion_tokens
    assert found.object == "chat.completion"


@pytest.mark.parametrize("model", ["chat", "lm"])
def test_what_is_streamed_is_what_comes_whole(client, model):
    asked = {"model": model, "messages": HELLO, "max_tokens": 24, "temperature": 1.0, "seed": 3, "n": 2}
    whole = client.chat.completions.create(**asked)
    texts, roles, reasons, usage = ["", ""], [None, None], [None, None], None
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles[choice.index] = choice.delta.role or roles[choice.index]
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert roles == ["assistant", "assistant"]
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_a_seed_gives_the_same_answer_again(client):
    asked = {"model": "chat", "messages": HELLO, "max_tokens": 10, "temperature": 1.5}
    texts = [client.chat.completions.create(**asked, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_log_probabilities(client):
    asked = {"model": "chat", "messages": HELLO, "max_tokens": 6, "temperature": 0}
    found = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3).choices[0]
    content = found.logprobs.content
    assert b"".join(bytes(unit.bytes) for unit in content).decode("utf-8", "replace") == found.message.content
    for unit in content:
        assert len(unit.top_logprobs) == 3
        assert unit.logprob == pytest.approx(unit.top_logprobs[0].logprob)  # greedy: the likeliest was taken
    streamed = []
    for chunk in client.chat.completions.create(**asked, logprobs=True, top_logprobs=3, stream=True):
        streamed += chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else []
    assert [unit.bytes for unit in streamed] == [unit.bytes for unit in content]


def test_completions_with_log_probabilities_and_several_prompts(client):
    found = client.completions.create(model="lm", prompt=["파일", "open"], n=2, max_tokens=5, temperature=1, logprobs=2)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    for choice in found.choices:
        assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) == len(choice.logprobs.text_offset)
        assert all(len(likely) <= 2 for likely in choice.logprobs.top_logprobs)
    ids = [1, 40, 41]
    assert client.completions.create(model="lm", prompt=ids, max_tokens=1).usage.prompt_tokens == 3


def test_the_best_of_several_is_told(client):
    asked = {"model": "lm", "prompt": "파일", "max_tokens": 6, "temperature": 1.0, "seed": 5, "logprobs": 0}
    every = client.completions.create(**asked, n=4).choices
    best = client.completions.create(**asked, n=1, best_of=4).choices
    means = {c.text: sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs) for c in every}
    assert [choice.text for choice in best] == [max(means, key=means.__getitem__)]


def test_a_translator_streams_its_answer(client, server):
    parts = [c.choices[0].text for c in client.completions.create(model="tr", prompt="저장", max_tokens=8, stream=True)]
    made = server.state.models["tr"].made
    assert "".join(parts) == made.generate([made.encode("저장")], max_new_tokens=8)[0][0].text


def test_an_answer_fits_its_schema(client):
    shape = {
        "type": "object",
        "properties": {"이름": {"enum": ["가", "나"]}, "n": {"type": "boolean"}},
        "required": ["이름", "n"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "shape", "schema": shape, "strict": True}}
    for model in ("chat", "lm"):
        asked = {"model": model, "messages": HELLO, "max_tokens": 100, "temperature": 1, "seed": 2}
        found = client.chat.completions.create(**asked, response_format=form)
        answer = json.loads(found.choices[0].message.content)
        assert set(answer) == {"이름", "n"}
        assert found.choices[0].finish_reason == "stop"
        cut = client.chat.completions.create(**{**asked, "max_tokens": 2}, response_format=form)
        assert cut.choices[0].finish_reason == "length"
        assert found.choices[0].message.content.startswith(cut.choices[0].message.content)


def test_streamed_text_never_breaks_a_character(client):
    """Korean comes in characters of three bytes, one of the model's units each."""
    form = {"regex": "(가나다라마바사){2}"}
    parts = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(
            model="chat", messages=HELLO, max_tokens=60, stream=True, extra_body=form
        )
    ]
    assert "".join(parts) == "가나다라마바사" * 2
    assert [part for part in parts if part] == list("가나다라마바사" * 2)


def test_embeddings(client, server):
    found = client.embeddings.create(model="emb", input=["a b", "c"])  # as base64, which the client undoes
    plain = client.embeddings.create(model="emb", input=["a b", "c"], encoding_format="float")
    alone = server.state.models["emb"].model.embed(["a b", "c"]).tolist()
    for one, other, ours in zip(found.data, plain.data, alone, strict=True):
        assert one.embedding == pytest.approx(ours, abs=1e-6)
        assert other.embedding == pytest.approx(ours, abs=1e-6)
    assert found.usage.prompt_tokens == 4 + 3
    for wrong in ("", "a " * 9, ["a", ""]):
        with pytest.raises(openai.BadRequestError, match="input"):
            client.embeddings.create(model="emb", input=wrong)


def test_mistakes_become_the_clients_own_errors(client, server):
    asked = {"model": "chat", "messages": HELLO}
    with pytest.raises(openai.BadRequestError, match="temperature must be from 0 to 2, got 3") as caught:
        client.chat.completions.create(**asked, temperature=3)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
        client.chat.completions.create(**{**asked, "model": "gpt"})
    with pytest.raises(openai.BadRequestError, match="256 positions"):
        client.chat.completions.create(**{**asked, "messages": [{"role": "user", "content": "가" * 200}]}, max_tokens=9)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="other", max_retries=0).models.list()


def test_many_clients_at_once(server):
    """Each gets what it gets alone."""
    import asyncio

    async def main():
        client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0)

        async def one(seed):
            asked = {"model": "lm", "messages": HELLO, "max_tokens": 12, "temperature": 1, "seed": seed % 5}
            found = await client.chat.completions.create(**asked)
            return seed % 5, found.choices[0].message.content

        found = await asyncio.gather(*(one(seed) for seed in range(40)))
        await client.close()
        return found

    texts = {}
    for seed, text in asyncio.run(main()):
        assert texts.setdefault(seed, text) == text
    assert len(set(texts.values())) == 5
