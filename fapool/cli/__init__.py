"""The command line: plain functions that print; `main` names them as commands."""
