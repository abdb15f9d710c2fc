"""What a sweep is going to do, checked as far as it can be before anything starts."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from hlvnn import search_space, words
from hlvnn.config import PLACES, DataConfig, RunConfig, run_config, validated
from hlvnn.errors import ConfigError, ResourceError, RunError, all_of
from hlvnn.files import expanded, free_names
from hlvnn.records import outcomes, run_folder
from hlvnn.records.group_file import write_groups
from hlvnn.records.sweep_folder import (
    README,
    SPACE_COPY,
    SWEEP,
    Record,
    read_record,
    write_record,
)
from hlvnn.search_space import Space
from hlvnn.storage import Remote, is_address, shown_path, typed
from hlvnn.sweep import combinations, group_attributes, naming, sameness, warm
from hlvnn.sweep.copies import open_sweep, reading
from hlvnn.sweep.options import SweepConfig, check_changes
from hlvnn.sweep.rehearsal import rehearse
from hlvnn.sweep.warm import Earlier
from hlvnn.words import Settings

ONCE = {
    "resume": None,
    "or_resume": False,
    "retry": None,
    "extend": None,
    "dry_run": False,
    "address": None,  # of a cluster that may be gone
}
"""Options that were those of one start, as a sweep's record keeps the others."""
COMMAND = "HLVNN_COMMAND"
"""Variable: how a sweep is started here, where that is not by python tune_search.py on a node."""
ADDRESS = "address"
"""In the record of each start: the cluster it was on, or None."""


@dataclass(frozen=True)
class Plan:
    """A sweep that can start: its options, its space, its folder, a sample of its trials."""

    options: SweepConfig
    space: Space
    sweep: Path
    fixed: Settings
    sample: list[RunConfig]
    earlier: Earlier | None = None
    """The trials of another sweep that a new one learns from."""
    remote: Remote | None = None
    """Where the sweep lives, when `sweep` is only this driver's copy of it."""
    is_named: bool = True
    """Whether its folder's name was given, and not made up."""
    was_at: str | None = None
    """The cluster on which a sweep that goes on last was."""

    def with_gpus(self, gpus: float) -> Plan:
        """Return the same plan with this share of a GPU for each trial."""
        changed = self.options.model_copy(update={"gpus_per_trial": gpus})
        return replace(self, options=changed)

    @property
    def device(self) -> str:
        """The --device of all trials."""
        return str(self.fixed.get("device", "auto"))

    @property
    def max_epochs(self) -> int:
        """The longest trial's epochs."""
        return max(config.train.num_epochs for config in self.sample)

    @property
    def resume_command(self) -> str:
        """The command that goes on with the sweep, where it runs now."""
        resume = f"--resume {self.place()}"
        if command := os.environ.get(COMMAND):
            return f"{command} {resume}"
        if self.options.address is not None:
            resume += f" --address {shlex.quote(self.options.address)}"
        return f"python tune_search.py {resume}"

    def place(self, name: str = "") -> str:
        """Return where the sweep, or a file or folder of it, is found, as a user would type it."""
        if self.remote is None:
            return typed(self.sweep / name)
        return typed(str(self.remote / name if name else self.remote))


def of(options: SweepConfig) -> Plan:
    """Return the plan of a new sweep, or of the one that is resumed or extended."""
    if options.extend is not None:
        return extended_plan(options)
    return new_plan(options) if options.resume is None else resumed_plan(options)


def new_plan(options: SweepConfig) -> Plan:
    """Return the plan of a new sweep; nothing is written.

    Raises `ConfigError`, `RunError` (the folder exists), `ResourceError`, or what loading raises.
    """
    if options.space is None:
        known = ", ".join(search_space.names())
        raise ConfigError(f"name a search space (there are: {known}), or a sweep with --resume")
    space = search_space.load(options.space)
    fixed: Settings = {}
    sample: list[RunConfig] = []
    place: list[tuple[Path, Remote | None]] = []
    earlier: list[Earlier] = []

    def fix() -> None:
        fixed.update(_fixed(options, space))

    def draw() -> None:
        sample.extend(search_space.check(space, options.seed, fixed or options.fixed_settings))

    def name() -> None:
        title = sample[0].data.title if sample else naming.title_of(options, space)
        place.append(naming.new_folder(options, space, title))

    def learn() -> None:
        if options.warm_start is not None:
            with reading(options.warm_start) as source:
                read_record(source)
                earlier.append(warm.read(source, space, options.warm_start))

    def try_out() -> None:
        combinations.check(options, space, sample)
        if sample:  # what is wrong with every draw was told already
            rehearse(options, space, fixed)

    all_of(fix, draw, name, try_out, learn)
    sweep, remote = place[0]
    is_named = options.name is not None
    options = options.model_copy(update={"name": sweep.name, "space": space.name})
    learned = earlier[0] if earlier else None
    return Plan(options, space, sweep, fixed, sample, learned, remote, is_named)


def claimed(plan: Plan) -> Plan:
    """Return a new sweep's plan once its folder is made: under another name if that one is taken.

    Two sweeps that begin in the same second get two names. Raises `RunError` when a name that was
    given is taken by now.
    """
    if (plan.sweep / SWEEP).exists():
        return plan
    if plan.remote is not None:  # in the folder for temporary files: this user's alone
        plan.sweep.parent.mkdir(mode=0o700)
    for name in free_names(plan.sweep.name):
        sweep = plan.sweep.with_name(name)
        try:
            sweep.mkdir(parents=True)
        except FileExistsError:
            if not plan.is_named:
                continue
            if naming.is_taken(sweep):
                raise naming.taken(sweep) from None
        return replace(plan, sweep=sweep, options=plan.options.model_copy(update={"name": name}))
    raise AssertionError("there are names without end")


