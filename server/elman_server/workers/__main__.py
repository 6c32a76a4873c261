"""`python -m elman_server.workers FD`: a worker process. Only the supervisor starts it."""

import sys

from elman_server.workers.child import main

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
