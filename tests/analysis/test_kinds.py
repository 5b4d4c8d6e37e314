"""Steps are chosen by kind and by rank; a run is about decoding where it decodes at all."""

import pandas as pd
import pytest

from fapool.analysis.kinds import decode_on_rank_0, of_kind, usual


def steps(*rows):
    return pd.DataFrame(rows, columns=["rank", "kind"])


MIXED = steps((0, "prefill"), (1, "prefill"), (0, "decode"), (1, "decode"))
BRIEF = steps((0, "prefill"), (1, "prefill"))


@pytest.mark.parametrize(
    ("runs", "kind"),
    [
        ([MIXED], "decode"),
        ([BRIEF], "prefill"),
        ([MIXED, MIXED], "decode"),
        ([MIXED, BRIEF], "prefill"),
    ],
)
def test_runs_are_about_the_kind_of_step_that_all_of_them_have(runs, kind):
    assert usual(*runs) == kind


def test_rows_of_a_kind_keep_their_places():
    assert of_kind(MIXED, "prefill").index.tolist() == [0, 1]
    assert of_kind(MIXED, None) is MIXED
    assert decode_on_rank_0(MIXED).index.tolist() == [2]
    assert decode_on_rank_0(BRIEF).empty
