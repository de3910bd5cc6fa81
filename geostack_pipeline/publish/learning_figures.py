"""Pictures of the learning loop: how a training went, how methods compare."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def loss_curves(history: Sequence[Mapping[str, float]], title: str) -> bytes:
    """Return a PNG of loss and learning rate by step."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        [row["step"] for row in history], [row["loss"] for row in history], label="training", color="#1f5fa8"
    )
    judged = [
        row for row in history if row.get("validation_loss", float("nan")) == row.get("validation_loss")
    ]
    if judged:
        axes.plot(
            [row["step"] for row in judged],
            [row["validation_loss"] for row in judged],
            "o-",
            label="validation",
            color="#b5482a",
        )
    axes.set(xlabel="step", ylabel="loss", title=title)
    rate = axes.twinx()
    rate.plot([row["step"] for row in history], [row["learning_rate"] for row in history], ":", color="0.6")
    rate.set_ylabel("learning rate (dotted)")
    axes.legend(frameon=False)
    return _png(figure)


def precision_recall(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    bins: Sequence[Mapping[str, float]],
    title: str,
) -> bytes:
    """Return a PNG of precision-recall curves, and of observed over predicted probability."""
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, points in curves.items():
        if points:
            left.plot([x for x, _ in points], [y for _, y in points], label=name)
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=title)
    if any(curves.values()):
        left.legend(frameon=False)
    right.plot([0, 1], [0, 1], ":", color="0.6")
    right.plot([row["predicted"] for row in bins], [row["observed"] for row in bins], "o-")
    right.set(
        xlabel="predicted probability",
        ylabel="share of plume pixels",
        xlim=(0, 1),
        ylim=(0, 1),
        title="calibration",
    )
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
