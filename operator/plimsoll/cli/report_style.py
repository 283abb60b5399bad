"""How the report's plots look: stand-in colours that the page's style sheet replaces."""

from typing import Any

TEXT, GRID = "#a00000", "#a00001"
SERIES = tuple(f"#b0000{number}" for number in range(8))
"""Stand-ins: the page's style sheet has the real colours, one set for light and one for dark."""
COLOURS = {TEXT: "currentColor", GRID: "var(--grid)", **{c: f"var(--s{n})" for n, c in enumerate(SERIES)}}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "plimsoll",
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": TEXT,
    "axes.titlesize": 9.5,
    "axes.titlecolor": TEXT,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "text.color": TEXT,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
WIDTH = 10.5
