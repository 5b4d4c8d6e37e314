"""Plans by kind and role: adding a plan is adding a file and a line here."""

from __future__ import annotations

from collections.abc import Sequence

from fapool.phases import Role
from fapool.runtime.plans.base import Plan
from fapool.runtime.plans.fapool_base import FAPoolBase
from fapool.runtime.plans.fapool_pool import FAPoolPool
from fapool.runtime.plans.helix import HelixPlan
from fapool.runtime.plans.static import StaticPlan
from fapool.runtime.seat import Seat
from fapool.spec import RunSpec
from fapool.workload import Request

PLANS = {
    ("static", Role.BASE): StaticPlan,
    ("helix", Role.BASE): HelixPlan,
    ("fapool", Role.BASE): FAPoolBase,
    ("fapool", Role.POOL): FAPoolPool,
}


def make(
    seat: Seat, spec: RunSpec, requests: Sequence[Request], *, keep_logits: bool = False
) -> Plan:
    """A rank's part in `spec`'s plan for these requests, with an empty cache."""
    return PLANS[spec.plan.kind, seat.place.role](seat, spec, requests, keep_logits=keep_logits)
