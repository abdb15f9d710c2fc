"""Another user of this machine, who tries to get at a Ray.

python intruder.py look FOLDER PID ...      (as root) prints what there is to get at
python intruder.py UID TARGET.json          becomes that user; prints what it could do
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

ANY = ("::", "0.0.0.0")
LOOPBACK = "127.0.0.1"


def look(private: Path, pids: list[int]) -> dict[str, Any]:
    """Return all that there is of the Ray in a private folder, with these processes."""
    import psutil

    listening = [
        (process.name(), connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for process in map(psutil.Process, pids)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and process.name() != "srun"
    ]
    reached = {(name, LOOPBACK if ip in ANY else ip, port) for name, ip, port in listening}
    everything = list(private.rglob("*"))
    return {
        "uid": private.stat().st_uid,
        "hosts": sorted({ip for _, ip, _ in listening}),
        "http": sorted((ip, port) for name, ip, port in reached if "RuntimeEnv" in name),
        "grpc": sorted((ip, port) for name, ip, port in reached if "RuntimeEnv" not in name),
        "files": [str(path) for path in everything if path.is_file()],
        "folders": [str(private), *(str(path) for path in everything if path.is_dir())],
        "sockets": [str(path) for path in everything if path.is_socket()],
        "pids": pids,
    }


def become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.environ["HOME"] = "/"


def found(target: dict[str, Any]) -> list[str]:
    """Return what could be done."""
    done: list[str] = []
    secret = target["secret"]
    for name in target["files"]:
        with suppress(OSError):
            Path(name).read_bytes()
            done.append(f"read {name}")
        with suppress(OSError), Path(name).open("ab"):
            done.append(f"opened {name} to write")
    for name in target["folders"]:
        with suppress(OSError):
            list(Path(name).iterdir())
            done.append(f"listed {name}")
        with suppress(OSError):
            (Path(name) / "planted.py").write_text("evil = 1\n", encoding="utf-8")
            done.append(f"wrote into {name}")
        with suppress(OSError):
            Path(name).rename(f"{name}.away")
            done.append(f"renamed {name}")
    for name in target["sockets"]:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as tried:
            tried.connect(name)
            done.append(f"connected to {name}")
    for host, port in target["grpc"]:
        done += let_in(host, port)
    for host, port in target["http"]:
        done += answered(host, port)
    for pid in target["pids"]:
        for part in ("cmdline", "environ"):
            with suppress(OSError):
                if secret.encode() in Path(f"/proc/{pid}/{part}").read_bytes():
                    done.append(f"the token stands in {part} of {pid}")
        with suppress(OSError):
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                done.append(f"saw {handle}")
    for path in Path("/dev/shm").iterdir():
        with suppress(OSError):
            if path.stat().st_uid == target["uid"]:
                path.open("rb").close()
                done.append(f"read {path}")
    return done


METHODS = (
    "ray.rpc.InternalKVGcsService/InternalKVGet",
    "ray.rpc.JobInfoGcsService/AddJob",
    "ray.rpc.NodeManagerService/RequestWorkerLease",
    "ray.rpc.ObjectManagerService/Push",
    "ray.rpc.CoreWorkerService/PushTask",
)
"""What code is run by; each of Ray's ports has one of these services."""


def let_in(host: str, port: int) -> list[str]:
    """Return what Ray answers there to somebody without a token, if it does not refuse him."""
    answers = {method: called(host, port, method) for method in METHODS}
    refused = [method for method, text in answers.items() if b"InvalidAuthToken" in text]
    told = [f"{port} answered {method}: {text!r}" for method, text in answers.items()
            if method not in refused and not unknown_method(text)]  # fmt: skip
    return told if refused else [*told, f"{port} has none of the services"]


def unknown_method(text: bytes) -> bool:
    """Whether an answer says UNIMPLEMENTED, which is 12 among gRPC's statuses."""
    return re.search(rb"grpc-status.12", text, re.DOTALL) is not None


def called(host: str, port: int, method: str) -> bytes:
    """Call a method of gRPC with an empty message, by hand; return the bytes of the answer."""

    def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
        return len(body).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + body

    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/{method}",
        ":authority": f"{host}:{port}",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    packed = b"".join(
        b"\0" + b"".join(bytes([len(word)]) + word.encode() for word in pair)
        for pair in headers.items()
    )
    with socket.create_connection((host, port), timeout=5) as tried:
        tried.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(4, 0, 0, b"")
            + frame(1, 4, 1, packed)
            + frame(0, 1, 1, bytes(5))
        )
        text = b""
        with suppress(TimeoutError):
            while b"grpc-status" not in text and (more := tried.recv(4096)):
                text += more
        tried.settimeout(0.3)
        with suppress(TimeoutError):
            text += tried.recv(4096)
    return text


def answered(host: str, port: int) -> list[str]:
    with socket.create_connection((host, port), timeout=5) as tried:
        path = "/get_or_create_runtime_env"
        tried.sendall(f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n".encode())
        first = tried.recv(200).split(b"\r\n")[0].decode()
    return [] if " 401 " in first or " 403 " in first else [f"port {port} answered {first}"]


if __name__ == "__main__":
    if sys.argv[1] == "look":
        print(json.dumps(look(Path(sys.argv[2]), [int(pid) for pid in sys.argv[3:]])))
        sys.exit()
    target = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    become(int(sys.argv[1]))
    print(json.dumps(found(target)))
