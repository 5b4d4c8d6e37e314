"""Windows, history and frames, against numbers worked out by hand."""

import numpy as np
import pytest

from fapool.phases import Category, Owner
from tests.widgets.fake_ranks import MS, sample
from widgets.feed import RANK_FIELDS, Feed, History, Window, memory_parts


def counters(sequence: int, compute_ms: int, idle_ms: int):
    spent = dict.fromkeys(Category, 0)
    spent |= {Category.COMPUTE: compute_ms * MS, Category.IDLE: idle_ms * MS}
    wall_ns = (compute_ms + idle_ms) * MS
    times = {"wall_ns": wall_ns, "elapsed_ns": wall_ns}
    return sample(0, 1, sequence=sequence, category_ns=spent, **times)


def test_shares_are_a_difference_of_counters():
    window = Window(span_ns=100 * MS)
    window.add(counters(1, 100, 0))
    assert window.shares()[Category.COMPUTE] == 1.0
    window.add(counters(2, 125, 75))
    assert window.shares()[Category.COMPUTE] == pytest.approx(0.25)
    assert sum(window.shares().values()) == pytest.approx(1)


def test_what_lies_before_the_window_does_not_count():
    window = Window(span_ns=100 * MS)
    for sequence, (compute, idle) in enumerate([(500, 0), (500, 100), (500, 200)]):
        window.add(counters(sequence, compute, idle))
    assert window.shares()[Category.IDLE] == 1.0


def test_an_older_sample_is_passed_over():
    window = Window()
    window.add(counters(5, 10, 30))
    window.add(counters(4, 10, 0))
    assert window.shares()[Category.COMPUTE] == pytest.approx(0.25)


def test_no_time_has_no_shares():
    window = Window()
    window.add(counters(1, 0, 0))
    assert set(window.shares().values()) == {0.0}


def test_counters_that_do_not_add_up_are_refused():
    window = Window()
    window.add(sample(0, 1, wall_ns=1))
    with pytest.raises(AssertionError, match="sum"):
        window.shares()


def test_history_keeps_the_whole_run_in_few_points():
    history = History(limit=8)
    for second in range(100):
        history.add(second, 1.0, 0)
    seconds = history.array()[:, 0]
    assert len(seconds) < 8
    assert seconds[0] == 0
    assert seconds[-1] >= 80
    assert len(set(np.diff(seconds))) == 1


def test_the_cache_is_parted_into_used_and_reserved():
    held = {Owner.WEIGHTS: 7, Owner.KV: 10, Owner.KV_USED: 4, Owner.DEVICE: 99}
    assert memory_parts(held) == [7, 4, 6, 0, 0]


def test_a_frame_holds_every_rank_and_point():
    feed = Feed()
    for step in (0, 50, 50):
        feed.add({1: sample(1, step, role="pool"), 0: sample(0, step)})
    frame = np.frombuffer(feed.frame(), np.float32)
    assert list(frame[:2]) == [2, 1]
    ranks = frame[2 : 2 + 2 * len(RANK_FIELDS)].reshape(2, -1)
    assert ranks[:, :5].sum(axis=1) == pytest.approx([1, 1])
    assert ranks[:, RANK_FIELDS.index("weights")].tolist() == [3_000_000, 0]
    assert frame[-3:] == pytest.approx([0.5, feed.tpot_ms, 2])


def test_time_goes_on_in_steps_without_spans():
    feed = Feed()
    for sequence in range(3):
        one = counters(1, 10, 0).model_copy(update={"elapsed_ns": 10 * sequence * MS})
        feed.add({0: one.model_copy(update={"sequence": sequence})})
    assert feed.wall_s == pytest.approx(0.020)
    frame = np.frombuffer(feed.frame(), np.float32)
    assert list(frame[:2]) == [1, 2]
    assert frame[2 + list(RANK_FIELDS).index(Category.COMPUTE)] == 1


def test_progress_is_that_of_the_rank_furthest_behind():
    feed = Feed()
    feed.add({0: sample(0, 9), 1: sample(1, 4)})
    assert feed.progress == ("running", 4, 100)
