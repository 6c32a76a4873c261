"""`python -m elman_server.workers FD` is what the supervisor starts; of no use to anybody else."""

import sys

from elman_server.workers.child import main

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
