"""`python -m fapool`."""

from fapool.cli.main import main

main()
