"""`--metrics-port`: how a sweep gets on, for Prometheus, on this machine's loopback interface."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from hlvnn.errors import ResourceError
from hlvnn.records.board import Board
from hlvnn.records.outcomes import Status

HOST = "127.0.0.1"
KIND = "text/plain; version=0.0.4; charset=utf-8"


@contextmanager
def serving(port: int | None, name: str, board: Board) -> Iterator[None]:
    """Answer http://127.0.0.1:PORT/metrics as long as the block runs; nothing where port is None.

    Raises `ResourceError` where the port is taken.
    """
    if port is None:
        yield
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.partition("?")[0] in ("/", "/metrics")
            body = text_of(name, board).encode() if found else b""
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", KIND)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Say nothing: the terminal is the sweep's."""

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise ResourceError(
            f"--metrics-port {port}: {error.strerror}; give a port that is free"
        ) from error
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def text_of(name: str, board: Board) -> str:
    """Return a sweep's metrics in Prometheus's text format."""
    entries = list(board.entries.values())  # the driver adds to it meanwhile
    statuses = Counter(entry.status for entry in entries)
    statuses[Status.NOT_STARTED] += max(0, board.num_trials - len(entries))
    quoted = name.replace("\\", r"\\").replace('"', r"\"").replace("\n", " ")
    of = f'sweep="{quoted}"'
    best = board.best
    samples: list[tuple[str, str, str, list[tuple[str, float]]]] = [
        ("trials", "gauge", "Trials by status.",
         [(f'{of},status="{status}"', statuses[status]) for status in Status]),
        ("slots", "gauge", "Trials that run at a time.", [(of, board.slots)]),
        ("epochs", "gauge", "Epochs trained so far, of all trials.",
         [(of, sum(entry.epoch for entry in entries))]),
        ("starts", "gauge", "Times that a trial was started by this driver.",
         [(of, sum(entry.starts for entry in entries))]),
        ("running_seconds", "gauge", "Seconds since this driver began.",
         [(of, time.monotonic() - board.started)]),
    ]  # fmt: skip
    if best is not None and best.best is not None:
        metric = f'{of},metric="{board.space.metric}",trial="{best.number}"'
        samples.append(("best", "gauge", "The best value so far.", [(metric, best.best)]))
    lines = []
    for short, kind, sentence, values in samples:
        full = f"hlvnn_sweep_{short}"
        lines += [f"# HELP {full} {sentence}", f"# TYPE {full} {kind}"]
        lines += [f"{full}{{{labels}}} {value:.12g}" for labels, value in values]
    return "\n".join(lines) + "\n"
