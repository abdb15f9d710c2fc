"""All benchmarks in order, as one page of tables and one JSON file, with the machine described.

    python benchmarks [--full] [--only train_step epoch] [--output results/bench]

Quick by default (under 10 minutes on 2 cores): fewer rounds and smaller sizes, so that ratios are
noisier. `--full` runs each script as its own docstring says; the studies of quality, which take
hours, are left to be run by name. A script is a process of its own; what it prints is shown as it
comes, its tables are kept. Ends with 1 when a script failed, after running the others.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import tyro
from pydantic import BaseModel

from hlvnn.errors import ConfigError, run_command, unknown
from hlvnn.records.run_folder import versions

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared"


@dataclass(frozen=True)
class Script:
    """A benchmark: its flags when it is to be quick, and what of `../shared` it reads."""

    name: str
    quick: str = ""
    reads: str = ""
    needs_gpu: bool = False
    """Whether it measures nothing without a GPU."""
    study: bool = False
    """Whether it measures quality, not speed, and takes long."""


SCRIPTS = (
    Script("start", "--rounds 3"),
    Script("train_step", "--rounds 4"),
    Script("step_cost", "--models mlp --rounds 4"),
    Script("epoch", "--rounds 2 --scale 0.4"),
    Script("gpu", "--sizes small --no-compile --rounds 3 --trials 1 4", needs_gpu=True),
    Script("prediction", "--rounds 2 --batches 6"),
    Script("groups_scaling", "--groups 1000 100000 1000000 --rounds 4"),
    Script("growth", "--rounds 2"),
    Script("group_metrics", "--no-larger"),
    Script("sweep_overhead"),
    Script("sweep_scale", "--trials 60"),
    Script("search_efficiency"),
    Script("memory", "--rows 40000"),
    Script("analysis", "--trials 50 --epochs 10 --rounds 1"),
    Script("insteval", reads="data/grouped/InstEval.csv.gz"),
    Script("seven_models", study=True),
    Script("calibration", study=True),
    Script("shakespeare_gains", study=True),
    Script("never_worse", "--quick", study=True),
    Script("new_writers", study=True, reads="data/unipen_writers.npz"),
    Script("tabular", study=True, reads="data/tabular"),
    Script("handwriting", study=True, reads="data/unipen_writers.npz"),
    Script("handwriting_study", study=True, reads="data/unipen_writers.npz"),
)


class Options(BaseModel):
    """Which, how long, where to."""

    full: bool = False
    """Full sizes and rounds (about an hour)."""
    only: tuple[str, ...] = ()
    """Names of scripts; none = all but the studies."""
    output: Path = Path("results/bench")
    """Folder for bench.md and bench.json."""


def chosen(options: Options) -> list[Script]:
    """Return the scripts to run, in order."""
    known = {script.name: script for script in SCRIPTS}
    for name in options.only:
        if name not in known:
            raise ConfigError(unknown("benchmark", name, known))
    if options.only:
        return [known[name] for name in options.only]
    return [script for script in SCRIPTS if not script.study]


def missing(script: Script) -> str | None:
    """Return why a script cannot run here, or None."""
    if script.reads and not (SHARED / script.reads).exists():
        return f"{SHARED.name}/{script.reads} is not here"
    if script.needs_gpu and not torch.cuda.is_available():
        return "no GPU here"
    return None


def machine() -> dict[str, Any]:
    """Describe what the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), cpu)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gb": round(memory, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(terse=True),
        "load_before": round(os.getloadavg()[0], 2),
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "versions": versions(),
    }


def run(script: Script, flags: list[str]) -> tuple[int, str, float]:
    """Run a script, showing what it prints; return exit status, output and seconds."""
    began = time.perf_counter()
    command = [sys.executable, str(HERE / f"{script.name}.py"), *flags]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": python_path()}
    kept = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=HERE.parent
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            kept.append(line)
    return process.returncode, "".join(kept), time.perf_counter() - began


def python_path() -> str:
    """Return a path on which this working tree comes first."""
    return os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))


def tables(text: str) -> Iterator[list[dict[str, str]]]:
    """Yield each Markdown table in a text, as a row per line."""
    names: list[str] = []
    rows: list[dict[str, str]] = []
    for line in [*text.splitlines(), ""]:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            if rows:
                yield rows
            names, rows = [], []
        elif not names:
            names = cells
        elif not set(line) <= set("|-: "):
            rows.append(dict(zip(names, cells, strict=False)))


def described(about: dict[str, Any]) -> str:
    """Return the machine in one line."""
    kept = {k: v for k, v in about["versions"].items() if k in ("python", "torch", "ray", "hlvnn")}
    told = ", ".join(f"{name} {version}" for name, version in kept.items())
    gpu = f", {about['gpu']}" if about["gpu"] else ", no GPU"
    return (
        f"{about['cpu']}, {about['cores']} cores, {about['memory_gb']} GB{gpu}; {about['system']}; "
        f"{told}; {about['date']}; load before: {about['load_before']}"
    )


def main(options: Options) -> int:
    """Run them, write bench.md and bench.json."""
    scripts = chosen(options)
    about = machine()
    how = "full" if options.full else "quick"
    page = [f"# Benchmarks, {how}", described(about)]
    results: dict[str, Any] = {"machine": about, "mode": how, "scripts": {}}
    print(described(about), flush=True)
    began, failed = time.perf_counter(), []
    for number, script in enumerate(scripts, start=1):
        flags = [] if options.full else script.quick.split()
        command = " ".join(["python", f"benchmarks/{script.name}.py", *flags])
        print(f"\n[{number}/{len(scripts)}] {command}", flush=True)
        if lack := missing(script):
            print(f"skipped: {lack}")
            results["scripts"][script.name] = {"skipped": lack}
            continue
        code, text, seconds = run(script, flags)
        print(f"({seconds:.0f} s)", flush=True)
        if code:
            failed.append(script.name)
        page += [f"## {script.name}", f"`{command}`, {seconds:.0f} s", text.strip()]
        results["scripts"][script.name] = {
            "command": command,
            "seconds": round(seconds, 1),
            "exit_status": code,
            "tables": list(tables(text)),
        }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "bench.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    written = json.dumps(results, indent=2, ensure_ascii=False)
    (options.output / "bench.json").write_text(written + "\n", encoding="utf-8")
    took = (time.perf_counter() - began) / 60
    print(f"\n{took:.1f} minutes; {options.output}/bench.md, {options.output}/bench.json")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(
        lambda: main(
            tyro.cli(
                Options,
                prog="python benchmarks",
                description=__doc__,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
        )
    )
