"""The routes over real HTTP: what is answered, and what is refused, in which words."""

import json

import pytest

from tests.unit.serving import models
from tests.unit.serving.models import ask, serving

pytest.importorskip("fastapi")
MESSAGES = [{"role": "user", "content": "안녕"}]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    made = {"lm": models.language_model, "tr": models.translator, "cl": models.classifier}
    given = {}
    for name, make in made.items():
        (root / name).mkdir()
        given[name] = make(root / name)
    with serving(given, rows=8, queue=8, max_output=64, max_prompt=500, max_inputs=4, max_body=20_000) as running:
        yield running


def chat(running, **changes):
    return ask(running.url, "/v1/chat/completions", {"model": "lm", "messages": MESSAGES, "max_tokens": 4, **changes})


def test_the_models_say_what_they_can(running):
    status, _, told = ask(running.url, "/v1/models")
    assert status == 200
    abilities = {one["id"]: one["abilities"] for one in told["data"]}
    assert abilities == {
        "lm": ["chat", "completions", "run", "look"],
        "tr": ["completions", "run", "look"],
        "cl": ["run", "look"],
    }
    assert ask(running.url, "/v1/models/tr")[2]["task"] == "translate"
    assert ask(running.url, "/v1/models/nobody")[0] == 404


def test_tasks_are_run(running):
    status, _, told = ask(running.url, "/v1/run", {"model": "cl", "input": ["가", "b"], "settings": {"n_best": 3}})
    assert status == 200
    assert [len(one["answers"]) for one in told["data"]] == [3, 3]
    assert sum(answer["score"] for answer in told["data"][0]["answers"]) == pytest.approx(1, abs=1e-4)
    _, _, told = ask(running.url, "/v1/run", {"model": "tr", "input": "저장", "settings": {"n_best": 2}})
    alone = running.state.models["tr"].model.run("저장", n_best=2)
    assert [answer["text"] for answer in told["data"][0]["answers"]] == [answer.text for answer in alone.answers]
    assert told["task"] == "translate"


@pytest.mark.parametrize("model", ["lm", "tr", "cl"])
def test_one_looks_inside(running, model):
    status, headers, page = ask(running.url, "/v1/look", {"model": model, "input": "저장 open", "language": "ko"})
    assert status == 200
    assert headers.get_content_type() == "text/html"
    assert '"language":"ko"' in page


def test_one_looks_at_the_answer_that_was_given(running):
    given = chat(running, return_token_ids=True)[2]["choices"][0]
    ids = {"prompt_token_ids": given["prompt_token_ids"], "token_ids": given["token_ids"]}
    assert len(ids["token_ids"]) == 4
    status, _, page = ask(running.url, "/v1/look", {"model": "lm", **ids})
    assert status == 200
    content = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert len(content["panels"][0]["queries"]) == len(ids["prompt_token_ids"]) + 4
    ids["token_ids"].append(10**6)
    assert (
        "token_ids: id 1000000 is not in the vocabulary"
        in ask(running.url, "/v1/look", {"model": "lm", **ids})[2]["error"]["message"]
    )


