"""What `train_one.py` does: from flags to one finished run, in this process, without Ray."""

from __future__ import annotations

from pathlib import Path

import tyro
from pydantic import Field

from hlvnn import search_space
from hlvnn.columns import DATA_HASH
from hlvnn.commands.debugger import opening_where_it_happened
from hlvnn.config import DATA_PARTS, PLACES, RunConfig, command_line, repeated
from hlvnn.data import data_of, why_changed
from hlvnn.errors import ConfigError, DataError, RunError
from hlvnn.files import read_json
from hlvnn.gone import refuse_flags
from hlvnn.records import begun_before, run_folder
from hlvnn.records.provenance import repetition
from hlvnn.records.sweep_folder import SWEEP
from hlvnn.storage import Place, folder_here, is_address, readable, shown_path, typed
from hlvnn.terminal import to_terminal
from hlvnn.training import execution, trying

HELP = """Train one model on grouped data, on this machine, and keep the run in a folder.

Examples:
  python train_one.py --dataset digits --latent-config double --z-dim 8 4
  python train_one.py --dataset table --table pupils.csv --target score --groups school
  python train_one.py --dataset femnist --latents "concat@hidden level=writer width=8 prior=learned"
  python train_one.py --dataset digits --fast --only-groups 3 7
  python train_one.py --resume results/digits/RUN
  python train_one.py --from-trial results/digits/SWEEP/TRIAL --debug
  python train_one.py --dataset digits --find-lr
  python train_one.py --from-trial results/digits/RUN --profile
  python train_one.py --from-failure results/digits/RUN
  python train_one.py --space digits --draw 7
"""


class TrainOne(RunConfig):
    """The flags of `train_one.py`: every setting of a run, and how to take one from elsewhere."""

    name: str | None = None
    """Name of the run's folder; None makes one of time, latent configuration and seed."""
    resume: Place | None = None
    """Folder of a run to continue, exactly as it was configured. Data that have moved are given by
    --data-dir or --table. One that has ended is trained longer by more --num-epochs (--longer)."""
    from_trial: Place | None = None
    """Folder or address of a run or trial to repeat, into --results-dir; further flags change its
    settings, and say where data are that have moved. What it showed, and where, is not repeated."""
    from_failure: Place | None = None
    """Folder or address of a run that diverged: takes the step that was not finite once more, and
    at a terminal opens the debugger where it stops being finite. Nothing is written."""
    find_lr: bool = False
    """Search for the learning rate instead: 100 steps of a copy at rising rates, a table and a
    suggestion. Nothing is written."""
    other_data: bool = False
    """With --from-trial: train its settings on data that are not those that it was trained on."""
    space: str | None = None
    """Search space to take one draw of (with --draw); further flags change its settings."""
    draw: int | None = Field(None, ge=0)
    """Number of the draw, from 0: the sweep's trial of that number while it draws at random."""

    def run_config(self) -> RunConfig:
        """Return the run's settings alone."""
        return RunConfig(**{name: getattr(self, name) for name in RunConfig.model_fields})


def main(args: list[str]) -> int:
    """Parse the flags, run, and return the exit code."""
    command = parse(args)
    to_terminal()
    if command.train.debug or command.from_failure is not None:
        with opening_where_it_happened():
            return _run(command)
    return _run(command)


def _run(command: TrainOne) -> int:
    config = command.run_config()
    if command.from_failure is not None:
        print(trying.replay_failure(config, readable(command.from_failure)))
        return 0
    if command.resume is not None:
        result = execution.execute(config, _folder_to_resume(command.resume), resume=True)
    elif not config.data.dataset:
        raise ConfigError(
            "--dataset is missing: name a data set, or take one from --from-trial or --space"
        )
    elif command.find_lr:
        print(trying.learning_rates(config))
        return 0
    else:
        folder, origin = execution.new_folder(config, command.name), ""
        attributes: Path | bool = True
        if command.from_trial is not None:
            trial = readable(command.from_trial)
            begun_before.tell_repeated(command.from_trial, trial)
            if not command.other_data:
                _check_data(command.from_trial, trial, config)
            place = command.from_trial if is_address(command.from_trial) else shown_path(trial)
            was = run_folder.read_config(trial)
            origin = repetition(place, was, config)
            is_same = config.data.group_table == was.data.group_table
            attributes = trial if is_same else True  # what it keeps may be gone elsewhere
        result = execution.execute(config, folder, origin=origin, attributes=attributes)
    return 1 if result.diverged else 0


