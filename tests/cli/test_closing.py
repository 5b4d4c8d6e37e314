"""What a headless rank does with the folder of a run that failed."""

import signal

from fapool.cli import closing
from fapool.cli.closing import Closing
from fapool.store import Store
from tests.synthetic import small_spec


def test_a_folder_that_another_has_closed_is_left_as_it_is(profiles, monkeypatch):
    monkeypatch.setattr(closing, "NOTES_S", 0.0)
    store = Store(profiles)
    folder, before = store.create(small_spec()), signal.getsignal(signal.SIGTERM)
    watch = Closing(type(folder)(folder.path), 0, 1)
    folder.fail(rank=1, reason="was killed")
    watch.fail("lost a peer")
    watch.done()
    (run,) = store.runs()
    assert (run.status.rank, run.status.reason) == (1, "was killed")
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_failed_run_is_closed_once_in_the_words_of_who_came_first(profiles, monkeypatch):
    monkeypatch.setattr(closing, "NOTES_S", 0.0)
    folder = Store(profiles).create(small_spec())
    watch = Closing(folder, 0, 1)
    watch.fail("RuntimeError: first")
    watch.fail("SystemExit: later")
    watch.done()
    (run,) = Store(profiles).runs()
    assert (run.status.state, run.status.reason) == ("failed", "RuntimeError: first")
