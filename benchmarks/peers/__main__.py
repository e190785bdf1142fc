"""One measurement in a process of its own: python -m peers, told what by JSON on standard input."""

import importlib
import json
import sys
from pathlib import Path

from peers.catalogue import PEERS
from peers.window import Window
from peers.workload import PARAMETERS, START_STEPS, TOTAL_STEPS, WORKLOADS, Task


def main() -> None:
    told = json.load(sys.stdin)
    peer, workload = PEERS[told["peer"]], WORKLOADS[told["workload"]]
    window = Window(START_STEPS, told["steps"], told["started"])
    module = importlib.import_module(f"peers.{peer.module}")
    window.mark("imported")
    task = Task(
        workload,
        peer.lanes[workload.name],
        max(TOTAL_STEPS, window.stop_steps),
        told["threads"],
        told["seed"],
    )
    outcome = module.run(task, window)
    if outcome.counted_updates != outcome.optimizer_updates:
        raise SystemExit(
            f"{told['peer']} counts {outcome.counted_updates} updates, "
            f"its optimizer {outcome.optimizer_updates}"
        )
    if outcome.parameters != PARAMETERS:
        raise SystemExit(f"{told['peer']} trains {outcome.parameters} numbers, not {PARAMETERS}")
    result = window.result()
    result["samples_per_step"] = result["updates"] * workload.batch_size / result["steps"]
    result["phase_seconds"] = outcome.phase_seconds
    # Not standard output: libraries print there what they like.
    Path(told["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