def resumed_plan(options: SweepConfig) -> Plan:
    """Return the plan of a sweep that goes on.

    Raises `RunError` for a folder that is no sweep, and `ConfigError` when its space has changed.
    """
    assert options.resume is not None
    sweep, remote = open_sweep(options.resume)
    before = options_to_go_on(options.resume)
    check_changes(before, options)
    combinations.check_more(before, options.num_trials - before.num_trials)
    assert options.space is not None
    space = search_space.load(options.space)
    record = read_record(sweep)
    run_config(record.fixed, shown_path(sweep / SWEEP))  # where damage is to be looked for
    sameness.check_space(sweep, record, space, options.seed)
    fixed = record.fixed | _device(options, space) | _moved(before, options)
    sample = search_space.check(space, options.seed, fixed)
    combinations.check(options, space, sample)
    was_at = last_address(sweep)
    return Plan(options, space, sweep, fixed, sample, remote=remote, was_at=was_at)


def _moved(before: SweepConfig, now: SweepConfig) -> Settings:
    """Return where the data are that have moved since a sweep began, as settings."""
    was, given = before.fixed_settings, now.fixed_settings
    return {
        name: str(Path(given[name]).resolve())
        for name in PLACES
        if name in given and given[name] != was.get(name)
    }


def extended_plan(options: SweepConfig) -> Plan:
    """Return the plan of a finished sweep that gets --num-trials more trials.

    Raises `RunError` when it has not finished, and what `resumed_plan` raises.
    """
    assert options.extend is not None
    sweep, _ = open_sweep(options.extend)
    before = options_to_go_on(options.extend)
    for number in range(before.num_trials):
        outcome = outcomes.read(sweep, number)
        if outcome is None or outcome.unfinished:
            raise RunError(
                f"--extend {options.extend}: trial {number} has not ended; finish the sweep "
                f"first: python tune_search.py --resume {shlex.quote(options.extend)}"
            )
    combinations.check_more(before, options.num_trials)
    total = before.num_trials + options.num_trials
    changes = {"num_trials": total, "resume": options.extend, "extend": None}
    return resumed_plan(options.model_copy(update=changes))


def options_to_go_on(place: str) -> SweepConfig:
    """Return the options of a sweep that goes on; `RunError` where it cannot."""
    sweep, _ = open_sweep(place)
    sameness.check_steps(sweep, place)
    return saved_options(sweep)


def saved_options(sweep: Path) -> SweepConfig:
    """Return the options that a sweep was last started with."""
    saved = validated(SweepConfig, read_record(sweep).options, str(sweep / SWEEP))
    return saved.model_copy(update=ONCE)  # records of old have the address


def last_address(sweep: Path) -> str | None:
    """Return the address of the cluster that a sweep last ran on, or None."""
    record = read_record(sweep)
    return record.starts[-1].get(ADDRESS, record.options.get(ADDRESS)) if record.starts else None


def begin(plan: Plan) -> None:
    """Make the folder of a new sweep, or note that an old one goes on.

    Raises `RunError` where another driver has begun a sweep there since this one was planned.
    """
    starts: list[dict[str, Any]] = []
    if (plan.sweep / SWEEP).exists():
        if plan.options.resume is None:
            raise naming.taken(plan.remote or plan.sweep)
        starts = read_record(plan.sweep).starts
    else:
        shutil.copyfile(plan.space.path, plan.sweep / SPACE_COPY)
        (plan.sweep / README).write_text(readme(plan), encoding="utf-8")
    space = plan.space
    options = plan.options.model_copy(update=ONCE)
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    start = {
        "time": now,
        "host": platform.node(),
        "versions": run_folder.versions(),
        ADDRESS: plan.options.address,
    }
    attributes = group_attributes.to_keep(plan)
    if attributes is not None:
        write_groups(plan.sweep, attributes.table)
    record = Record(
        space=space.name,
        sha256=space.sha256,
        objectives=space.objectives,
        base={key: words.text(value) for key, value in space.base.items()},
        fixed=plan.fixed,
        options=options.model_dump(mode="json", exclude_none=True),
        starts=[*starts, start],
    )
    write_record(plan.sweep, record)


def readme(plan: Plan) -> str:
    """Return what a sweep's folder says of itself: its study's opening, and how to go on."""
    space, options, where = plan.space, plan.options, plan.place()
    trials = f"{options.num_trials} trials of `search_spaces/{space.name}.py`"
    parts = [
        f"# {plan.sweep.name}",
        search_space.opening(space.path) or f"The study {space.name}.",
        options.description,
        f"{trials} (copied here as {SPACE_COPY}), selected by {space.metric} ({space.mode}).",
        f"    python -m hlvnn.analysis {where}    # what came out\n    {plan.resume_command}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _fixed(options: SweepConfig, space: Space) -> Settings:
    """Return the settings fixed for all trials: the flags', and what all machines must agree on."""
    fixed = options.fixed_settings | _device(options, space)
    known = {**space.base, **fixed}
    for name in PLACES:  # trials run in folders of Ray's
        value = known.get(name, DataConfig.model_fields[name].default)
        if value is not None:
            fixed[name] = str(expanded(Path(value)).resolve())
    if not is_address(options.root):
        fixed["results_dir"] = str(Path(options.root).resolve())
    if options.description:
        fixed["description"] = options.description
    return fixed


def _device(options: SweepConfig, space: Space) -> Settings:
    """Return the device of all trials, as a setting."""
    device = {**space.base, **options.fixed_settings}.get("device", "auto")
    if options.gpus == 0:
        if str(device).startswith("cuda"):
            raise ResourceError(
                f"--device {device} needs a GPU, and the trials have none: give --gpus-per-trial"
            )
        device = "cpu"  # auto would put every trial on the first GPU
    return {"device": device}
