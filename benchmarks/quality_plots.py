"""Pictures of the study of retrieval quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.ticker
import numpy as np

from benchmarks.quality_scores import TRUE_PPM_M, Map, Scores

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_COLOURS = {
    "CMF": "tab:blue",
    "mag1c": "tab:orange",
    "mag1c, linear": "tab:brown",
    "L2B product": "tab:green",
    "MBMP": "tab:red",
}
_DPI = 90


def _style(name: str) -> dict[str, str]:
    return {
        "color": _COLOURS[name.removesuffix(", blurred")],
        "linestyle": "--" if name.endswith("blurred") else "-",
        "label": name,
    }


def draw(
    scores: Mapping[str, Scores],
    example: Mapping[str, Map],
    folder: Path,
    *,
    bins: Sequence[tuple[float, float]],
) -> None:
    """Write ``retrieval-*.png`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13.5, 4.2), layout="constrained")
    _curves(left, scores)
    _detection(middle, scores, bins)
    _rates(right, scores)
    figure.savefig(folder / "retrieval-quality.png", dpi=_DPI)
    plt.close(figure)
    _example(example, folder / "retrieval-maps.png")


def _curves(axes: Axes, scores: Mapping[str, Scores]) -> None:
    for name, one in scores.items():
        assert one.curve is not None
        axes.plot(*one.curve, **_style(name))
    axes.set(
        xlabel="recall", ylabel="precision", title=f"pixels of at least {TRUE_PPM_M:.0f} ppm m", xlim=(0, 1)
    )
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=7)


def _detection(axes: Axes, scores: Mapping[str, Scores], bins: Sequence[tuple[float, float]]) -> None:
    for name, one in scores.items():
        rates, found = np.array(one.rates), np.array(one.found, float)
        inside = [(rates >= low) & (rates < high) for low, high in bins]
        centres = [np.sqrt(low * high) for low, high in bins]
        axes.plot(centres, [found[here].mean() if here.any() else np.nan for here in inside], "o", markersize=4,
                  **_style(name))  # fmt: skip
    axes.set(xscale="log", xlabel="rate of the leak, kg/h", ylabel="share found", ylim=(-0.03, 1.03))
    axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axes.set_title("plumes, at one false one per 100 km2")


def _rates(axes: Axes, scores: Mapping[str, Scores]) -> None:
    for name in ("CMF", "mag1c", "MBMP, blurred"):
        one = scores[name]
        axes.plot(
            one.rates, one.estimated, "o", markersize=4, alpha=0.7, color=_style(name)["color"], label=name
        )
    axes.plot([100, 12_000], [100, 12_000], color="grey", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="planted, kg/h", ylabel="estimated, kg/h", title="rates")
    axes.legend(fontsize=7)


def _example(example: Mapping[str, Map], path: Path) -> None:
    """Draw one granule: the truth and what each method makes of it, as a strip turned on its side."""
    names = [name for name in ("CMF", "CMF, blurred", "mag1c", "mag1c, blurred") if name in example]
    figure, rows = plt.subplots(len(names) + 2, 1, figsize=(11.0, 7.4), layout="constrained")
    first = example["CMF"]
    strips = [("truth", first.column), *((name, example[name].estimate) for name in names)]
    for axes, (name, values) in zip(rows[:-1], strips, strict=True):
        shown = axes.imshow(np.asarray(values).T, vmin=0.0, vmax=1500.0, cmap="inferno", aspect="auto")
        axes.set_ylabel(name, fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    # Lines of the swath count northwards, rows of the map southwards.
    coarse = example["MBMP, blurred"].estimate[::-1].T
    axes = rows[-1]
    axes.imshow(coarse, vmin=0.0, vmax=6000.0, cmap="inferno", aspect="auto")
    axes.set_ylabel("MBMP, blurred\n(to 6000)", fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    figure.colorbar(shown, ax=list(rows[:-1]), label="methane, ppm m", shrink=0.6)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
