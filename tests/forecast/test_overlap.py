"""In how many parts a step is done, against what each part would take."""

import pytest

from fapool.forecast.overlap import Halving
from fapool.spec import FAPool, RunSpec, Workload

BANDWIDTH = 4.45e12  # bytes/s


def make_spec(overlap="auto", *, base=1, pool=3, batch=64, model="paper-4l", **plan):
    return RunSpec(
        model=model,
        plan=FAPool(base=base, pool=pool, threshold=2048, overlap=overlap, **plan),
        workload=Workload(batch=batch, context=16384, output=64),
    )


def parts(spec: RunSpec, rows: int, lent_tokens: int) -> int:
    return Halving(spec).parts(rows, lent_tokens)


WEIGHTS = 4 * (4 * 4096**2 + 2 * 4096 * 16384) * 2  # bytes of the paper's four layers
TOKEN = 65536  # and of one token's keys and values in them


def test_a_decode_step_is_halved_where_the_pool_reads_longer_than_the_base_reads_weights_twice():
    """Whole: weights and keys one after the other. In halves: the keys, and a layer's weights."""
    few, many = round(WEIGHTS / (TOKEN / 3)), round(2.5 * WEIGHTS / (TOKEN / 3))
    assert parts(make_spec(), 64, few) == 1
    assert parts(make_spec(), 64, many) == 2
    assert parts(make_spec(pool=1), 64, few // 3) == 1
    assert parts(make_spec(pool=1), 64, many // 3) == 2


def test_a_base_that_attends_as_long_as_its_pool_is_not_made_to_read_its_weights_twice():
    # Two ranks: either way both read half of all that there is, and the weights twice in halves.
    joint = make_spec(pool=1, base_attends=True)
    assert parts(joint, 64, 64 * 4096) == parts(joint, 64, 64 * 16384) == 1


def test_columns_that_attend_for_whole_requests_read_one_at_least():
    """Two requests on three columns: one of these reads half of all keys, not a third."""
    tokens = round(1.3 * WEIGHTS / (TOKEN / 2))
    assert parts(make_spec(kv="shared"), 2, tokens) == 2
    assert parts(make_spec(), 2, tokens) == 1
    assert parts(make_spec(kv="shared"), 64, tokens) == 1


@pytest.mark.parametrize("overlap", ["auto", "always"])
def test_what_nobody_waits_for_is_not_cut(overlap):
    assert parts(make_spec(overlap), 1, 10**9) == 1
    assert parts(make_spec(overlap), 64, 0) == 1


def test_the_user_has_the_last_word():
    assert parts(make_spec("never"), 64, 10**9) == 1
    assert parts(make_spec("always"), 64, 1) == 2
