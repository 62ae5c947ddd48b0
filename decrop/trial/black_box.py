"""The inputs of a trial in front of a black box: the black box itself and its surrogate."""

from dataclasses import replace
from pathlib import Path

import torch

from decrop.black_box import endpoint_classifier
from decrop.cache import ContentCache
from decrop.classifiers.classifier import Classifier
from decrop.smoothing.prepare import copied
from decrop.training.hooks import NO_HOOKS, Hooks
from decrop.training.surrogate import load_surrogate, surrogate_to_train
from decrop.trial.inputs import PreparedTrial, TrialInputs


class PreparedBlackBoxTrial(PreparedTrial):
    """A trial that trains through a surrogate, and certifies the black box on test images."""

    @property
    def stealing_queries(self) -> int:
        """See `PreparedTrial`."""
        return self._surrogate.queries

    def load(
        self,
        cache: ContentCache,
        device: torch.device,
        *,
        ledger: Path | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> TrialInputs:
        """See `PreparedTrial`; the surrogate is stolen unless the cache has it."""
        given = replace(self._surrogate, classifier=copied(self.classifier))
        target = endpoint_classifier(self.config.classifier, self.dataset, ledger)
        target.memory = cache
        surrogate = load_surrogate(given, target, cache, device, hooks)
        return self._inputs(surrogate.classifier, target=target, agreement=surrogate.agreement)

    def _opened(self) -> Classifier:
        self._surrogate = surrogate_to_train(self.config, self.dataset, self.limited)
        return self._surrogate.classifier
