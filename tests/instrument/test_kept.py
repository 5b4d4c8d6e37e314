"""What is kept comes out as columns, row by row what went in."""

import pyarrow as pa

from fapool.instrument.kept import Kept
from fapool.phases import EVENTS, STEPS, Role

UNIX = 1_770_000_000_000_000_000


def step(number: int, start: int, end: int) -> tuple:
    return (0, 3, number, Role.POOL, "decode", start, end, 2, 2, 1, 40, "graph events")


def span(phase: str, start: int, end: int, channel="", sequence=-1, num_bytes=0) -> tuple:
    return (phase, 1, -1, channel, sequence, num_bytes), start, end


def test_spans_stand_with_the_step_that_they_were_added_with():
    kept = Kept()
    kept.add(step(4, 0, 10), [span("ffn", 0, 5), span("output", 5, 9)])
    kept.add(step(5, 10, 20), [])
    kept.add(step(6, 20, 30), [span("merge", 21, 22)])
    events, steps = kept.columns(UNIX)
    rows = pa.table(events, schema=EVENTS).to_pylist()
    found = [(row["step"], row["phase"], row["category"], row["rank"]) for row in rows]
    assert found == [
        (4, "ffn", "compute", 3),
        (4, "output", "compute", 3),
        (6, "merge", "compute", 3),
    ]
    assert [row["start_ns"] - UNIX for row in rows] == [0, 5, 21]
    assert pa.table(steps, schema=STEPS)["end_ns"].to_pylist() == [UNIX + t for t in (10, 20, 30)]


def test_a_span_of_several_exchanges_has_a_row_for_each_at_the_same_time():
    kept = Kept()
    spans = [span("send_query", 1, 2, ("0>2", "0>3"), 7, (8, 6)), span("ffn", 2, 5)]
    kept.add(step(4, 0, 10), spans)
    kept.add(step(5, 10, 20), spans[:1])
    events, _ = kept.columns(0)
    rows = list(
        zip(*(events[name] for name in ("step", "channel", "bytes", "start_ns")), strict=True)
    )
    several = [("0>2", 8, 1), ("0>3", 6, 1)]
    assert rows == [(4, *several[0]), (4, *several[1]), (4, "", 0, 2)] + [
        (5, *row) for row in several
    ]
    assert events["sequence"] == [7, 7, -1, 7, 7]
    pa.table(events, schema=EVENTS)


def test_nothing_kept_is_two_empty_tables():
    events, steps = Kept().columns(UNIX)
    assert pa.table(events, schema=EVENTS).num_rows == pa.table(steps, schema=STEPS).num_rows == 0
