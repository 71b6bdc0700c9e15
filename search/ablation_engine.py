"""What happens next in an ablation: every step of a chain on every seed, nothing proposed and nothing pruned."""

from __future__ import annotations

from collections.abc import Sequence

from results.state import StudyState, Trial
from search.engine import Engine, JournalLike, Limits
from search.rungs import Scheduler
from spaces.chain import ResolvedStep
from spaces.space import ResolvedSpace


class AblationEngine(Engine):
    """Trains every step of a chain on every seed, a whole chain after another; nothing is proposed or pruned."""

    def __init__(
        self,
        state: StudyState,
        journal: JournalLike,
        space: ResolvedSpace,
        steps: Sequence[ResolvedStep],
        scheduler: Scheduler,
        limits: Limits,
        fingerprint: str,
        seed: int,
    ) -> None:
        super().__init__(state, journal, space, None, scheduler, limits, fingerprint, seed)
        self.steps = steps

    def _new_trial(self) -> Trial | None:
        """The first step of the first seed that is not there yet."""
        created = {(trial.step, trial.seed) for trial in self.state.trials.values()}
        for seed in range(self.seed, self.seed + self.limits.trials // len(self.steps)):
            for step in self.steps:
                if (step.name, seed) not in created:
                    return self._create(step.values, None, seed, "ablation", step.name)
        return None
