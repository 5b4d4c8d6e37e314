"""Pieces are disjoint, and are what the breakdown counts, whatever spans there are."""

import numpy as np
import pytest

from fapool.analysis import exchanges, intervals
from fapool.analysis.breakdown import ORDER, PARTS, breakdown
from fapool.analysis.lanes import GAP, lanes
from tests.analysis.programs import soup


@pytest.mark.parametrize("seed", range(100, 110))
def test_pieces_sum_to_the_parts_of_every_step(seed):
    tables = soup(seed)
    pieces = lanes(tables.events, exchanges.match(tables.events).arrival_ns)
    parted = breakdown(tables).steps.set_index(["repeat", "rank", "step"])
    for (repeat, rank), lane in pieces.items():
        assert (lane.times[1:, 0] >= lane.times[:-1, 1]).all()
        assert (lane.times[:, 1] > lane.times[:, 0]).all()
        for step in tables.steps[tables.steps["rank"] == rank].itertuples():
            window = np.array([[step.start_ns, step.end_ns]])
            _, piece, both = intervals.overlaps(window, lane.times)
            sums = np.bincount(lane.code[piece], both[:, 1] - both[:, 0], minlength=len(ORDER))
            assert sums[GAP] == 0
            assert (
                sums[:GAP].tolist() == parted.loc[(repeat, rank, step.step), PARTS[:GAP]].tolist()
            )
