"""Test certificates of the classifier without a denoiser, to compare those with one to."""

from decrop.config import TrialConfig
from decrop.training.hooks import NO_HOOKS, Hooks
from decrop.trial.certify import CertificationTask, certify, with_recorded_batch_size
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.outcome import accuracy_without_noise, trial_result
from decrop.trial.result import TrialResult


def certify_undefended(
    config: TrialConfig, inputs: TrialInputs, folder: TrialFolder, *, hooks: Hooks = NO_HOOKS
) -> TrialResult:
    """Certify the classifier on the test split with no denoiser in front, as a reference.

    A result that is in the folder already is returned as it is.

    Raises:
        ChangedInputsError: the folder was begun with another classifier or other test images.
        TrialStoppedError: the hooks said so.
    """
    folder.keep_inputs(inputs.hashes_of(config, "test"))
    if (finished := folder.result) is not None:
        return finished
    classifier = inputs.protected
    task = CertificationTask(classifier, inputs.test, "test", classifier.class_count)
    certification = certify(
        with_recorded_batch_size(config, task, folder.execution_path),
        task,
        estimation_samples=config.certification.most_estimation_samples,
        journal=folder.counts_path,
        hooks=hooks,
    )
    result = trial_result(
        certification,
        accuracy_without_noise(certification, folder.clean_accuracy_path),
        hashes={**inputs.hashes(), "classifier": classifier.content_hash()},
        seconds={},
        agreement=inputs.agreement,
    )
    folder.write_outcome(result, certification.table, title="no denoiser")
    return result
