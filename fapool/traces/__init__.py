"""Read the traces that torch.profiler writes: any Chrome trace JSON in, small tables out."""

from fapool.traces.folder import Reading, TraceFolder, read_folder
from fapool.traces.reading import read
from fapool.traces.schema import SCHEMAS, Trace
from fapool.traces.shifts import shifts

__all__ = ["SCHEMAS", "Reading", "Trace", "TraceFolder", "read", "read_folder", "shifts"]
