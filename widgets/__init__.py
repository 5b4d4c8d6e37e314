"""Panels of the workbench: live pictures and controls for JupyterLab."""

from widgets.live import Live
from widgets.workbench import Workbench

__all__ = ["Live", "Workbench"]
