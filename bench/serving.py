"""A server under load: streams all at once beside one at a time, and a soak with clients that leave at random.

The server runs in a process of its own and is asked over HTTP, with random weights: an answer has exactly the length
that is asked for (its end mark may not come before), so that every turn does the same work. Times are the clients',
and so are losses: a stream is lost where it does not bring every unit and an end. `--soak MINUTES` keeps clients
coming and going; memory is the server's resident set, and a slot is stuck where the server still counts an answer
after everybody left.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import re
import socket
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import uvicorn
from _side_by_side import circumstances

from jogak import config, models
from jogak.api import Model
from jogak.codecs.text import TextCodec
from jogak.config import Codec
from jogak.serving.app import create
from jogak.serving.server import Stopping
from jogak.serving.settings import Settings
from jogak.tasks.language_model import TrainedLanguageModel

SHAPES = {"tiny": (128, 2, 4, 2_000), "small": (512, 6, 8, 16_000), "gpt2": (768, 12, 12, 50_257)}
TEXTS = ["파일을 저장했습니다. 다시 열어 보세요.", "The file was saved; open it again."] * 8


# ---------------------------------------------------------------- the server's process


def served(shape: str, mixer: str, folder: Path) -> Model:
    """A model with random weights. Its codec writes bytes; ids beyond them write nothing."""
    width, depth, heads, vocabulary = SHAPES[shape]
    options = {"heads": heads} if mixer == "attention" else {}
    stack = {"depth": depth, "pattern": [{"name": mixer, **options}], "placement": "pre"}
    given = config.Model.model_validate(
        {"topology": "decoder", "width": width, "decoder": {**stack, "feedforward": {"width": 4 * width}}}
    )
    torch.manual_seed(0)
    codec = TextCodec.train(TEXTS, Codec(kind="bytes"))
    recipe = config.Recipe.model_validate(
        {"task": "language_model", "data": {"sources": ["a.txt"]}, "codec": {"kind": "bytes"}, "model": given}
    )
    return Model(folder, TrainedLanguageModel(recipe, models.build(given, vocabulary).eval(), codec))


def child(pipe: Connection, shape: str, mixer: str, rows: int, threads: int) -> None:
    torch.set_num_threads(threads)
    settings = Settings(rows=rows, queue=4 * rows, grace=5)
    with tempfile.TemporaryDirectory() as folder:
        app = create({"model": served(shape, mixer, Path(folder))}, settings)
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        given = uvicorn.Config(app, log_config=None, access_log=False, ws="none", lifespan="on")
        server = Stopping(given, app.state.server.engine, settings.grace)
        pipe.send(listening.getsockname()[1])
        server.run(sockets=[listening])


# ---------------------------------------------------------------- clients


@dataclass
class Heard:
    """What one client saw: seconds to its first unit and between its units; units; how it ended."""

    first: float = 0.0
    gaps: list[float] = field(default_factory=list)
    units: int = 0
    outcome: str = "lost"


async def stream(port: int, tokens: int, seed: int, *, leave: float | None = None, whole: bool = False) -> Heard:
    """One request. leave: seconds after which the client goes away. whole: without streaming."""
    heard, began = Heard(), time.perf_counter()
    body = {"model": "model", "prompt": f"{seed} " + "가" * (seed % 12), "max_tokens": tokens, "min_tokens": tokens}
    body |= {"temperature": 1.0, "seed": seed, "stream": not whole, "return_token_ids": True}
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        async with asyncio.timeout(leave):
            await _listened(reader, heard, began, tokens, whole=whole)
    except TimeoutError:
        heard.outcome = "left"
    finally:
        writer.close()
    return heard


async def _listened(reader: asyncio.StreamReader, heard: Heard, began: float, tokens: int, *, whole: bool) -> None:
    status = int((await reader.readline()).split()[1])
    if status == 429:
        heard.outcome = "refused"
        return
    if whole:
        content = (await reader.read()).partition(b"\r\n\r\n")[2]
        heard.units = json.loads(content)["usage"]["completion_tokens"]
        heard.outcome = "done" if heard.units == tokens else "lost"
        return
    last, ended = began, False
    while line := await reader.readline():
        if line.startswith(b"data: {"):
            choice = json.loads(line[6:])["choices"][0]
            now = time.perf_counter()
            for _ in choice.get("token_ids", ()):
                if heard.units:
                    heard.gaps.append(now - last)
                else:
                    heard.first = now - began
                heard.units, last = heard.units + 1, now
            ended = ended or choice["finish_reason"] is not None
    heard.outcome = "done" if ended and heard.units == tokens else "lost"


def p95(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))] if values else float("nan")


def told(name: str, found: Sequence[Heard], seconds: float) -> float:
    """A line of the table; units a second."""
    gaps = [gap for one in found for gap in one.gaps]
    firsts = [one.first for one in found]
    rate = sum(one.units for one in found) / seconds
    lost = sum(one.outcome != "done" for one in found)
    times = [statistics.median(firsts), p95(firsts), statistics.median(gaps), p95(gaps)]
    print(f"| {name} | {rate:.0f} | " + " | ".join(f"{1000 * t:.1f}" for t in times) + f" | {lost} of {len(found)} |")
    return rate


async def compared(port: int, streams: int, tokens: int, alone: int, rounds: int) -> None:
    await asyncio.gather(*(stream(port, 8, n) for n in range(4)))  # warm up
    print("| | tokens/s | first, median ms | first, p95 ms | between, median ms | between, p95 ms | lost |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    ratios = []
    for turn in range(rounds):
        began = time.perf_counter()
        one_by_one = [await stream(port, tokens, 1000 * turn + n) for n in range(alone)]
        slow = told("one at a time", one_by_one, time.perf_counter() - began)
        began = time.perf_counter()
        together = await asyncio.gather(*(stream(port, tokens, 1000 * turn + 500 + n) for n in range(streams)))
        ratios.append(told(f"{streams} at once", together, time.perf_counter() - began) / slow)
    print(f"\nthroughput: {statistics.median(ratios):.1f} times ({min(ratios):.1f} to {max(ratios):.1f})")


# ---------------------------------------------------------------- the soak


def resident(pid: int) -> float:
    """MiB of a process; NaN where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return float("nan")
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024


