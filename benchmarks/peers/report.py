"""Reports: from single measurements to one row a peer, ratios, and a table."""

import statistics
from typing import Any

from peers.catalogue import PEERS
from peers.workload import WORKLOADS, Workload

# Updates by which a window may be off: one burst, cut by its edges.
_EDGE_UPDATES = 8
# CPU seconds a second, beyond the threads allowed, that an honest single thread does not reach.
_EXTRA_CORES = 0.15


def summarize(peer: str, workload: Workload, repeats: list[dict[str, Any]]) -> dict[str, Any]:
    """One row: median, min and max of the rate, and what every repeat said."""
    rates = [repeat["steps_per_second"] for repeat in repeats]
    steps = sum(repeat["steps"] for repeat in repeats)
    updates = sum(repeat["updates"] for repeat in repeats)
    row = {
        "steps_per_second": {
            "median": statistics.median(rates),
            "min": min(rates),
            "max": max(rates),
        },
        "samples_per_step": updates * workload.batch_size / steps,
        "num_envs": PEERS[peer].lanes[workload.name].num_envs,
        **{
            name: statistics.median(repeat[name] for repeat in repeats)
            for name in ("warmup_seconds", "import_seconds", "build_seconds", "cores_used")
        },
        "note": PEERS[peer].note,
        "repeats": repeats,
    }
    if repeats[0].get("phase_seconds"):
        row["phase_shares"] = _shares([repeat["phase_seconds"] for repeat in repeats])
    return row


def add_ratios(rows: dict[str, dict[str, Any]]) -> None:
    """fastdqn's rate by each peer's: the median over repeats, whose two came close in time."""
    ours = rows.get("fastdqn")
    if ours is None:
        return
    for row in rows.values():
        pairs = zip(ours["repeats"], row["repeats"], strict=False)
        row["fastdqn_ratio"] = statistics.median(
            our["steps_per_second"] / theirs["steps_per_second"] for our, theirs in pairs
        )


def problems(results: dict[str, dict[str, dict[str, Any]]], threads: int) -> list[str]:
    """What makes figures incomparable: other samples a step, or more threads; a line each."""
    lines = []
    for name, rows in results.items():
        workload = WORKLOADS[name]
        for peer, row in rows.items():
            for repeat in row["repeats"]:
                due = repeat["steps"] / workload.steps_per_update
                if abs(repeat["updates"] - due) > max(0.01 * due, _EDGE_UPDATES):
                    lines.append(
                        f"{name} {peer}: {repeat['samples_per_step']:.2f} samples a step, "
                        f"not {workload.samples_per_step:.2f}"
                    )
                    break
            if row["cores_used"] > threads + _EXTRA_CORES:
                lines.append(
                    f"{name} {peer}: keeps {row['cores_used']:.2f} cores busy, not {threads}"
                )
    return lines


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """All rows, a block a workload, fastest first; below, what differs, and fastdqn's phases."""
    lines = []
    for name, rows in results.items():
        workload = WORKLOADS[name]
        lines += [
            "",
            f"workload {name}: batch {workload.batch_size}, an update per "
            f"{workload.steps_per_update} steps, {workload.samples_per_step:g} samples a step",
            f"{'peer':10}{'envs':>5}{'steps/s':>10}{'min to max':>20}{'fastdqn is':>12}"
            f"{'samples/step':>14}{'warm-up s':>11}{'cores':>7}",
        ]
        order = sorted(rows, key=lambda peer: -rows[peer]["steps_per_second"]["median"])
        lines += [_line(peer, rows[peer]) for peer in order]
        if shares := rows.get("fastdqn", {}).get("phase_shares"):
            told = "  ".join(f"{phase} {share:.0%}" for phase, share in shares.items())
            lines.append(f"fastdqn's time: {told}")
    seen = dict.fromkeys(peer for rows in results.values() for peer in rows)
    return "\n".join([*lines, "", *(f"{peer}: {PEERS[peer].note}" for peer in seen)])


def _line(peer: str, row: dict[str, Any]) -> str:
    rate = row["steps_per_second"]
    spread = f"{rate['min']:,.0f} to {rate['max']:,.0f}"
    ratio = f"{row['fastdqn_ratio']:.2f} x" if "fastdqn_ratio" in row else ""
    return (
        f"{peer:10}{row['num_envs']:5}{rate['median']:10,.0f}{spread:>20}{ratio:>12}"
        f"{row['samples_per_step']:14.2f}{row['warmup_seconds']:11.1f}{row['cores_used']:7.2f}"
    )


def _shares(phases: list[dict[str, float]]) -> dict[str, float]:
    """Share of each phase in the time of all repeats, largest first."""
    names = {name for seconds in phases for name in seconds}
    sums = {name: sum(seconds.get(name, 0.0) for seconds in phases) for name in names}
    total = sum(sums.values())
    return {name: sums[name] / total for name in sorted(names, key=lambda name: -sums[name])}
