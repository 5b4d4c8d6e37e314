"""What base and pool have to do in a prefill, counted from the model's sizes."""

import pytest

from fapool.balance import ATTENTION_COST, TOKEN_COST
from fapool.deals import BASE
from fapool.pieces import piece_rows
from fapool.spec import FAPool, Model, RunSpec, Workload
from fapool.topology import lent_deal, pool_mesh


def make_spec(base: int, pool: int, context: int, *, output: int = 1, **changes) -> RunSpec:
    return RunSpec(
        model=Model.preset("paper-4l", **changes),
        plan=FAPool(base=base, pool=pool, threshold=4096, base_attends=True),
        workload=Workload(context=context, output=output),
    )


def work(spec: RunSpec, kept: list[bool]) -> list[tuple[float, float]]:
    """Operations of a base rank and of a pool rank for each piece, those of products as unit.

    `kept`: of each block, whether it is the base's.
    """
    model, plan, rows = spec.model, spec.plan, piece_rows(spec)
    weights = model.hidden * model.head_dim * 2 * (model.heads + model.kv_heads)
    weights += 2 * model.hidden * model.ffn
    pair = 4 * model.heads * model.head_dim * ATTENTION_COST
    found = []
    for start in range(0, spec.workload.context, rows):
        here = sum(kept[: start // spec.block]) * spec.block
        own = TOKEN_COST * 2 * rows * weights + pair * rows * (rows / 2 + here)
        found.append((own / plan.base, pair * rows * (start - here) / plan.pool))
    return found


def dealt(spec: RunSpec) -> list[bool]:
    """Of each block of a request, whether it is the base's."""
    deal = lent_deal(spec, range(pool_mesh(spec.model, spec.plan)[1]))
    return [deal.owner(block) == BASE for block in range(spec.workload.context // spec.block)]


def took(pieces: list[tuple[float, float]]) -> float:
    """With base and pool at work on one piece at a time, each step as long as the slower."""
    return sum(map(max, pieces))


@pytest.mark.parametrize(
    ("base", "pool", "context"),
    [(1, 1, 131072), (1, 3, 1 << 19), (2, 2, 131072), (1, 3, 1 << 18), (3, 2, 1 << 18)],
)
@pytest.mark.parametrize("kv_heads", [32, 8])
def test_where_nothing_is_decoded_base_and_pool_are_busy_from_the_opening_to_the_end(
    base, pool, context, kv_heads
):
    heads = {"heads": 48, "kv_heads": 48, "ffn": 24576} if base == 3 else {"kv_heads": kv_heads}
    spec = make_spec(base, pool, context, **heads)
    kept = dealt(spec)
    opening = kept.index(True) * spec.block // piece_rows(spec)
    pieces = work(spec, kept)
    assert all(here >= there for here, there in pieces[: opening - 1])
    for here, there in pieces[opening + 2 :]:
        assert here == pytest.approx(there, rel=0.05)


def test_no_share_that_is_the_same_for_all_blocks_is_as_fast():
    spec = make_spec(1, 1, 131072)
    found = took(work(spec, dealt(spec)))
    number = spec.workload.context // spec.block
    even = [
        [int((b + 1) * share / 64) > int(b * share / 64) for b in range(number)]
        for share in range(64)
    ]
    assert found < 0.95 * min(took(work(spec, kept)) for kept in even)


def test_a_base_with_enough_to_do_keeps_nothing():
    spec = make_spec(1, 3, 32768)
    assert not any(dealt(spec))
    assert all(here > there for here, there in work(spec, dealt(spec)))


def test_with_two_tokens_of_output_decode_decides():
    assert lent_deal(make_spec(1, 3, 131072, output=2), (0, 1, 2)).pattern == (BASE, 0, 1, 2)
