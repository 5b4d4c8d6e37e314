"""What base and pool have to do in a prefill, counted from the model's sizes."""

import pytest

from fapool.balance import ATTENTION_COST, LONGEST_TURN
from fapool.deals import BASE
from fapool.spec import FAPool, Model, RunSpec, Workload
from fapool.topology import lent_deal, pool_mesh


def make_spec(base: int, pool: int, context: int, *, output: int = 1, **changes) -> RunSpec:
    return RunSpec(
        model=Model.preset("paper-4l", **changes),
        plan=FAPool(base=base, pool=pool, threshold=4096, base_attends=True),
        workload=Workload(context=context, output=output),
    )


def busy(spec: RunSpec) -> tuple[float, float]:
    """Operations of a base rank and of a pool rank, those of products as a unit of time."""
    model, plan, tokens = spec.model, spec.plan, spec.workload.context
    pattern = lent_deal(spec, range(pool_mesh(model, plan)[1])).pattern
    kept = pattern.count(BASE) / len(pattern)
    weights = model.hidden * model.head_dim * 2 * (model.heads + model.kv_heads)
    weights += 2 * model.hidden * model.ffn
    chunk = spec.prefill_chunk
    pairs = {"chunk": 0, "before": 0}
    for start in range(0, tokens, chunk):
        pairs["chunk"] += chunk * chunk // 2
        pairs["before"] += chunk * start
    each = 4 * model.heads * model.head_dim * ATTENTION_COST
    here = 2 * tokens * weights + each * (pairs["chunk"] + kept * pairs["before"])
    return here / plan.base, each * (1 - kept) * pairs["before"] / plan.pool


@pytest.mark.parametrize(
    ("base", "pool", "context"),
    [(1, 1, 131072), (1, 3, 1 << 20), (2, 2, 131072), (1, 3, 1 << 18), (3, 2, 1 << 19)],
)
@pytest.mark.parametrize("kv_heads", [32, 8])
def test_where_nothing_is_decoded_base_and_pool_end_a_prefill_together(
    base, pool, context, kv_heads
):
    heads = {"heads": 48, "kv_heads": 48, "ffn": 24576} if base == 3 else {"kv_heads": kv_heads}
    here, there = busy(make_spec(base, pool, context, **heads))
    assert here == pytest.approx(there, rel=1 / LONGEST_TURN)


def test_a_base_with_enough_to_do_keeps_nothing():
    spec = make_spec(1, 3, 32768)
    here, there = busy(spec)
    assert here > there
    assert lent_deal(spec, (0, 1, 2)).keepers == (0, 1, 2)


def test_with_two_tokens_of_output_decode_decides():
    assert lent_deal(make_spec(1, 3, 131072, output=2), (0, 1, 2)).pattern == (BASE, 0, 1, 2)
