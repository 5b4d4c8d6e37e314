"""What the panels read of a run."""

from tests.synthetic import write_run
from widgets.reading import result


def test_a_run_of_sampled_steps_says_what_sampling_took(tmp_path):
    headline, figures = result(write_run(tmp_path, sample_every=2))
    assert "1 in 2 decode steps sampled; median of sampled steps " in headline
    assert len(figures) == 3
    assert "decode steps sampled" not in result(write_run(tmp_path))[0]


def test_a_run_without_spans_and_memory_has_a_headline_and_no_figure(tmp_path):
    headline, figures = result(write_run(tmp_path, spans=False, memory=False))
    assert "no spans were recorded" in headline
    assert figures == []
