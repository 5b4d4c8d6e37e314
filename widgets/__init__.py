"""Panels of the workbench: live pictures and controls for JupyterLab."""
