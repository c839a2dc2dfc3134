"""`python -m rdbench.cli`: the same as the `rdbench` command."""

from rdbench.cli import main

main()
