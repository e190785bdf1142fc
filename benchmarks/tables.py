"""Trains Q-tables, and compares their returns with the best possible ones.

    python benchmarks/tables.py --seeds 5 --out benchmarks/results/tables.json

In toy text environments, the exact expected return of the greedy policy within the time limit is
computed from the transition table. It is compared with that of the policy from value iteration,
and with the best of all policies, including policies that depend on time. CartPole-v1 has no such
table, and is only evaluated.
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
# Steps of an episode if the environment has no limit. The shortest path takes 13.
_HORIZON = 200
_GAMMA = 0.99


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Trains Q-tables, and compares them with the best."
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 1")
    parser.add_argument(
        "--tasks", nargs="*", choices=TASKS, default=list(TASKS), help="default: all"
    )
    parser.add_argument(
        "--out", type=Path, help="JSON file for the results; existing runs are kept"
    )
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
    """Trains with one seed. Returns the final evaluation, the exact return, and the speed."""
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
        rewards, next_states, starts = transitions(env)
        horizon = env.spec.max_episode_steps if env.spec else None
        exact = float(starts @ returns(rewards, next_states, horizon, greedy(policy, env)))
        planned = (rewards + _GAMMA * next_states @ values(rewards, next_states)).argmax(1)
        optimal = float(starts @ returns(rewards, next_states, horizon, planned))
        best = float(starts @ returns(rewards, next_states, horizon))
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
    """Returns the model of a toy text environment.

    Returns:
        Expected rewards [S, A], probabilities of the next state [S, A, S] without termination,
        and of the first state [S].
    """
    table, starts = env.unwrapped.P, np.asarray(env.unwrapped.initial_state_distrib)
    rewards = np.zeros((len(table), len(table[0])))
    next_states = np.zeros((*rewards.shape, len(table)))
    for state, of_state in table.items():
        for action, outcomes in of_state.items():
            for chance, following, reward, terminated in outcomes:
                next_states[state, action, following] += chance * (not terminated)
                rewards[state, action] += chance * reward
    return rewards, next_states, starts


def returns(
    rewards: np.ndarray,
    next_states: np.ndarray,
    horizon: int | None,
    action: np.ndarray | None = None,
) -> np.ndarray:
    """Returns the expected return [S] within horizon steps of a policy [S], or of the best."""
    value = np.zeros(len(rewards))
    for _ in range(horizon or _HORIZON):
        each = rewards + next_states @ value
        value = each.max(1) if action is None else each[np.arange(len(value)), action]
    return value


def values(rewards: np.ndarray, next_states: np.ndarray) -> np.ndarray:
    """Returns the discounted value [S] of each state, by value iteration."""
    value = np.zeros(len(rewards))
    for _ in range(5_000):
        value = (rewards + _GAMMA * next_states @ value).max(1)
    return value


def greedy(policy, env) -> np.ndarray:
    """Returns the greedy action [S] in each state."""
    count = env.observation_space.n
    obs = fastdqn.ObsReader(env.observation_space)(np.arange(count))
    if not hasattr(env.unwrapped, "action_mask"):
        return policy(obs)
    return policy(obs, np.array([env.unwrapped.action_mask(state) for state in range(count)]))


if __name__ == "__main__":
    main()
