"""What to run: model, plan, workload, seeds. Frozen, validated, JSON and YAML both ways.

Unknown names are errors. Lengths are tokens. A spec says nothing of what was found out at run
time; that goes to `environment.json`.
"""

from __future__ import annotations

from fapool.spec.base import LONGEST
from fapool.spec.model import Model
from fapool.spec.plan import FAPool, Helix, Plan, Rehearsal, Static, check_layout
from fapool.spec.run import Backend, Capture, RunSpec, check_device, parse, read
from fapool.spec.workload import RangeWorkload, TraceWorkload, Workload

__all__ = [
    "LONGEST",
    "Backend",
    "Capture",
    "FAPool",
    "Helix",
    "Model",
    "Plan",
    "RangeWorkload",
    "Rehearsal",
    "RunSpec",
    "Static",
    "TraceWorkload",
    "Workload",
    "check_device",
    "check_layout",
    "parse",
    "read",
]
