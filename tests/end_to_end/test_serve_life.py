"""How a server lives: clients that leave, a full queue, requests that take too long, and its end."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jogak import api
from tests.unit.serving import models
from tests.unit.serving.models import Streaming, ask, serving, slow, until

pytest.importorskip("fastapi")
ROOT = Path(__file__).parents[2]
LONG = {"model": "lm", "prompt": "파일", "max_tokens": 4000, "min_tokens": 4000, "temperature": 1}


@pytest.fixture
def given(tmp_path):
    (tmp_path / "lm").mkdir()
    return {"lm": models.language_model(tmp_path / "lm", "gru")}


def in_background(url, body):
    """The answer to a request, in a list once it is there."""
    found: list = []
    thread = threading.Thread(target=lambda: found.append(ask(url, "/v1/completions", body)))
    thread.start()
    return found, thread


def steps_to_freedom(running, leave, left):
    """Steps of the engine between the moment that it hears of a cancellation and the one that the batch is smaller."""
    engine, lane = running.engine, running.state.models["lm"].lane
    heard, cancel = [], engine.cancel

    def noting(tickets):
        tickets = list(tickets)
        if any(not ticket.done for ticket in tickets):
            heard.append(engine.steps)
        cancel(tickets)

    engine.cancel = noting
    leave()
    until(lambda: heard and lane.batcher.running + lane.batcher.waiting == left)
    freed = engine.steps
    engine.cancel = cancel
    return freed - heard[0]


def test_a_client_that_leaves_frees_its_slot_within_a_step(given):
    with serving(given, rows=2) as running:
        slow(running, "lm", 0.05)
        lane = running.state.models["lm"].lane
        stays = Streaming(running.url, "/v1/completions", {**LONG, "stream": True})
        goes = Streaming(running.url, "/v1/completions", {**LONG, "stream": True})
        stays.until(b"data: ")
        goes.until(b"data: ")
        until(lambda: lane.batcher.running == 2)
        assert steps_to_freedom(running, goes.leave, 1) <= 1
        until(lambda: running.engine.load == 1)
        before, steps = stays.read.count(b"data: "), running.engine.steps
        until(lambda: running.engine.steps > steps + 3)
        stays.socket.setblocking(False)
        stays.read += stays.socket.recv(1 << 20)
        assert stays.read.count(b"data: ") > before  # the other goes on
        stays.leave()
        until(lambda: running.engine.load == 0)
        assert 'outcome="cancelled"} 2.0' in ask(running.url, "/metrics")[2]


def test_so_does_one_whose_answer_is_not_streamed_or_not_yet_begun(given):
    with serving(given, rows=1) as running:
        slow(running, "lm", 0.05)
        lane = running.state.models["lm"].lane
        first = Streaming(running.url, "/v1/completions", LONG)
        until(lambda: lane.batcher.running == 1)
        second = Streaming(running.url, "/v1/completions", LONG)
        until(lambda: lane.batcher.waiting == 1)
        third = Streaming(running.url, "/v1/completions", {**LONG, "stream": True})
        until(lambda: lane.batcher.waiting == 2)
        assert steps_to_freedom(running, third.leave, 2) <= 1
        assert steps_to_freedom(running, first.leave, 1) <= 1
        until(lambda: lane.batcher.running == 1)  # the second has its place
        second.leave()
        until(lambda: running.engine.load == 0)


def test_a_full_queue_says_when_to_come_again(given):
    with serving(given, rows=1, queue=1) as running:
        slow(running, "lm")
        waiting = [Streaming(running.url, "/v1/completions", LONG) for _ in range(2)]
        until(lambda: running.engine.load == 2)
        status, headers, content = ask(running.url, "/v1/completions", {**LONG, "max_tokens": 1, "min_tokens": 0})
        assert status == 429
        assert 1 <= int(headers["retry-after"]) <= 60
        assert content["error"]["type"] == "rate_limit_error"
        for one in waiting:
            one.leave()
        until(lambda: running.engine.load == 0)
        assert ask(running.url, "/v1/completions", {**LONG, "max_tokens": 1, "min_tokens": 0})[0] == 200


def test_what_takes_too_long_is_told_so(given):
    with serving(given, timeout=0.3) as running:
        slow(running, "lm")
        status, _, content = ask(running.url, "/v1/completions", LONG)
        assert (status, content["error"]["code"]) == (408, "timeout")
        streamed = Streaming(running.url, "/v1/completions", {**LONG, "stream": True}).until(b"[DONE]")
        assert b'"code":"timeout"' in streamed
        assert running.engine.load == 0


def test_its_end_lets_finish_what_can(given):
    with serving(given, grace=20) as running:
        slow(running, "lm", 0.02)
        found, thread = in_background(running.url, {**LONG, "max_tokens": 30, "min_tokens": 30})
        until(lambda: running.engine.load == 1)
        running.server.should_exit = True
        until(lambda: not running.engine.ready)
        thread.join()
        status, _, content = found[0]
        assert status == 200
        assert content["usage"]["completion_tokens"] == 30


def test_and_refuses_what_cannot(given):
    with serving(given, grace=0.3) as running:
        slow(running, "lm", 0.02)
        found, thread = in_background(running.url, LONG)
        streamed = Streaming(running.url, "/v1/completions", {**LONG, "stream": True})
        streamed.until(b"data: ")
        until(lambda: running.engine.load == 2)
        began = time.monotonic()
        running.stop()
        assert time.monotonic() - began < 5
        thread.join()
        assert (found[0][0], found[0][2]["error"]["code"]) == (503, "stopping")
        assert b'"code":"stopping"' in streamed.until(b"[DONE]")
        assert running.engine.load == 0


@pytest.mark.slow
def test_the_command_serves_a_run_and_ends_when_it_is_told_to(tmp_path):
    (tmp_path / "글.txt").write_text("나는 어제 은행에 갔다.\n\nI went to the bank.\n" * 60, encoding="utf-8")
    small = ["train.minutes=null", "train.steps=2", "train.warmup=1", "train.validate_every=2", "train.save_every=2"]
    small += ["train.batch_tokens=256", "train.precision=float32", "train.tensorboard=false", "train.average=none"]
    small += ["data.test=4", "data.validation=4", "data.max_length=64", "model.width=32", "model.decoder.depth=1"]
    recipe = str(ROOT / "recipes/language-model.yaml")
    api.train(recipe, [*small, f"run={tmp_path}/run", f"data.sources={tmp_path}/글.txt"])
    (tmp_path / "key").write_text("geheim\n", encoding="utf-8")
    command = [sys.executable, "-m", "jogak", "serve", f"글={tmp_path}/run", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}", "PYTHONUTF8": "1"}
    environment.pop("JOGAK_API_KEY", None)
    started = subprocess.Popen(
        [*command, "--api-key-file", str(tmp_path / "key")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        assert started.stdout is not None
        told = started.stdout.readline()
        url = re.fullmatch(r"serving 글 at (http://127\.0\.0\.1:\d+)/ \(Ctrl-C ends it\)\n", told)[1]
        key = {"Authorization": "Bearer geheim"}
        assert ask(url, "/v1/completions", {"model": "글", "prompt": "나는", "max_tokens": 3}, **key)[0] == 200
        assert ask(url, "/v1/models")[0] == 401
        started.send_signal(signal.SIGTERM)
        _, log = started.communicate(timeout=30)
    finally:
        started.kill()
    assert started.returncode == 0
    assert "POST /v1/completions 200" in log
    assert "나는" not in log
