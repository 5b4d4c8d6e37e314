"""Keys by request and by rank, at their peaks."""

import pandas as pd
import pytest

from fapool.analysis import kv
from fapool.analysis.load import Tables, load
from fapool.phases import KV
from tests.synthetic import write_run


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Tables:
    return load(write_run(tmp_path_factory.mktemp("profiles")))


def test_a_request_has_one_row_on_each_rank_that_held_its_keys(tables):
    found = kv.per_request(tables)
    assert found[["repeat", "rank", "request"]].to_numpy().tolist() == [
        [repeat, rank, request] for repeat in (0, 1) for rank in (2, 3) for request in (0, 1)
    ]
    assert set(found["role"]) == {"pool"}
    # 96 + 3 tokens in blocks of 32: the fourth has three
    assert found[["blocks", "tokens", "last_tokens"]].drop_duplicates().to_numpy().tolist() == [
        [4, 99, 3]
    ]
    assert found["fill"].tolist() == [99 / 128] * 8


def test_the_highest_row_of_a_request_is_its_peak_and_the_first_of_equals(tables):
    columns = {"repeat": 0, "rank": 0, "request": 5, "step": [4, 2, 9], "tokens": [8, 8, 3]}
    rows = pd.DataFrame(columns).assign(blocks=1, last_tokens=0, bytes=0)[KV.names]
    (found,) = kv.per_request(Tables(**(vars(tables) | {"kv": rows}))).to_dict("records")
    assert (found["step"], found["tokens"]) == (2, 8)


def test_a_rank_is_told_at_the_step_in_which_it_held_most(tables):
    found = kv.per_rank(tables)
    assert found["rank"].tolist() == [2, 3]
    assert (
        found[["step", "requests", "blocks", "tokens", "bytes"]].to_numpy().tolist()
        == [[3, 2, 8, 198, 198_000]] * 2
    )