@pytest.mark.parametrize(
    ("changes", "status", "told", "param"),
    [
        ({"temperature": 2.5}, 400, "temperature must be from 0 to 2, got 2.5", "temperature"),
        ({"top_p": -1}, 400, "top_p must be from 0 to 1, got -1", "top_p"),
        ({"n": 0}, 400, "n must be from 1 to 128, got 0", "n"),
        ({"n": 9}, 400, "n (9) cannot be more than the 8 rows of the batch", "n"),
        ({"max_tokens": 65}, 400, "max_tokens must be a whole number from 1 to 64, got 65", "max_tokens"),
        ({"max_tokens": -3}, 400, "max_tokens must be from 1 to 2^31 - 1, got -3", "max_tokens"),
        ({"seed": 2**63}, 400, "seed must be from 0 to 2^63 - 1", "seed"),
        ({"top_k": 1.5}, 400, "top_k must be a whole number, got 1.5", "top_k"),
        ({"temperature": "hot"}, 400, "temperature must be a number", "temperature"),
        ({"stream": 1}, 400, "stream must be true or false, got 1", "stream"),
        ({"temprature": 1}, 400, "unknown field 'temprature'; did you mean 'temperature'?", "temprature"),
        ({"messages": []}, 400, "messages must have at least 1 entries", "messages"),
        ({"messages": [{"role": "user"}]}, 400, "messages[0].content is missing; add it", "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content must be a text, got 3", None),
        ({"messages": [{"role": "boss", "content": ""}]}, 400, "messages[0].role should be 'system'", None),
        ({"messages": [{"role": "tool", "content": ""}]}, 400, "it knows no tools", None),
        ({"stop": ["a", ""]}, 400, "stop[1] must have at least 1 characters", "stop[1]"),
        ({"regex": "("}, 400, "regex cannot be used: ", "regex"),
        ({"grammar": "start: nothing"}, 400, "grammar cannot be used: ", "grammar"),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format.json_schema is missing", None),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "odd"}}}},
            400,
            "json_schema cannot be used: ",
            "json_schema",
        ),
        ({"regex": "a", "grammar": "start: /a/"}, 400, "regex and grammar cannot both say", "regex"),
        ({"model": "nobody"}, 404, "there is no model 'nobody' here; known: cl, lm, tr", "model"),
        ({"model": "cl"}, 400, "model 'cl' is not for /v1/chat/completions; it is for /v1/run and /v1/look", None),
        ({"messages": [{"role": "user", "content": "a" * 600}]}, 400, "more than the 500 that are allowed", None),
        ({"max_tokens": 3, "max_completion_tokens": 3}, 400, "are one setting", None),
        ({"top_logprobs": 2}, 400, "top_logprobs needs logprobs", "top_logprobs"),
        ({"chat_template_kwargs": {"a": 1}}, 400, "has no template of its own", None),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(running, changes, status, told, param):
    found, _, content = chat(running, **changes)
    assert found == status
    error = content["error"]
    assert told in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(
    ("raw", "status", "told"),
    [
        (b"{", 400, "the body is not JSON"),
        (b"", 400, "the body is not JSON"),
        (b'{"model": "\xff"}', 400, "not UTF-8 at byte 11"),
        (b'{"model": NaN}', 400, "NaN is no number in JSON"),
        (b"[]", 400, "the body must be an object"),
        (b"[" * 3000, 400, "nested deeper than 200"),
        (b"1" * 5000, 400, "the body is not JSON"),
        (b'{"model":"lm","messages":[{"role":"user","content":"\\ud800"}]}', 400, "half a surrogate pair"),
        (b'"' + b"a" * 30_000 + b'"', 413, "larger than the 20000 bytes"),
    ],
    ids=["half", "nothing", "latin", "nan", "list", "deep", "digits", "surrogate", "large"],
)
def test_bodies_that_are_none(running, raw, status, told):
    found, _, content = ask(running.url, "/v1/chat/completions", raw=raw)
    assert found == status
    assert told in content["error"]["message"]


def test_a_body_without_a_length_is_bounded_too(running):
    parts = b"".join(b"4000\r\n" + b" " * 0x4000 + b"\r\n" for _ in range(3)) + b"0\r\n\r\n"
    head = {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
    status, _, content = ask(running.url, "/v1/run", raw=parts, **{k.replace("-", "_"): v for k, v in head.items()})
    assert status in (400, 413)
    assert "error" in content


def test_other_paths_methods_and_kinds(running):
    assert ask(running.url, "/nowhere")[0] == 404
    assert ask(running.url, "/page/../app.py")[0] == 404
    status, headers, content = ask(running.url, "/v1/models", {}, method="POST")
    assert (status, headers["allow"]) == (405, "GET")
    assert content["error"]["type"] == "invalid_request_error"
    assert ask(running.url, "/v1/run", raw=b"{}", Content_Type="text/plain")[0] == 415
    assert ask(running.url, "/v1/run", {"model": "cl", "input": ["a"] * 5})[2]["error"]["message"].startswith(
        "input has 5 entries, more than the 4"
    )
    assert ask(running.url, "/v1/run", {"model": "tr", "input": "a", "settings": {"beam": 99}})[0] == 400
    assert ask(running.url, "/v1/run", {"model": "tr", "input": "a", "settings": {"beam": "wide"}})[0] == 400
    assert ask(running.url, "/v1/run", {"model": "tr", "input": "a", "settings": {"bogus": 1}})[0] == 400
    assert ask(running.url, "/v1/run", {"model": "cl", "input": "a", "settings": {"beam": 2}})[0] == 400
    assert ask(running.url, "/v1/embeddings", {"model": "lm", "input": "a"})[0] == 400


def test_the_server_goes_by_its_own_names_alone(running):
    """A page elsewhere whose name was made to point here (DNS rebinding) is not answered."""
    assert ask(running.url, "/v1/models", Host="evil.example")[0] == 421
    assert ask(running.url, "/v1/models", Host="localhost:8000")[0] == 200
    status, headers, _ = ask(running.url, "/v1/models", Origin="http://evil.example")
    assert status == 200
    assert "access-control-allow-origin" not in headers


def test_what_it_says_of_itself(running):
    chat(running)
    assert ask(running.url, "/healthz")[2] == {"status": "ok"}
    assert ask(running.url, "/readyz")[2] == {"status": "ready"}
    text = ask(running.url, "/metrics")[2]
    for name in (
        'jogak_requests_total{route="/v1/chat/completions",status="200"}',
        'jogak_output_tokens_total{model="lm"}',
        'jogak_first_token_seconds_bucket{le="0.01",model="lm"}',
        'jogak_inter_token_seconds_count{model="lm"}',
        'jogak_running_answers{model="lm"} 0.0',
        'jogak_answers_total{model="lm",outcome="done"}',
    ):
        assert name in text
    paths = ask(running.url, "/openapi.json")[2]["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/run", "/v1/look"} <= set(paths)


def test_an_answer_is_what_the_model_gives_alone(running):
    """Through the whole server, and whoever shares the batch."""
    served = running.state.models["lm"]
    body = {"model": "lm", "prompt": ["파일을", "open", "a"], "max_tokens": 9, "temperature": 1.2, "seed": 4}
    found = ask(running.url, "/v1/completions", body)[2]["choices"]
    for choice, text in zip(found, body["prompt"], strict=True):
        alone = served.made.generate([served.made.encode(text)], max_new_tokens=9, temperature=1.2, seed=4)[0][0]
        assert choice["text"] == alone.text


def test_stop_texts_and_their_units_are_left_out(running):
    whole = ask(running.url, "/v1/completions", {"model": "lm", "prompt": "a", "max_tokens": 20, "temperature": 0})[2]
    text = whole["choices"][0]["text"]
    part = text[6:8]
    body = {"model": "lm", "prompt": "a", "max_tokens": 20, "temperature": 0, "stop": part, "logprobs": 0}
    choice = ask(running.url, "/v1/completions", body)[2]["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["text"] == text[: text.index(part)]
    assert "".join(choice["logprobs"]["tokens"])[:3] == choice["text"][:3]


def test_prompts_that_begin_alike_are_read_once(running):
    body = {"model": "lm", "prompt": "파일을 저장했습니다. " * 6, "max_tokens": 2}
    assert ask(running.url, "/v1/completions", body)[2]["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert ask(running.url, "/v1/completions", body)[2]["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64


def test_a_key_is_asked_for_and_nothing_is_told_without_it(tmp_path, caplog):
    (tmp_path / "lm").mkdir()
    with serving(
        {"lm": models.language_model(tmp_path / "lm")}, api_key="geheim", origins=("http://a.example",)
    ) as own:
        caplog.set_level("INFO", logger="jogak.serving")
        for path in ("/v1/models", "/metrics", "/nowhere"):
            status, headers, content = ask(own.url, path)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert content["error"]["code"] == "invalid_api_key"
        assert ask(own.url, "/v1/models", Authorization="Bearer geheimer")[0] == 401
        assert ask(own.url, "/v1/models", Authorization="geheim")[0] == 401
        assert ask(own.url, "/v1/models", Authorization="Bearer geheim")[0] == 200
        for path in ("/", "/page/page.js", "/healthz", "/readyz"):
            assert ask(own.url, path)[0] == 200
        body = {"model": "lm", "prompt": "비밀입니다", "max_tokens": 2}
        status, headers, _ = ask(
            own.url, "/v1/completions", body, Authorization="Bearer geheim", Origin="http://a.example"
        )
        assert (status, headers["access-control-allow-origin"]) == (200, "http://a.example")
    assert "POST /v1/completions 200" in caplog.text
    assert "비밀" not in caplog.text
    assert "geheim" not in caplog.text


def test_prompts_are_logged_where_that_is_asked_for(tmp_path, caplog):
    (tmp_path / "lm").mkdir()
    with serving({"lm": models.language_model(tmp_path / "lm")}, log_prompts=True) as own:
        caplog.set_level("INFO", logger="jogak.serving")
        ask(own.url, "/v1/completions", {"model": "lm", "prompt": "적어 둔다", "max_tokens": 2})
    assert "적어 둔다" in caplog.text
