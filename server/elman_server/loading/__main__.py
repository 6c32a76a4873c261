"""`python -m elman_server.loading FD` is what a server starts; of no use to anybody else."""

import sys

from elman_server.loading.forkserver import main

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
