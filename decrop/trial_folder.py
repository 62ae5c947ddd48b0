"""Where the files of one trial lie."""

from pathlib import Path


class TrialFolder:
    """The files of one training with its certification; any may be missing while it runs.

    Attributes:
        path: the folder.
        config_path: the settings.
        inputs_path: content hashes of what it works on, by role.
        execution_path: the batch size that its certificates are computed in.
        checkpoint_path: the state to resume from.
        history_path: one record an epoch.
        reports_path: one record an evaluation.
        denoiser_path: the trained weights.
        classifier_path: folder of the trained classifier, where the trial has no denoiser.
        certificates_path: one row an image.
        counts_path: class counts, while the final certification runs.
        clean_accuracy_path: accuracy without noise, of a black box.
        result_path: the result, written last.
        figures_path: folder of pictures.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.json"
        self.inputs_path = path / "inputs.json"
        self.execution_path = path / "execution.json"
        self.checkpoint_path = path / "checkpoint.pt"
        self.history_path = path / "history.json"
        self.reports_path = path / "reports.json"
        self.denoiser_path = path / "denoiser.safetensors"
        self.classifier_path = path / "classifier"
        self.certificates_path = path / "certificates.tsv"
        self.counts_path = path / "certification.counts"
        self.clean_accuracy_path = path / "clean_accuracy.json"
        self.result_path = path / "result.json"
        self.figures_path = path / "figures"
