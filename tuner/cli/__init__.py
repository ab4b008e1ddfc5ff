"""The command line: ``tuner``, and the same as ``python -m tuner``."""

from tuner.cli.main import main

__all__ = ["main"]
