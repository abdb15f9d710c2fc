"""What one asks of a sweep next, a line each.

    from hlvnn.analysis import questions
    questions.early_order(sweep), questions.in_common(sweep), questions.next_steps(sweep)

`docs/ten_questions.md` asks them of a real one.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from hlvnn.analysis.gains import gains
from hlvnn.analysis.results import Results
from hlvnn.columns import EPOCH
from hlvnn.records.outcomes import Status
from hlvnn.selection import MIN

FEWEST = 3
"""Trials that ended by themselves from which on their order is compared."""


def early_order(results: Results) -> pd.DataFrame:
    """Return how well the trials' order at an epoch tells the one in the end, a row per epoch.

    Of completed trials. Columns epoch, trials (that were measured then), correlation (Spearman's,
    of the metric then and at the chosen epoch), winner_rank (place then of the trial that came out
    best; 1 is the first), of (all trials measured then, stopped ones too), cut (trials that a
    scheduler ended there), is_rung (whether it compared trials there). Where correlations are low,
    or the winner was far behind at a rung, good ones may have been cut short: give them longer
    (`--grace-period`).
    """
    sign = 1.0 if results.mode == MIN else -1.0
    columns = [EPOCH, "trials", "correlation", "winner_rank", "of", "cut", "is_rung"]
    table = results.table.set_index("trial")
    ended = table.index[table["status"] == Status.COMPLETED]
    at = results.epochs.pivot_table(results.metric, EPOCH, "trial") * sign
    last = at.reindex(columns=ended).min()  # each trial's chosen epoch is its best
    winner = last.idxmin() if last.notna().any() else None
    is_cut = (table["status"] == Status.STOPPED) & ~table["unfinished"].astype(bool)
    stopped = table.loc[is_cut, "epochs"]
    rows = []
    for epoch, values in at.iterrows():
        own = values.reindex(ended).dropna()
        found = own.corr(last[own.index], method="spearman") if len(own) >= FEWEST else np.nan
        rank = values.rank(method="min").get(winner, np.nan) if winner is not None else np.nan
        count = int((stopped == epoch).sum())
        row = [epoch, len(own), found, rank, values.count(), count, epoch in results.rungs]
        rows.append(row)
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype({"winner_rank": "Int64"})


def in_common(results: Results, trial: int | None = None) -> pd.DataFrame:
    """Return what groups that gain, and the weakest tenth, have in common, by their attributes.

    A row per attribute (of `--group-table`, and the number of training rows) and bin or category of
    it, the attribute that goes with the gain most surely first. Columns attribute, value, groups,
    gain (over the pooled model, mean over groups), error, weakest (how many of its groups are among
    the weakest tenth), p (of as many there by chance), p_gain (of gains being alike whatever the
    attribute). trial: None = the best with latents.
    Raises `RunError` where there is no pooled model to compare with.
    """
    from hlvnn.analysis.report.attributes import of_sweep  # draws, too: reading needs no matplotlib

    found = of_sweep(results, gains(results, trial=trial))
    parts = [one.parts.assign(attribute=one.name, p_gain=one.p) for one in found]
    names = ["attribute", "value", "groups", "gain", "error", "weakest", "p", "p_gain"]
    return pd.concat([pd.DataFrame(columns=names), *parts], ignore_index=True)[names]


def next_steps(results: Results) -> list[str]:
    """Return what the results suggest to try next, each with its reason, as in the report.

    Without what needs predictions of the model anew (whether it is too sure of itself).
    """
    from hlvnn.analysis.report import findings

    steps = findings.next_steps(results, findings.Evidence())
    return [f"{step.said} {step.command}".strip() for step in steps]
