"""A breakdown's heads: each part has one, and none is too wide for a terminal of 80 columns."""

from fapool.analysis.breakdown import PARTS
from fapool.cli.tables import add_parts, titled


def test_every_part_has_a_head_that_leaves_room_for_the_others():
    table = titled("a step")
    add_parts(table, PARTS)
    heads = [str(column.header) for column in table.columns]
    assert [head.replace("-\n", "") + "_ns" for head in heads[:-1]] == list(PARTS)
    assert heads[-1] == "= wall"
    assert max(len(line) for head in heads for line in head.split("\n")) <= 8
