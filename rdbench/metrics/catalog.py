"""Every metric that rdbench prints: one entry per name, read by the docs, the CLI and the leaderboard.

The single truth about names, directions and units. It computes nothing and imports nothing heavy;
`docs/metrics.md` carries `table()` and a test holds the two together.
"""

from dataclasses import replace

from rdbench.metrics._entries import ENTRIES, Direction, Metric

__all__ = ["CONTROLS", "FAMILIES", "METRICS", "Direction", "Metric", "better", "table"]

CONTROLS = {
    "random": "the same figure for an uncertainty that knows nothing: its expectation over all orders",
    "margin": "the same figure for the free uncertainty -|score - threshold|",
    "oracle": "the same figure for an uncertainty that knows the errors: the best that is possible",
}


FAMILIES = {
    "detection": "Image detection",
    "localization": "Localisation",
    "selective": "Selective prediction: does the uncertainty know the errors",
    "calibration": "Calibration",
    "shift": "Shift",
    "cost": "Compute",
}


def _expand(entries: list[Metric]) -> dict[str, Metric]:
    expanded: dict[str, Metric] = {}
    for metric in entries:
        expanded[metric.name] = metric
        if metric.controls:
            for control, meaning in CONTROLS.items():
                name = f"{metric.name}_{control}"
                expanded[name] = replace(metric, name=name, definition=f"{metric.name}: {meaning}", controls=False)
    return expanded


METRICS: dict[str, Metric] = _expand(ENTRIES)
"""Every printed name, the controls included, in the order of printing."""


def better(name: str, first: float, second: float) -> bool:
    """Whether `first` beats `second` on the metric `name`; never true where the metric has no direction."""
    direction = METRICS[name].direction
    return (direction == "higher" and first > second) or (direction == "lower" and first < second)


def table(family: str) -> str:
    """One family as a Markdown table; metrics with controls say so instead of taking four rows."""
    rows = ["| Name | Better | Unit | Definition | Ties | `nan` when | Source |", "|---|---|---|---|---|---|---|"]
    for m in METRICS.values():
        if m.family != family or m.name.rpartition("_")[2] in CONTROLS:
            continue
        name = f"`{m.name}` (+ controls)" if m.controls else f"`{m.name}`"
        rows.append(f"| {name} | {m.direction} | {m.unit} | {m.definition} | {m.ties} | {m.undefined} | {m.source} |")
    return "\n".join(rows)