def _folder_to_resume(place: str) -> Path:
    """Return the folder of a run; raise `RunError` for a trial, which only its sweep goes on with.

    Trained further by itself it would be ranked at a value that its sweep's table and journal do
    not know.
    """
    folder = folder_here(place, "--resume needs")
    sweep = folder.resolve().parent
    if (sweep / SWEEP).exists():
        copy = sweep.parent / f"{sweep.name}-{folder.resolve().name}"
        commands = [
            f"python tune_search.py --resume {typed(sweep)}",
            f"cp -r {typed(folder)} {typed(copy)} && python train_one.py --resume {typed(copy)}",
        ]
        raise RunError(
            f"--resume {place}: it is a trial of the sweep {shown_path(sweep)}, which would no "
            f"longer agree with its own table; nothing was changed. Go on with the sweep: "
            f"{commands[0]}; or with a copy: {commands[1]}"
        )
    return folder


def _check_data(place: str, folder: Path, config: RunConfig) -> None:
    """Raise `DataError` where a run is to be repeated on other data than its own.

    Flags that split other rows make another run anyway: then nothing is compared. Where they take
    a part of the rows, what the trial was trained on is loaded as well, and compared.
    """
    was, now = (run_folder.read_config(folder).data, config.data)
    now = now.model_copy(update={name: getattr(was, name) for name in DATA_PARTS})
    if now.model_copy(update={name: getattr(was, name) for name in PLACES}) != was:
        return
    expected = read_json(folder / run_folder.HYPERPARAMS).get(DATA_HASH)
    digest = data_of(now).digest()
    if digest != expected:
        why = why_changed(now, str(expected))
        raise DataError(
            f"--from-trial {place}: the data {now.place} are not those that it was trained on "
            f"(hash {digest}, was {expected}){'; ' + why if why else ''}; say where those are with "
            "--data-dir or --table, or train its settings on these with --other-data"
        )


def parse(args: list[str]) -> TrainOne:
    """Return the command; settings of --resume, --from-trial or --space are the flags' defaults."""
    told = [arg for arg in args if arg not in ("-h", "--help")]
    first = _parse(told, TrainOne())
    chosen = [
        flag
        for flag, value in (
            ("--resume", first.resume),
            ("--from-trial", first.from_trial),
            ("--from-failure", first.from_failure),
            ("--space", first.space),
        )
        if value is not None
    ]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)}: give only one of them")
    if (first.space is None) != (first.draw is None):
        raise ConfigError("--space and --draw belong together: --space femnist --draw 7")
    if not chosen and len(args) == len(told):
        return first  # reading the flags takes a tenth of a second
    base = RunConfig()
    if first.resume is not None:
        folder = folder_here(first.resume, "--resume needs")
        begun_before.check_run(folder)
        base = run_folder.read_config(folder)
        usual = base.train.model_copy(update={"debug": False, "profile": False})
        base = base.model_copy(update={"train": usual})
    elif first.from_failure is not None:
        base = run_folder.read_config(readable(first.from_failure))
    elif first.from_trial is not None:
        folder = readable(first.from_trial)
        base = run_folder.read_config(folder)
        _check_repeatable(first.from_trial, folder, base)
        base = repeated(base)
    elif first.space is not None and first.draw is not None:
        base = search_space.draw(search_space.load(first.space), first.draw)
    return _parse(args, TrainOne(**{name: getattr(base, name) for name in RunConfig.model_fields}))


def _check_repeatable(place: str, folder: Path, config: RunConfig) -> None:
    """Raise `ConfigError` for a trial that took over others: no single configuration repeats it."""
    from hlvnn.records import perturbations

    if changes := perturbations.read(folder):
        told = "; ".join(change.told() for change in changes[1:])
        raise ConfigError(
            f"--from-trial {place}: it is one of a population (--scheduler pbt) and no settings of "
            f"its own repeat it: {told}. Its weights are there ({run_folder.CHECKPOINT}, "
            f"{run_folder.BEST}); to train anew with its last settings: "
            f"python train_one.py {command_line(config)}"
        )


def _parse(args: list[str], default: TrainOne) -> TrainOne:
    refuse_flags(args)
    return tyro.cli(
        TrainOne,
        prog="train_one.py",
        description=HELP,
        args=args,
        default=default,
        config=(tyro.conf.OmitArgPrefixes,),
    )
