"""What a report says in words: what won, by how much, for whom, and what to try next.

Words between backticks are set as code.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from hlvnn.analysis.figures.curves import COLLAPSED
from hlvnn.analysis.figures.style import SPLITS, said
from hlvnn.analysis.figures.uncertainty import expected_error
from hlvnn.analysis.report import comparing
from hlvnn.analysis.report.comparing import plural
from hlvnn.analysis.report.edges import edges
from hlvnn.analysis.results import Results
from hlvnn.columns import (
    BEST_EPOCH,
    DATA_HASH,
    EXACT,
    KNOWN,
    NEW,
    TRAIN_LOSS,
    VAL_ACC,
    VAL_LOSS,
    best_of,
    final_of,
    of_split,
    on_test,
)
from hlvnn.records.outcomes import Status, open_ones
from hlvnn.storage import shown_path
from hlvnn.words import number, text

FEW_POOLED = 5
TOO_SURE = 0.02


@dataclass(frozen=True)
class Evidence:
    """What a report was able to measure; None where it could not be."""

    gains: pd.DataFrame | None = None
    gains_in_nats: pd.DataFrame | None = None
    other_gains: dict[str, pd.DataFrame] = field(default_factory=dict)
    calibration: pd.DataFrame | None = None
    upper_gains: tuple[pd.DataFrame, ...] = ()
    """Gains by the groups of each level above the lowest."""


@dataclass(frozen=True)
class Step:
    """What to try next and why, and the command that does it, where there is one."""

    said: str
    command: str = ""


def test_column(metric: str) -> str:
    """Return the column of the same measure on test rows."""
    return on_test(metric)


def chosen_on(results: Results) -> str:
    """Return on which rows epochs were chosen, and trials ranked: "validation" where there are."""
    return "training" if results.metric == TRAIN_LOSS else "validation"


def counts(results: Results) -> str:
    """Return how many trials ended how, most first: "20 stopped, 3 failed"."""
    numbers = results.table["status"].value_counts().items()
    return ", ".join(f"{count} {status}" for status, count in numbers)


def in_short(results: Results, evidence: Evidence) -> list[str]:
    """Return the sentences that a reader in a hurry needs."""
    best = results.best_trial
    if best is None:
        return ["No trial has a result, so there is no best one."]
    sentences = [_best(results, results.row(best))]
    latent = results.latent_trial
    pooled = None if latent is None else next(iter(results.baselines(latent)), None)
    if pooled is None and results.pooled_trial is None:
        sentences.append("No trial without latents has ended: what latents bring is not known.")
    elif latent is None:
        sentences.append("No trial with latents has ended: what they bring is not known.")
    elif pooled is not None:
        sentences += _against_pooled(results, results.row(latent), results.row(pooled), evidence)
    if (frame := evidence.calibration) is not None and "confidence" in frame:
        sentences.append(_sureness(frame))
    return sentences


def _best(results: Results, row: pd.Series[Any]) -> str:
    metric, test = results.metric, test_column(results.metric)
    rows = chosen_on(results)
    structure = row["structure"]
    with_latents = (
        ""
        if not isinstance(structure, str)
        else " without latents"
        if row["pooled"]
        else f", latents `{structure}`,"
    )
    measured = f"{said(metric)} {_of(row, metric)}"
    if not pd.isna(row.get(best_of(test))):
        measured += f"; {said(test)} {_of(row, test)}"
    measured += _known_and_new(row, test)
    other = VAL_ACC if metric != VAL_ACC else VAL_LOSS
    for name in (other, test_column(other)):
        if not pd.isna(row.get(best_of(name))):
            measured += f"; {said(name)} {_of(row, name)}"
    running = " It is still running." if row["status"] == Status.RUNNING else ""
    when = f"at epoch {text(row[BEST_EPOCH])} of {text(row.get('num_epochs', row['epochs']))}"
    if _is_exact(row):
        when = "fitted all at once"
    return (
        f"Best is {results.called(int(row['trial']))}{with_latents} {when}: "
        f"{measured}.{running} It was chosen on {rows} rows{_unseen(rows, row, test)}."
    )


def _is_exact(row: pd.Series[Any]) -> bool:
    """Return whether a trial was fitted all at once, in no epochs that more could follow."""
    return row.get(final_of(EXACT)) == 1


def _unseen(rows: str, row: pd.Series[Any], test: str) -> str:
    """Return the end of the sentence on which rows chose: what they, or others, say."""
    alone = ", for there are no validation rows, so it says nothing of rows that it did not see"
    scored = "" if pd.isna(row.get(best_of(test))) else "; test rows were only scored"
    return (alone if rows == "training" else "") + scored


def _known_and_new(row: pd.Series[Any], column: str) -> str:
    """Return what test rows of known groups have and those of new ones, where there are both."""
    split, _, measure = column.partition("_")
    known, new = (of_split(split, f"{which}{measure}") for which in (KNOWN, NEW))
    if pd.isna(row.get(best_of(known))) or pd.isna(row.get(best_of(new))):
        return ""
    return f" ({_of(row, known)} for groups that have training rows, {_of(row, new)} for new ones)"


def _against_pooled(
    results: Results, latent: pd.Series[Any], pooled: pd.Series[Any], evidence: Evidence
) -> list[str]:
    test = test_column(results.metric)
    column = test if not pd.isna(latent.get(best_of(test))) else results.metric
    gains, nats = evidence.gains, evidence.gains_in_nats
    fair = gains.attrs["fair"] if gains is not None else None
    called = results.called(int(latent["trial"])), results.called(int(pooled["trial"]))
    sentences = [comparing.of_pair(fair, latent, pooled, column, called)]
    if latent[DATA_HASH] != pooled[DATA_HASH]:
        sentences.append(
            "The two were trained on different data: unless these differ in their "
            "features alone, the one does not compare with the other."
        )
    for frame in (gains, nats):
        if frame is not None and len(frame) > 1:
            sentences += comparing.over_groups(frame)
    sentences += comparing.against_others(evidence.other_gains)
    if gains is not None and len(gains) > 1:
        sentences.append(comparing.weak_end(gains))
    for frame in evidence.upper_gains:
        sentences += comparing.over_level(frame)
    return sentences


def sureness(frame: pd.DataFrame) -> tuple[float, float]:
    """Return the mean confidence less the accuracy, and its standard error were they honest."""
    rows = frame[frame["n"] > 0]
    n, confidence = rows["n"], rows["confidence"]
    over = float(((confidence - rows["accuracy"]) * n).sum() / n.sum())
    return over, math.sqrt(float((n * confidence * (1 - confidence)).sum())) / float(n.sum())


def _is_beyond(over: float, error: float) -> bool:
    """Whether so much confidence too much (or, negative, too little) is no chance."""
    return over > max(TOO_SURE, 2 * error)


def _sureness(frame: pd.DataFrame) -> str:
    over, error = sureness(frame)
    sure, unsure = _is_beyond(over, error), _is_beyond(-over, error)
    word = "too sure" if sure else "not sure enough" if unsure else "honest"
    if word == "honest" and abs(over) > TOO_SURE:
        word = "honest as far as these rows can tell"
    rows = frame[frame["n"] > 0]
    right = float((rows["accuracy"] * rows["n"]).sum() / rows["n"].sum())
    split = SPLITS[str(frame["split"].iloc[0])]
    return (
        f"The best trial's probabilities are {word}: on {split} rows its mean confidence is "
        f"{right + over:.3f}, its accuracy {right:.3f} ± {error:.3f} (expected calibration error "
        f"{expected_error(rows):.3f})."
    )


def next_steps(results: Results, evidence: Evidence) -> list[Step]:
    """Return what the results suggest to try; each names its reason."""
    best = results.best_trial
    if best is None:
        return _unfinished(results)
    row = results.row(best)
    steps = edges(results, best)
    is_last = row[BEST_EPOCH] == row.get("num_epochs") and not _is_exact(row)
    if is_last and row["status"] == Status.COMPLETED:
        steps.append(
            f"Trial {best} was best in its last epoch ({text(row[BEST_EPOCH])}): more epochs "
            "may help (`--num-epochs`)."
        )
    pooled = results.placed[results.placed["pooled"].astype(bool)]
    if len(pooled) < FEW_POOLED < len(results.placed):
        steps.append(
            f"Only {len(pooled)} of {len(results.placed)} trials with a result had no latents. The "
            "pooled model was searched less than the others, which flatters these: give it as many "
            "trials before you report a gain."
        )
    if results.latent_trial is not None:
        steps += _collapsed(results, results.latent_trial)
    frame = evidence.calibration
    if frame is not None and "confidence" in frame and _is_beyond(*sureness(frame)):
        steps.append(
            "The best trial is too sure of itself, though it won: read its probabilities with "
            "care. Stronger regularisation or fewer epochs may help."
        )
    failed = results.table[results.table["status"] == Status.FAILED]
    if len(failed):
        steps.append(
            f"{plural(len(failed), 'trial')} failed; see why below before you trust the search."
        )
    return [*map(Step, steps), *_again(results, row), *_unfinished(results)]


def _again(results: Results, row: pd.Series[Any]) -> list[Step]:
    if pd.isna(row["folder"]):
        return []
    folder = shlex.quote(shown_path(results.path / str(row["name"])))
    said_so = (
        "One trial is one seed. Repeat the best with other seeds before you believe a small "
        "difference:"
    )
    return [Step(said_so, f"python train_one.py --from-trial {folder} --seed 1")]


def _collapsed(results: Results, trial: int) -> list[str]:
    own = results.epochs[results.epochs["trial"] == trial]
    if not len(own):
        return []  # its folder is gone
    found = []
    for name, latent in results.latent_columns.items():
        value = own[name].iloc[-1]
        if latent.level is not None and value / latent.groups < COLLAPSED:
            found.append(
                f"The latent {latent.latent} tells next to nothing of its groups (KL "
                f"{number(float(value))} nats over {latent.groups} of them): leave it out, or "
                "weigh its KL less (`--kl-weight`, `--kl-annealing`)."
            )
    return found


def _unfinished(results: Results) -> list[Step]:
    if results.alive or results.record is None:
        return []
    open_ends = open_ones(results.table)
    if not open_ends.any():
        return []
    folder = shlex.quote(shown_path(results.path))
    count = int(open_ends.sum())
    return [
        Step(
            f"{plural(count, 'trial')} {'is' if count == 1 else 'are'} not finished. To go on:",
            f"python tune_search.py --resume {folder}",
        )
    ]


def _of(row: pd.Series[Any], column: str) -> str:
    return f"{float(str(row[best_of(column)])):#.4g}".rstrip(".")
