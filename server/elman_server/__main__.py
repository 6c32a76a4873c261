"""`python -m elman_server ...` is `elman serve ...`."""

import sys

from elman.cli import main

main(["serve", *sys.argv[1:]])
