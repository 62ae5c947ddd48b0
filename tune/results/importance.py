"""How much each swept setting matters to the held-out score, by Optuna's functional ANOVA."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from tune.domains import Space
from tune.finished_trials import PastTrial, finite, quiet_optuna, recorded

# With fewer the forest behind the shares has next to nothing to split.
LEAST_TRIALS = 8


@dataclass(frozen=True)
class Importances:
    """Shares of the variance of scores, largest first.

    Attributes:
        evaluation: at which all the trials were compared, counted from 1.
        trials: that were compared.
        shares: in [0,1] by dotted path; they add up to 1.
    """

    evaluation: int
    trials: int
    shares: Mapping[str, float]


def parameter_importances(past: Sequence[PastTrial], space: Space) -> Importances | None:
    """Compare trials at the last evaluation that enough of them have reached.

    Pruned trials have no final score, and one after less training cannot stand beside those of
    others after all of it; so all are compared after the same training.

    Source: Hutter, Hoos and Leyton-Brown, An Efficient Approach for Assessing Hyperparameter
    Importance, ICML 2014.

    Returns:
        None where fewer than `LEAST_TRIALS` trials can be compared, they all scored the same, or
        no setting differs between them.
    """
    known = [
        (trial, dict(ended.intermediate))
        for ended in past
        if ended.state in ("complete", "pruned") and (trial := recorded(ended, space)) is not None
    ]
    evaluations = {evaluation for _, scores in known for evaluation in scores}
    for evaluation in sorted(evaluations, reverse=True):
        compared = [
            (trial, score)
            for trial, scores in known
            if (score := finite(scores.get(evaluation))) is not None
        ]
        if len(compared) >= LEAST_TRIALS:
            break
    else:
        return None
    if len({score for _, score in compared}) == 1:
        return None
    with quiet_optuna():
        study = optuna.create_study(direction="maximize")
        for trial, score in compared:
            study.add_trial(
                optuna.create_trial(
                    value=score, params=trial.params, distributions=trial.distributions
                )
            )
        shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return Importances(evaluation, len(compared), shares) if shares else None
