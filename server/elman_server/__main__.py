"""The command `python -m elman_server ...`, the same as `elman serve ...`."""

import sys

from elman.cli import main

main(["serve", *sys.argv[1:]])
