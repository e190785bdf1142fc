"""Makes one measurement in this process: `python -m peers`, with JSON on standard input."""

import importlib
import json
import sys
from pathlib import Path

from peers.catalogue import PEERS
from peers.window import Window
from peers.workload import PARAMETERS, START_STEPS, TOTAL_STEPS, WORKLOADS, Task


def main() -> None:
    request = json.load(sys.stdin)
    peer, workload = PEERS[request["peer"]], WORKLOADS[request["workload"]]
    window = Window(START_STEPS, request["steps"], request["started"])
    module = importlib.import_module(f"peers.{peer.module}")
    window.mark("imported")
    task = Task(
        workload,
        peer.lanes[workload.name],
        max(TOTAL_STEPS, window.stop_steps),
        request["threads"],
        request["seed"],
    )
    outcome = module.run(task, window)
    if outcome.counted_updates != outcome.optimizer_updates:
        raise SystemExit(
            f"{request['peer']} counts {outcome.counted_updates} updates, "
            f"its optimizer counts {outcome.optimizer_updates}"
        )
    if outcome.parameters != PARAMETERS:
        raise SystemExit(f"{request['peer']} has {outcome.parameters} parameters, not {PARAMETERS}")
    result = window.result()
    result["samples_per_step"] = result["updates"] * workload.batch_size / result["steps"]
    result["phase_seconds"] = outcome.phase_seconds
    # Not on standard output, since libraries print there.
    Path(request["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
