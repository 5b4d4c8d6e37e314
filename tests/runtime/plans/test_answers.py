"""What teams pass each other and the base in a prefill, against a merge of everything in fp64."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fapool.deals import Deal
from fapool.runtime.batch import Batch
from fapool.runtime.partial import Partial, empty, merge
from fapool.runtime.plans.answers import Run, answers_to, merge_runs, rows_of, teamwork
from fapool.runtime.plans.shares import share
from fapool.schedule import Segment

CPU = torch.device("cpu")
BLOCK, COLUMNS, HEADS, DIM = 2, 4, 2, 3
TEAMS = [[(0,), (1,), (2,), (3,)], [(0, 1, 2, 3)], [(0, 1), (2, 3)], [(0,), (1, 2, 3)]]
LEASES = [(0, 1, 2, 3), (1, 2), (0, 3), (2,)]
segments = st.lists(
    st.tuples(st.integers(0, 11), st.integers(1, 7), st.sampled_from(LEASES)),
    min_size=1,
    max_size=4,
)


def drawn(rows: int, seed: int) -> Partial:
    made = torch.Generator().manual_seed(seed)
    out = torch.randn(rows, HEADS, DIM, generator=made, dtype=torch.float64)
    return Partial(out, torch.randn(rows, HEADS, generator=made, dtype=torch.float64))


def passed(mine: dict[int, tuple], column: int) -> Partial:
    """What a column answers with, once its team's partials have come."""
    part, plan = mine[column]
    if plan is None:
        return part
    total = Partial(part.out[plan.kept].clone(), part.lse[plan.kept].clone())
    messages = []
    for mate, number in plan.taken:
        theirs, rows = mine[mate][0], dict(mine[mate][1].given)[column]
        messages.append(Partial(theirs.out[rows], theirs.lse[rows]))
        assert len(rows) == number
    merge_runs(total, plan.runs, messages)
    return total


@settings(max_examples=80)
@given(segments, st.sampled_from(TEAMS))
def test_every_row_comes_once_a_team_and_all_of_them_are_attention_over_all_keepers(rows, teams):
    found = tuple(Segment(i, start, n, False) for i, (start, n, _) in enumerate(rows))
    batch = Batch("prefill", found, CPU)
    deals = {i: Deal(columns) for i, (_, _, columns) in enumerate(rows)}
    team_of = {column: team for team in teams for column in team}
    shares = [
        share(batch, c, deals, BLOCK, requests=deals, team=team_of[c]) for c in range(COLUMNS)
    ]
    parts = [drawn(mine.num_asked, c) for c, mine in enumerate(shares)]
    mine = {c: (parts[c], teamwork(shares[c], c)) for c in range(COLUMNS)}
    answers = [passed(mine, column) for column in range(COLUMNS)]
    assert [len(a.out) for a in answers] == [mine.num_answered for mine in shares]

    expected = empty(batch.tokens, HEADS, DIM, dtype=torch.float64, device=CPU)
    for part, asked in zip(parts, shares, strict=True):
        at = asked.asked_rows
        merged = merge([Partial(expected.out[at], expected.lse[at]), part])
        expected.out[at], expected.lse[at] = merged.out, merged.lse
    total = empty(batch.tokens, HEADS, DIM, dtype=torch.float64, device=CPU)
    times = torch.zeros(batch.tokens, dtype=torch.int64)
    for runs in answers_to(shares).values():
        cut = [Run(slice(at.start, at.stop), tuple(here)) for at, here in runs.items()]
        merge_runs(total, cut, answers)
        for run in cut:
            times[run.rows] += len(run.parts)
    torch.testing.assert_close(total.out, expected.out)
    torch.testing.assert_close(total.lse, expected.lse)
    for at, (_, length, columns), segment in zip(batch.starts, rows, found, strict=True):
        having = [c for c in columns if deals[segment.request].tokens(segment.start, BLOCK, c)]
        told = len({team_of[c] for c in having})
        assert times[at : at + length].tolist() == [told] * length


def test_rows_are_shared_out_evenly_among_the_mates_that_have_keys():
    """Ten rows with 4 tokens before, in blocks of 2: of three mates the last has none."""
    batch = Batch("prefill", (Segment(0, 4, 10, False),), CPU)
    deals, team = {0: Deal((0, 1, 2))}, (0, 1, 2)
    shares = [share(batch, c, deals, BLOCK, requests=deals, team=team) for c in team]
    assert [mine.num_answered for mine in shares] == [5, 5, 0]
    assert [mine.num_asked for mine in shares] == [10, 10, 0]


def test_a_rank_alone_in_its_team_passes_nothing():
    batch = Batch("prefill", (Segment(0, 4, 3, False),), CPU)
    deals = {0: Deal((0, 1))}
    assert teamwork(share(batch, 0, deals, BLOCK, requests=deals, team=(0,)), 0) is None
    assert teamwork(share(batch, 0, deals, BLOCK, requests=deals), 0) is None


def test_rows_of_a_partial_are_views():
    part = drawn(4, 0)
    rows_of(part, slice(1, 3)).out.zero_()
    assert not part.out[1:3].any()
    assert part.out[0].all()
