import math
from itertools import pairwise

import pytest

from jogak import config
from jogak.training.schedule import Schedule, progress


def rates(kind, steps, warmup, final=0.0, peak=2.0):
    train = config.Train(schedule=kind, steps=steps, warmup=warmup, final_rate=final, rate=peak)
    schedule = Schedule.of(train)
    return [schedule.rate(n, progress(train, n - 1, 0.0), warmup / steps) for n in range(1, steps + 1)]


@pytest.mark.parametrize("kind", ["inverse_sqrt", "cosine", "linear", "constant"])
def test_warm_up_rises_by_equal_steps_to_the_peak(kind):
    found = rates(kind, 100, 10)
    assert found[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert max(found) == pytest.approx(2.0)


def test_inverse_square_root_is_the_papers_shape():
    found = rates("inverse_sqrt", 500, 40)
    # 1706.03762 eq. 3: D^-0.5 min(n^-0.5, n W^-1.5); scaled to the peak that we are given.
    papers = [min(n**-0.5, n * 40**-1.5) for n in range(1, 501)]
    assert found == pytest.approx([2.0 * p / max(papers) for p in papers])


def test_linear_and_cosine_end_at_the_final_fraction():
    linear, cosine = rates("linear", 1000, 0, 0.1), rates("cosine", 1000, 0, 0.1)
    assert linear[0] == cosine[0] == 2.0
    assert linear[500] == pytest.approx(cosine[500]) == pytest.approx(1.1)
    assert linear[-1] == pytest.approx(0.2, abs=2e-3)
    assert cosine[-1] == pytest.approx(0.2, abs=2e-5)
    assert cosine[250] == pytest.approx(0.2 + 1.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert all(a > b for a, b in pairwise(linear))


def test_time_takes_over_where_it_is_further_than_the_steps():
    train = config.Train(steps=100, minutes=2, warmup=0, schedule="linear", rate=1.0)
    assert progress(train, 10, 30.0) == pytest.approx(0.25)
    assert progress(train, 90, 30.0) == pytest.approx(0.9)
    assert Schedule.of(train).rate(11, progress(train, 10, 30.0), 0.0) == pytest.approx(0.75)


def test_a_run_that_is_all_warm_up_is_allowed():
    assert rates("cosine", 4, 4) == pytest.approx([0.5, 1.0, 1.5, 2.0])
