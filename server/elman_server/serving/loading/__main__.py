"""`python -m elman_server.serving.loading FD`: the fork server. Only a server starts it."""

import sys

from elman_server.serving.loading.forkserver import main

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
