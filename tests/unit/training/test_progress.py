import io

import pytest
from rich.console import Console

from jogak.training import progress
from jogak.training.progress import Display, Figures, clock


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (187, "3:07"), (3787, "1:03:07")])
def test_clock(seconds, shown):
    assert clock(seconds) == shown


def shown_by(monkeypatch, *, terminal):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with Display(200, Console(file=out, force_terminal=terminal, width=120, highlight=False)) as display:
        display.figures(Figures(4.3123, 9870.4, 0.41, "float32"))
        for step in range(1, 101):
            now[0] += 0.25
            display.step(step, step / 200, 190.0)
        display.validation(100, {"loss": 2.34567, "chrf": 51.234}, best=True)
    return out.getvalue()


def test_plain_lines_come_every_few_seconds(monkeypatch):
    lines = shown_by(monkeypatch, terminal=False).splitlines()
    assert lines == [
        "step 40/200  loss 4.312  9,870 tokens/s  41% of float32 peak  3:10 left",
        "step 80/200  loss 4.312  9,870 tokens/s  41% of float32 peak  3:10 left",
        "validation at step 100: loss 2.346  chrf 51.23  (best so far)",
    ]


def test_a_terminal_gets_a_live_line(monkeypatch):
    text = shown_by(monkeypatch, terminal=True)
    assert "step 100/200" in text
    assert "41% of float32 peak" in text
    assert "validation at step 100" in text


def test_other_processes_are_silent():
    with Display.standard(10, speaks=False) as display:
        display.step(1, 0.1, None)
        display.notice("nobody hears this")
