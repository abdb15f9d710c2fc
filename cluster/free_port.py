"""Print a free port of this machine for a job's Ray head: python cluster/free_port.py JOB_ID.

Ports 20000 to 31999 lie below those that systems hand out by themselves. Each job looks in a block
of its own of a hundred; jobs 120 apart share one, and there the first free port tells them apart.
"""

import socket
import sys

FIRST, BLOCK, BLOCKS = 20000, 100, 120


def free_port(job: int) -> int:
    """Return the first free port of the job's block."""
    start = FIRST + job % BLOCKS * BLOCK
    for port in range(start, start + BLOCK):
        with socket.socket() as tried:
            try:
                tried.bind(("", port))
            except OSError:
                continue
            return port
    sys.exit(f"error: ports {start} to {start + BLOCK - 1} of {socket.gethostname()} are all taken")


if __name__ == "__main__":
    print(free_port(int(sys.argv[1])))
