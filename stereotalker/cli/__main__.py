"""Entry point of `python -m stereotalker.cli`."""

from stereotalker.cli.main import main

main()
