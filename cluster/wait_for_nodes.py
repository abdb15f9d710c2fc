"""Wait until a Ray cluster has so many nodes: python cluster/wait_for_nodes.py 8.

The cluster is the one at RAY_ADDRESS. Ends with 0 when they are there. After 10 minutes (HLVNN_WAIT
seconds) it makes do with the nodes that are there, and says so; with 1 and a message where nothing
answers by then, or as soon as the process --while PID, which runs the head, has ended. A node whose
process --joining PID has ended is not waited for.
"""

import argparse
import logging
import math
import os
import socket
import sys
import time


def main() -> None:
    """Wait; leave with the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nodes", type=int)
    parser.add_argument("--while", type=int, nargs="+", default=[], dest="starters")
    parser.add_argument("--joining", type=int, nargs="+", default=[])
    args = parser.parse_args()
    address = os.environ["RAY_ADDRESS"]
    until = time.monotonic() + float(os.environ.get("HLVNN_WAIT", "600"))
    while not listens(address):
        check(args.starters, until, f"{address} does not answer")
    if args.nodes == 1:
        return
    import ray  # takes seconds, which the head's start needs as well

    while not ray.is_initialized():
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:  # a head on a busy machine listens before it answers
            check(args.starters, until, f"{address} lets nobody in ({error})")
    while (alive := sum(node["Alive"] for node in ray.nodes())) < args.nodes:
        given_up = sum(not runs(pid) for pid in args.joining)
        if alive >= args.nodes - given_up or time.monotonic() > until:
            print(f"{alive} of {args.nodes} nodes have joined {address}: it begins with these")
            return
        check(args.starters, math.inf, f"{alive} of {args.nodes} nodes have joined {address}")


def listens(address: str) -> bool:
    """Return whether something answers at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def check(starters: list[int], until: float, state: str) -> None:
    """Wait a moment; end the program when there is nothing to wait for any more."""
    time.sleep(0.5)
    if any(not runs(pid) for pid in starters):
        sys.exit(f"error: {state}, and the head's Ray has ended; its messages are above")
    if time.monotonic() > until:
        sys.exit(f"error: {state} after the time of HLVNN_WAIT; are the nodes' ports open?")


def runs(pid: int) -> bool:
    """Return whether a process runs (and is not over, only unnoticed by its parent)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    main()
