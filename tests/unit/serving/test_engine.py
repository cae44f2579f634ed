"""The engine alone: what runs in its thread, and what becomes of failures there."""

import asyncio
import time
from contextlib import contextmanager

import pytest

from jogak.decoding.settings import Sampling
from jogak.errors import UserError
from jogak.serving.engine import Broken, Busy, Closed, Engine, Inbox, TimedOut
from jogak.serving.metrics import Meter
from tests.unit.decoding.writers import codec, writer

PROMPT = [codec().bos_id, *codec().encode("저장")]


@contextmanager
def engine(queue=4, rows=2, count=1):
    """A running engine and its lanes."""
    made = Engine(queue=queue, meter=Meter())
    lanes = [made.lane(f"m{n}", writer(), rows=rows, chunk=64) for n in range(count)]
    made.start()
    try:
        yield made, *lanes
    finally:
        made.stop()


async def text_of(inbox, answers=1):
    return [piece async for events in inbox.events(answers) for _, piece in events]


def asked(lane, **settings):
    return lane.batcher.prepare(PROMPT, Sampling(**{"max_new_tokens": 6, **settings}))


def slow(lane, seconds=0.02):
    step = lane.batcher.step

    def slower():
        time.sleep(seconds)
        return step()

    lane.batcher.step = slower


def test_what_is_asked_comes_as_it_comes_alone():
    with engine() as (made, lane):
        expected = [a.ids for a in writer().generate([PROMPT], max_new_tokens=6)[0]]

        async def main():
            boxes = [Inbox() for _ in range(5)]
            for box in boxes:
                made.submit(lane, [asked(lane)], box, 10)
            return [await text_of(box) for box in boxes]

        for pieces in asyncio.run(main()):
            assert [tuple(n for piece in pieces for n in piece.ids)] == expected
        assert (made.load, lane.batcher.running, lane.tickets) == (0, 0, {})


def test_the_queue_is_bounded():
    with engine(queue=1, rows=2) as (made, lane):
        slow(lane)

        async def main():
            boxes = [Inbox() for _ in range(3)]
            for box in boxes:
                made.submit(lane, [asked(lane, max_new_tokens=20)], box, 10)
            with pytest.raises(Busy) as caught:
                made.submit(lane, [asked(lane)], Inbox(), 10)
            assert 1 <= caught.value.retry <= 60
            with pytest.raises(UserError, match="asks for 4 answers, and 3 is all"):
                made.submit(lane, [asked(lane)] * 4, Inbox(), 10)
            assert all([len(await text_of(box)) > 0 for box in boxes])
            made.submit(lane, [asked(lane)], again := Inbox(), 10)
            await text_of(again)

        asyncio.run(main())


def test_a_request_that_takes_too_long_is_let_go():
    with engine() as (made, lane):
        slow(lane)

        async def main():
            made.submit(lane, [asked(lane, max_new_tokens=4000)], box := Inbox(), 0.2)
            with pytest.raises(TimedOut):
                await text_of(box)

        asyncio.run(main())
        assert (made.load, lane.batcher.running) == (0, 0)


def test_what_fails_in_one_batch_fails_there_alone(caplog):
    with engine(count=2) as (made, bad, good):
        slow(good)

        async def main():
            made.submit(good, [asked(good, max_new_tokens=40)], fine := Inbox(), 10)

            def fails():
                raise RuntimeError("sec" + "ret prompt")

            bad.batcher.step = fails
            made.submit(bad, [asked(bad)], box := Inbox(), 10)
            with pytest.raises(Broken, match="RuntimeError"):
                await text_of(box)
            await text_of(fine)
            made.submit(bad, [asked(bad)], again := Inbox(), 10)  # its batch was made anew
            return await text_of(again)

        assert asyncio.run(main())[-1].reason is not None
        assert "fails" in caplog.text
        assert "secret" not in caplog.text


def test_jobs_run_between_the_steps():
    with engine() as (made, lane):
        slow(lane)

        async def main():
            made.submit(lane, [asked(lane, max_new_tokens=200)], box := Inbox(), 20)
            assert await made.call(lambda: 7, 10) == 7
            with pytest.raises(UserError, match="mine"):
                await made.call(lambda: (_ for _ in ()).throw(UserError("mine")), 10)
            with pytest.raises(Broken, match="ZeroDivisionError"):
                await made.call(lambda: 1 // 0, 10)
            with pytest.raises(TimedOut):
                await made.call(lambda: 7, -1)
            assert lane.batcher.running == 1
            box.leave()

        asyncio.run(main())


def test_it_ends_by_refusing_what_is_left():
    with engine() as (made, lane):
        slow(lane)

        async def main():
            made.submit(lane, [asked(lane, max_new_tokens=4000)], box := Inbox(), 60)
            await asyncio.sleep(0.1)
            made.drain()
            with pytest.raises(Closed):
                made.submit(lane, [asked(lane)], Inbox(), 10)
            await asyncio.to_thread(made.stop)
            with pytest.raises(Closed, match="stops"):
                await text_of(box)

        asyncio.run(main())
        assert not made.ready
        assert made.load == 0


def test_a_constraint_that_cannot_be_followed_fails_alone():
    """The rules of one answer never stop the others in its batch."""
    with engine() as (made, lane):

        async def main():
            given = asked(lane, max_new_tokens=8, regex="[a-z]{4}")

            def broken(answer):
                raise UserError("this went wrong")

            given.constraint.allowed = broken
            made.submit(lane, [given], bad := Inbox(), 10)
            made.submit(lane, [asked(lane)], good := Inbox(), 10)
            return await text_of(bad), await text_of(good)

        bad, good = asyncio.run(main())
        assert bad[-1].error is not None
        assert good[-1].error is None
        assert sum(len(piece.ids) for piece in good) == 6
