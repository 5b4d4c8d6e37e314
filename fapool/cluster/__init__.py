"""Warm ranks on ipyparallel engines: start them, send a spec, stream samples, stop, collect.

Never imports torch: what needs it happens in the ranks' own processes.
"""

from fapool.cluster.execution import Execution
from fapool.cluster.patience import Patience
from fapool.cluster.ranks import Ranks, check_number

__all__ = ["Execution", "Patience", "Ranks", "check_number"]
