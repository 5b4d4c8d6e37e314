"""The workbench by its methods, with ranks that are not there."""

import re
import time

import pytest

from fapool.errors import FapoolError, RankFailed, SpecError, StoreError
from fapool.spec import FAPool, Static
from fapool.store import Store
from tests.synthetic import small_spec, write_run
from tests.widgets.fake_ranks import FakeRanks
from widgets import Workbench

DEADLINE_S = 30


def test_an_unknown_keyword_is_refused():
    with pytest.raises(TypeError):
        Workbench(rank=4)


def test_run_returns_at_once_and_leaves_a_run(workbench, ranks):
    ranks.pace_s = 0.05
    began = time.monotonic()
    workbench.run()
    assert time.monotonic() - began < 0.5
    assert workbench.run_button.disabled
    run = workbench.wait(DEADLINE_S)
    assert run.status.state == "finished"
    assert run.spec.plan == FAPool(base=1, pool=3, threshold=64)
    assert not workbench.run_button.disabled
    assert re.search(rf"finished in \d+ s: {run.name}", workbench.progress.text.value)
    assert len(workbench.shelf.result.children) == 2


def test_live_bars_move_while_the_run_goes_on(workbench, ranks):
    ranks.pace_s = 0.05
    frames = []
    workbench.live.observe(lambda change: frames.append(change["new"]), "frame")
    workbench.run()
    workbench.wait(DEADLINE_S)
    assert len(set(frames)) > 5
    assert [rank["role"] for rank in workbench.live.ranks] == ["base", "pool", "pool", "pool"]


def test_run_starts_ranks_where_there_are_none(profiles):
    started = []

    def start(n, *, on_progress):
        started.append(n)
        return FakeRanks.start(n, on_progress=on_progress)

    workbench = Workbench(store=profiles, num_ranks=2, ranks_factory=start)
    workbench.set(model="tiny", context=128, output=4)
    workbench.run()
    workbench.wait(DEADLINE_S)
    workbench.run(small_spec(plan=Static(tp=2)))
    assert workbench.wait(DEADLINE_S).spec.plan == Static(tp=2)
    assert started == [2]


def test_sizes_for_another_device_are_not_run_unseen(profiles):
    def start(n, *, on_progress):
        ranks = FakeRanks(n)
        ranks.device = "cuda:0"
        return ranks

    workbench = Workbench(store=profiles, ranks_factory=start)
    workbench.run()
    with pytest.raises(FapoolError, match="other sizes"):
        workbench.wait(DEADLINE_S)
    assert not Store(profiles).runs()
    assert workbench.spec().model.name == "paper-4l"


def test_new_ranks_take_the_place_of_the_old(workbench, ranks):
    workbench.crew._factory = FakeRanks.start
    workbench.start_ranks(2)
    workbench.wait(DEADLINE_S)
    assert ranks.closed
    assert workbench.controls.plan.pool.max == 1
    assert "2 warm" in workbench.crew.about.value


def test_the_ranks_slider_moves_the_limits_before_anything_starts(profiles):
    workbench = Workbench(store=profiles, ranks_factory=FakeRanks.start)
    workbench.crew.number.value = 8
    assert workbench.controls.plan.pool.max == 7


def test_stop_ends_the_run_early(workbench, ranks):
    ranks.pace_s, ranks.steps = 0.05, 10_000
    workbench.run()
    time.sleep(0.3)
    workbench.stop_button.click()
    workbench.wait(DEADLINE_S)
    with pytest.raises(FapoolError, match="nothing to stop"):
        workbench.stop()


def test_a_second_run_waits_for_the_first_to_end(workbench, ranks):
    ranks.pace_s = 0.05
    workbench.run()
    with pytest.raises(FapoolError, match="under way"):
        workbench.run()
    workbench.wait(DEADLINE_S)


def test_a_mistake_is_shown_and_nothing_starts(workbench, profiles):
    workbench.set(workload="From a trace", path="/nowhere.csv")
    workbench.run_button.click()
    with pytest.raises(SpecError):
        workbench.wait(DEADLINE_S)
    assert "nowhere.csv" in workbench.trouble.value
    assert not Store(profiles).runs()


def test_a_lost_rank_is_named_and_the_next_run_works(workbench, ranks):
    ranks.fail = True
    workbench.run()
    with pytest.raises(RankFailed):
        workbench.wait(DEADLINE_S)
    assert "rank 1 was killed by SIGKILL" in workbench.trouble.value
    assert "last words of rank 1" in workbench.trouble.value
    assert not workbench.run_button.disabled
    ranks.fail = False
    workbench.run_button.click()
    assert workbench.wait(DEADLINE_S).status.state == "finished"
    assert workbench.trouble.value == ""


def test_a_store_that_cannot_be_read_does_not_hide_why_a_run_failed(workbench, ranks, monkeypatch):
    ranks.fail = True
    monkeypatch.setattr(workbench.shelf, "refresh", lambda: 1 / 0)
    workbench.run()
    with pytest.raises(RankFailed):
        workbench.wait(DEADLINE_S)
    assert "ZeroDivisionError" in workbench.shelf.trouble.value


def test_runs_are_compared_by_name(workbench, profiles):
    first = write_run(profiles, small_spec())
    second = write_run(profiles, small_spec(plan=Static(tp=4)))
    panel = workbench.compare([first.name, second.name])
    assert workbench.shelf.table.selected == [second.name, first.name]
    assert workbench.shelf.tabs.selected_index == 1
    table, picture = panel.children[0].children
    assert "FAPool(2,2)" in table.value
    assert "Static(4,1)" in table.value
    assert bytes(picture.value[:4]) == b"\x89PNG"


def test_one_run_is_nothing_to_compare(workbench, profiles):
    write_run(profiles)
    assert "two or more" in workbench.compare().children[0].value


def test_a_run_that_was_not_correct_is_not_compared(workbench, profiles):
    names = [write_run(profiles, passed=False).name, write_run(profiles).name]
    with pytest.raises(StoreError, match="not correct"):
        workbench.compare(names)
    workbench.shelf.table.selected = names
    workbench.shelf.compare_button.click()
    assert "not correct" in workbench.shelf.trouble.value


def test_the_table_shows_every_run_even_a_broken_one(workbench, profiles):
    good, broken = write_run(profiles), write_run(profiles)
    (broken.path / "spec.json").write_text("{")
    failed = Store(profiles).create(small_spec()).fail(rank=1, reason="was killed")
    workbench.shelf.refresh()
    cells = {row["key"]: row["cells"] for row in workbench.shelf.table.rows}
    assert cells[good.name][4] == "finished"
    assert cells[failed.name][4] == "failed"
    assert cells[broken.name][4].startswith("unreadable")


def test_a_run_without_its_spec_is_no_end_of_the_table(workbench, profiles):
    run = write_run(profiles)
    (run.path / "spec.json").unlink()
    workbench.shelf.refresh()
    assert workbench.shelf.table.rows[0]["cells"][4].startswith("unreadable")


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_no_number_of_ranks_is_refused_and_those_at_hand_stay(workbench, ranks, n):
    with pytest.raises(SpecError, match="ranks = "):
        workbench.start_ranks(n)
    assert not ranks.closed


def test_a_run_that_measured_nothing_says_so(workbench, profiles):
    run = Store(profiles).create(small_spec()).fail(rank=0, reason="was killed")
    assert "failed" in workbench.breakdown(run.name).children[0].value


def test_a_breakdown_of_no_run_says_so(workbench, profiles):
    assert "press Run" in workbench.breakdown().children[0].value
    run = write_run(profiles)
    assert run.name in workbench.breakdown().children[0].value
