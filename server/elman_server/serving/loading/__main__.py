"""`python -m elman_server.serving.loading FD`: what a server starts, and nobody else."""

import sys

from elman_server.serving.loading.forkserver import main

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
