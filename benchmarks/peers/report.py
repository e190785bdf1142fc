"""Report: summarizes measurements as one row per peer, with ratios, and as a table."""

import statistics
from typing import Any

from peers.catalogue import PEERS
from peers.workload import WORKLOADS, Workload

# Tolerance of updates in a window: its edges may cut a burst.
_EDGE_UPDATES = 8
# Tolerance of CPU seconds per second beyond the allowed threads.
_EXTRA_CORES = 0.15


def summarize(peer: str, workload: Workload, repeats: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns a row: median, min and max of the rate, and all repeats."""
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
    """Adds the ratio of fastdqn to each peer: the median over pairs of one round.

    The second ratio is by processor time, since another program may take a part of the core.
    """
    ours = rows.get("fastdqn")
    if ours is None:
        return
    for row in rows.values():
        for name, rate in (("fastdqn_ratio", _per_second), ("fastdqn_cpu_ratio", _per_cpu_second)):
            pairs = zip(ours["repeats"], row["repeats"], strict=False)
            row[name] = statistics.median(rate(our) / rate(theirs) for our, theirs in pairs)


def _per_second(repeat: dict[str, Any]) -> float:
    return repeat["steps_per_second"]


def _per_cpu_second(repeat: dict[str, Any]) -> float:
    return repeat["steps_per_second"] / repeat["cores_used"]


def problems(results: dict[str, dict[str, dict[str, Any]]], threads: int) -> list[str]:
    """Returns a line for each peer with other samples per step, or with more threads."""
    lines = []
    for name, rows in results.items():
        workload = WORKLOADS[name]
        for peer, row in rows.items():
            for repeat in row["repeats"]:
                due = repeat["steps"] / workload.steps_per_update
                if abs(repeat["updates"] - due) > max(0.01 * due, _EDGE_UPDATES):
                    lines.append(
                        f"{name} {peer}: {repeat['samples_per_step']:.2f} samples per step, "
                        f"not {workload.samples_per_step:.2f}"
                    )
                    break
            if row["cores_used"] > threads + _EXTRA_CORES:
                lines.append(f"{name} {peer}: uses {row['cores_used']:.2f} cores, not {threads}")
    return lines


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Returns a table for each workload, fastest first, with phases of fastdqn and notes."""
    lines = []
    for name, rows in results.items():
        workload = WORKLOADS[name]
        lines += [
            "",
            f"workload {name}: batch {workload.batch_size}, an update per "
            f"{workload.steps_per_update} steps, {workload.samples_per_step:g} samples per step",
            f"{'peer':10}{'envs':>5}{'steps/s':>10}{'min to max':>20}{'fastdqn is':>12}"
            f"{'by CPU time':>13}"
            f"{'samples/step':>14}{'warm-up s':>11}{'cores':>7}",
        ]
        order = sorted(rows, key=lambda peer: -rows[peer]["steps_per_second"]["median"])
        lines += [_line(peer, rows[peer]) for peer in order]
        if shares := rows.get("fastdqn", {}).get("phase_shares"):
            text = "  ".join(f"{phase} {share:.0%}" for phase, share in shares.items())
            lines.append(f"time of fastdqn: {text}")
    seen = dict.fromkeys(peer for rows in results.values() for peer in rows)
    return "\n".join([*lines, "", *(f"{peer}: {PEERS[peer].note}" for peer in seen)])


def _line(peer: str, row: dict[str, Any]) -> str:
    rate = row["steps_per_second"]
    spread = f"{rate['min']:,.0f} to {rate['max']:,.0f}"
    ratio, by_cpu = (
        f"{row[name]:.2f} x" if name in row else ""
        for name in ("fastdqn_ratio", "fastdqn_cpu_ratio")
    )
    return (
        f"{peer:10}{row['num_envs']:5}{rate['median']:10,.0f}{spread:>20}{ratio:>12}{by_cpu:>13}"
        f"{row['samples_per_step']:14.2f}{row['warmup_seconds']:11.1f}{row['cores_used']:7.2f}"
    )


def _shares(phases: list[dict[str, float]]) -> dict[str, float]:
    """Returns the share of each phase over all repeats, largest first."""
    names = {name for seconds in phases for name in seconds}
    sums = {name: sum(seconds.get(name, 0.0) for seconds in phases) for name in names}
    total = sum(sums.values())
    return {name: sums[name] / total for name in sorted(names, key=lambda name: -sums[name])}
