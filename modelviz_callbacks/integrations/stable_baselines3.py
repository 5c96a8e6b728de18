"""``model.learn(10_000, callback=GraphCallback())`` of Stable-Baselines3."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from typing_extensions import Unpack

from modelviz_callbacks.hook import GraphHook
from modelviz_callbacks.options import OptionFields, make_options
from modelviz_callbacks.report import Report

# What algorithms that learn on-policy call on their policy in every gradient step.
_METHOD = "evaluate_actions"


class GraphCallback(BaseCallback):
    """Records the first gradient step of an agent: the policy, as it is trained.

    Of on-policy algorithms (PPO, A2C) it is ``policy.evaluate_actions``, the batch's actions among
    its inputs, and the loss; of the others (DQN, SAC, TD3) what the networks run up to the first
    backward. The rollouts before are not recorded. The logger's TensorBoard writer gets the graph.

    Example:
        >>> agent = PPO("MlpPolicy", "CartPole-v1", tensorboard_log="runs")
        >>> agent.learn(10_000, callback=GraphCallback())
        modelviz: ...
    """

    def __init__(self, verbose: int = 0, **options: Unpack[OptionFields]) -> None:
        """Nothing happens before training begins.

        Args:
            verbose: As in every callback of Stable-Baselines3.
            **options: See ``modelviz_callbacks.options.Options``.

        Raises:
            OptionError: An option is unknown or has an impossible value.
        """
        super().__init__(verbose)
        make_options(**options)
        self._options = options
        self._hook: GraphHook | None = None

    @property
    def report(self) -> Report | None:
        """What was written where; ``None`` before training."""
        return self._hook.report if self._hook is not None else None

    def _on_training_start(self) -> None:
        policy = self.model.policy
        method = _METHOD if hasattr(policy, _METHOD) else None
        self._hook = GraphHook(
            policy,
            method=method,
            loggers=self.logger.output_formats,
            loss=True,
            **self._options,
        )

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if self._hook is not None:
            self._hook.close()

    def __getstate__(self) -> dict[str, Any]:
        # A copy is for another run: what belongs to this one stays behind.
        return {**vars(self), "_hook": None}
