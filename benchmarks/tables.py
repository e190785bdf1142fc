"""Train Q-tables where the best return is known, and on CartPole, and say how far they came.

    python benchmarks/tables.py --seeds 5 --out benchmarks/results/tables.json

The greedy policy of a toy text environment is judged by its exact expected return within the
time limit. Beside it stand that of value iteration's policy, and the best of all policies, those
that count their steps included. All come from the environment's own table of transitions.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gymnasium
import numpy as np

import fastdqn

TASKS = {
    "FrozenLake-v1": ["FrozenLake-v1"],
    "FrozenLake-v1, not slippery": ["FrozenLake-v1", "--env-kwargs", "is_slippery=False"],
    "Taxi-v4": ["Taxi-v4"],
    "CliffWalking-v1": ["CliffWalking-v1"],
    "CartPole-v1": ["CartPole-v1", "--bins", "20"],
    "CartPole-v1, 500,000 steps": ["CartPole-v1", "--bins", "20", "--total-timesteps", "500000"],
}
# Steps of an episode where the environment has no limit: the shortest way takes 13.
_HORIZON = 200
_GAMMA = 0.99


def main() -> None:
    parser = argparse.ArgumentParser(description="Train Q-tables where the best is known.")
    parser.add_argument("--seeds", type=int, default=5, help="1 to this")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--out", type=Path, help="JSON file for the figures; runs in it are kept")
    args = parser.parse_args()
    rows = json.loads(args.out.read_text())["runs"] if args.out and args.out.exists() else []
    known = {(row["task"], row["seed"]) for row in rows}
    for task in args.tasks:
        for seed in range(1, args.seeds + 1):
            if (task, seed) in known:
                continue
            rows.append({"task": task, "seed": seed, **run_seed(TASKS[task], seed)})
            print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
            if args.out:
                command = " ".join(["python benchmarks/tables.py", *sys.argv[1:]])
                record = {"command": command, "runs": rows}
                args.out.write_text(json.dumps(record, indent=1) + "\n")


def run_seed(words: list[str], seed: int) -> dict:
    """One run: its final evaluation, the seconds of its loop, and where it can be had the exact
    return."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        subprocess.run(
            [sys.executable, "-m", "fastdqn", "tabular", *words, "--seed", str(seed), "--quiet",
             "--run-dir", str(run)],
            check=True,
        )  # fmt: skip
        summary = json.loads((run / "summary.json").read_text())
        config = json.loads((run / "config.json").read_text())
        policy = fastdqn.load_policy(run)
    env = gymnasium.make(config["env_id"], **config["env_kwargs"])
    exact = optimal = best = None
    if hasattr(env.unwrapped, "P"):
        rewards, goes_on, starts = transitions(env)
        horizon = env.spec.max_episode_steps if env.spec else None
        exact = float(starts @ returns(rewards, goes_on, horizon, greedy(policy, env)))
        planned = (rewards + _GAMMA * goes_on @ values(rewards, goes_on)).argmax(1)
        optimal = float(starts @ returns(rewards, goes_on, horizon, planned))
        best = float(starts @ returns(rewards, goes_on, horizon))
    return {
        "steps": summary["total_steps"],
        "return": summary["eval"]["mean_return"],
        "exact_return": exact,
        "value_iteration_return": optimal,
        "best_return": best,
        "seconds": round(summary["wall_seconds"], 1),
        "steps_per_second": round(summary["steps_per_second"]),
    }


def transitions(env) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a toy text environment: expected rewards [S, A], chances of going on to a state
    [S, A, S], and of starting in it [S]."""
    table, starts = env.unwrapped.P, np.asarray(env.unwrapped.initial_state_distrib)
    rewards = np.zeros((len(table), len(table[0])))
    goes_on = np.zeros((*rewards.shape, len(table)))
    for state, of_state in table.items():
        for action, outcomes in of_state.items():
            for chance, following, reward, terminated in outcomes:
                goes_on[state, action, following] += chance * (not terminated)
                rewards[state, action] += chance * reward
    return rewards, goes_on, starts


def returns(
    rewards: np.ndarray,
    goes_on: np.ndarray,
    horizon: int | None,
    action: np.ndarray | None = None,
) -> np.ndarray:
    """Expected undiscounted return [S] within horizon steps, of action [S], or of the best."""
    value = np.zeros(len(rewards))
    for _ in range(horizon or _HORIZON):
        each = rewards + goes_on @ value
        value = each.max(1) if action is None else each[np.arange(len(value)), action]
    return value


def values(rewards: np.ndarray, goes_on: np.ndarray) -> np.ndarray:
    """Value iteration: the discounted value [S] of each state."""
    value = np.zeros(len(rewards))
    for _ in range(5_000):
        value = (rewards + _GAMMA * goes_on @ value).max(1)
    return value


def greedy(policy, env) -> np.ndarray:
    """What a policy does in each state [S]."""
    count = env.observation_space.n
    obs = fastdqn.ObsReader(env.observation_space)(np.arange(count))
    if not hasattr(env.unwrapped, "action_mask"):
        return policy(obs)
    return policy(obs, np.array([env.unwrapped.action_mask(state) for state in range(count)]))


if __name__ == "__main__":
    main()
