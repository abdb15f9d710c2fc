"""An S3 server on loopback: moto's, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pyarrow import fs

BUCKET = "bucket"


@contextmanager
def s3_server() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a server with one empty bucket; yield the address of a folder in it, and its process.

    The keys, any will do, stay in the environment.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}
    os.environ.update(keys)
    with subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            until = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < until, "moto's server did not start"
                    time.sleep(0.1)
            where = {"endpoint_override": f"127.0.0.1:{port}", "scheme": "http"}
            fs.S3FileSystem(allow_bucket_creation=True, **where).create_dir(BUCKET)
            query = "&".join(f"{name}={value}" for name, value in where.items())
            yield f"s3://{BUCKET}/results?{query}", server
        finally:
            server.kill()