def counted(port: int) -> dict[str, float]:
    """The server's own figures."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(jogak_\S+) (\S+)$", text, flags=re.MULTILINE)}


async def soaked(port: int, pid: int, minutes: float, clients: int, seed: int) -> bool:
    """Clients that come, and often leave, for so long; whether memory stayed flat and no slot was stuck."""
    end, outcomes, samples = time.monotonic() + 60 * minutes, dict[str, int](), list[float]()

    async def client(number: int) -> None:
        chance = random.Random(seed * 1000 + number)
        while time.monotonic() < end:
            leave = chance.choice([None, None, 0.0, chance.uniform(0, 0.5), chance.uniform(0, 3)])
            tokens, whole = chance.randint(1, 96), chance.random() < 0.3
            heard = await stream(port, tokens, chance.randrange(10_000), leave=leave, whole=whole)
            outcomes[heard.outcome] = outcomes.get(heard.outcome, 0) + 1
            if chance.random() < 0.1:
                await asyncio.sleep(chance.uniform(0, 1))

    async def watched() -> None:
        while time.monotonic() < end:
            samples.append(resident(pid))
            await asyncio.sleep(1)

    await asyncio.gather(watched(), *(client(number) for number in range(clients)))
    await asyncio.sleep(1)
    figures = await asyncio.to_thread(counted, port)
    written, running, waiting = (
        figures[f'jogak_{name}{{model="model"}}']
        for name in ("output_tokens_total", "running_answers", "waiting_answers")
    )
    stuck = running + waiting
    quarter = max(1, len(samples) // 4)
    early, late = statistics.median(samples[quarter : 2 * quarter]), statistics.median(samples[-quarter:])
    print(f"{minutes:g} minutes, {clients} clients: {sum(outcomes.values())} requests, {outcomes}")
    print(f"units written: {written:.0f}; stuck slots: {stuck:.0f}")
    print(
        f"resident memory, MiB: start {samples[0]:.0f}, second quarter {early:.0f}, last quarter {late:.0f} "
        f"({100 * (late / early - 1):+.1f}%), most {max(samples):.0f}"
    )
    last = await stream(port, 16, 7)
    print(f"a request afterwards: {last.outcome}")
    return not stuck and not outcomes.get("lost") and last.outcome == "done" and late < 1.05 * early


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="gpt2", help="width, depth and vocabulary of the model")
    parser.add_argument("--mixer", default="attention")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--alone", type=int, default=4, help="requests of each turn that come one at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="clients that come and go, for so long")
    parser.add_argument("--clients", type=int, default=32, help="of the soak")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipe, far = context.Pipe()
    server = context.Process(target=child, args=(far, asked.shape, asked.mixer, asked.streams, asked.threads))
    server.start()
    try:
        port = pipe.recv()
        print(f"{circumstances()}; {asked.shape}, {asked.mixer}, float32\n")
        if asked.soak:
            assert server.pid is not None
            fine = asyncio.run(soaked(port, server.pid, asked.soak, asked.clients, asked.seed))
            print("fine" if fine else "NOT FINE")
            raise SystemExit(0 if fine else 1)
        asyncio.run(compared(port, asked.streams, asked.tokens, asked.alone, asked.rounds))
    finally:
        server.terminate()
        server.join(timeout=30)


if __name__ == "__main__":
    main()
