"""An agent of Stable-Baselines3; the callback records its first gradient step, not the rollout.

Run it with ``python examples/stable_baselines3_ppo.py [folder]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow
from stable_baselines3 import PPO

from modelviz_callbacks.integrations.stable_baselines3 import GraphCallback


def main(folder: Path) -> None:
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=128, tensorboard_log=str(folder), seed=0)
    with mlflow.start_run():
        agent.learn(256, callback=GraphCallback())
        mlflow.log_metric("steps", agent.num_timesteps)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/stable_baselines3"))
