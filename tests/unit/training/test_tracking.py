import builtins

import pytest

from jogak.training.tracking import Events


def test_events_are_written_and_what_a_killed_run_wrote_beyond_is_hidden(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for after, values in ((0, range(1, 7)), (4, range(5, 9))):
        events = Events(tmp_path, after, pytest.fail)
        for step in values:
            events.scalars(step, "train", {"loss": 10.0 * after + step})
        events.close()
    found = EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [(e.step, e.value) for e in found] == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 45), (6, 46), (7, 47), (8, 48)]


def test_without_tensorboard_one_notice_says_how_to_get_it(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    told = []
    events = Events(tmp_path, 0, told.append)
    events.scalars(1, "train", {"loss": 1.0})
    events.close()
    assert len(told) == 1
    assert "pip install 'jogak[track]'" in told[0]
