"""One plot: no-ops sent and collected in a second, by each way that was measured."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benchmarks.figures import Spread

__all__ = ["draw"]

# Between black and white, so that it can be read on either.
TEXT: Final = "#808080"
OURS: Final = "#2a9d8f"
OTHERS: Final = "#9aa5b1"


def draw(ways: Mapping[str, Spread], ours: set[str], title: str, path: Path) -> None:
    """Write a bar for each of ``ways`` to ``path``; the file's ending says in which format."""
    matplotlib: Any = import_module("matplotlib")
    matplotlib.use("Agg")
    # The same figures give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "taskservice", "svg.fonttype": "none"})
    pyplot: Any = import_module("matplotlib.pyplot")
    names = sorted(ways, key=lambda name: ways[name].median)
    medians = [ways[name].median for name in names]
    margins = [
        [ways[name].median - ways[name].least for name in names],
        [ways[name].most - ways[name].median for name in names],
    ]

    figure, axes = pyplot.subplots(figsize=(7.2, 0.42 * len(names) + 0.7), layout="constrained")
    colours = [OURS if name in ours else OTHERS for name in names]
    axes.barh(names, medians, color=colours, height=0.62, xerr=margins, ecolor=TEXT, capsize=2)
    for place, name in enumerate(names):
        axes.annotate(
            f"{ways[name].median:,.0f}",
            (ways[name].most, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=TEXT,
        )
    axes.set_title(title, loc="left", color=TEXT, fontsize=10)
    axes.set_xlim(right=max(spread.most for spread in ways.values()) * 1.12)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=TEXT)
    axes.set_xticks([])
    figure.savefig(path, transparent=True, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
