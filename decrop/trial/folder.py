"""The folder of one trial: where its files lie, and how they are read and written."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file
from torch import nn

from decrop.config import DenoiserSettings, TrialConfig
from decrop.denoisers.adapted import bare
from decrop.denoisers.sources import store_program
from decrop.documents import validated
from decrop.evaluation.sigma_tables import SigmaTables
from decrop.evaluation.table import CertificateTable
from decrop.files import (
    MOST_WEIGHTS_BYTES,
    read_json,
    read_object,
    read_rows,
    require_regular,
    write_json,
    write_tensors,
    write_whole,
)
from decrop.smoothing.journal import remove_journals
from decrop.training.folder import TrainingFolder
from decrop.trial.result import TrialResult

# Figures are drawn once a trial has been trained; until then it needs no matplotlib.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from decrop.evaluation.sample_figures import PicturedSamples

TRAINING_FIGURE = "training.png"
ACCURACY_FIGURE = "certified_accuracy.png"
PROBABILITIES_FIGURE = "p_a_distribution.png"
SAMPLES_FIGURE = "samples.png"
FEATURES_FIGURE = "features.png"


@dataclass(frozen=True)
class Report:
    """A held-out (or, at the end of a final training, test) score of a trial.

    Attributes:
        evaluation: counted from 1.
        epoch: epochs that the scored denoiser was trained for.
        finished: whether this is the trial's last report.
        area_under_curve: of certified accuracy up to the largest of its radii.
    """

    evaluation: int
    epoch: int
    average_certified_radius: float
    certified_accuracy: dict[str, float]
    finished: bool
    area_under_curve: float


class TrialFolder(TrainingFolder):
    """The folder of one training with its certification; any file may be missing while it runs.

    All are written whole. Reading raises InputError where a file is not what it must be.

    Attributes (and those of `TrainingFolder`):
        config_path: the settings.
        execution_path: the batch size that its certificates are computed in.
        reports_path: one record an evaluation.
        denoiser_path: the trained weights.
        classifier_path: folder of the trained classifier, where the trial has no denoiser.
        certificates_path: one row an image; tables of further sigmas lie beside it.
        counts_path: class counts, while the final certification runs, likewise.
        result_path: the result, written last.
        figures_path: folder of pictures.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.config_path = path / "config.json"
        self.execution_path = path / "execution.json"
        self.reports_path = path / "reports.json"
        self.denoiser_path = path / "denoiser.safetensors"
        self.denoiser_settings_path = path / "denoiser.json"
        self.classifier_path = path / "classifier"
        self.certificates_path = path / "certificates.tsv"
        self.counts_path = path / "certification.counts"
        self.result_path = path / "result.json"
        self.figures_path = path / "figures"

    def read_config(self) -> TrialConfig:
        """Read the settings."""
        return TrialConfig.model_validate(read_json(self.config_path))

    def write_config(self, config: TrialConfig) -> None:
        """Write the settings."""
        write_json(self.config_path, config.model_dump(mode="json"))

    def read_reports(self) -> list[dict[str, Any]]:
        """Read the scores so far, [] if absent."""
        return read_rows(self.reports_path)

    @property
    def reports(self) -> list[Report]:
        """The scores so far."""
        return [Report(**report) for report in self.read_reports()]

    def write_reports(self, reports: Sequence[Report]) -> None:
        """Write one record an evaluation."""
        write_json(self.reports_path, [asdict(report) for report in reports])

    def read_result(self) -> dict[str, Any] | None:
        """Read the result of certification, None if absent."""
        return read_object(self.result_path) if self.result_path.exists() else None

    @property
    def result(self) -> TrialResult | None:
        """The result of certification, None if absent."""
        found = self.read_result()
        return None if found is None else TrialResult.from_json(found)

    def save_denoiser(self, denoiser: nn.Module, settings: DenoiserSettings | None = None) -> None:
        """Write the denoiser's weights as safetensors, and by what it is built anew.

        Args:
            settings: portable ones (`decrop.denoisers.sources.OpenedDenoiser`), where those of the
                trial name files.
        """
        if settings is not None and not self.denoiser_settings_path.exists():
            store_program(denoiser, self.path)
            write_json(self.denoiser_settings_path, settings.model_dump(mode="json"))
        write_tensors(self.denoiser_path, bare(denoiser).state_dict())

    def denoiser_settings(self, config: TrialConfig) -> DenoiserSettings:
        """Return by what the stored denoiser is built anew."""
        if not self.denoiser_settings_path.exists():
            return config.denoiser
        path = self.denoiser_settings_path
        return validated(DenoiserSettings, read_json(path), source=str(path))

    def load_denoiser(self, denoiser: nn.Module) -> None:
        """Give a denoiser the weights in the folder."""
        require_regular(self.denoiser_path, most_bytes=MOST_WEIGHTS_BYTES)
        bare(denoiser).load_state_dict(load_file(self.denoiser_path))

    def write_outcome(
        self,
        result: TrialResult,
        table: CertificateTable,
        sigma_tables: SigmaTables | None = None,
        *,
        title: str,
    ) -> None:
        """Write certificates, their picture and, last, the result.

        Args:
            sigma_tables: those at several sigmas, `table` among them.
            title: what the picture calls the certified function.
        """
        table.write(self.certificates_path)
        drawn = {title: table}
        if sigma_tables is not None:
            assert table.record is not None  # tables of several sigmas come from `certify`
            sigma_tables.write(self.certificates_path, table.record.sigma)
            drawn = sigma_tables.named()
        save_certificate_figures(drawn, self.figures_path)
        write_json(self.result_path, result.to_json())
        remove_journals(self.counts_path)

    def read_sigma_tables(self) -> SigmaTables | None:
        """Read the certificates at several sigmas, None where there is one alone."""
        config, result = self.read_config(), self.result
        if result is None or result.by_sigma is None:
            return None
        return SigmaTables.read(self.certificates_path, config.sigma, config.certified_sigmas)

    def draw_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Draw the losses over epochs, one record an epoch."""
        from decrop.evaluation.plots import training_curves_figure

        save_figure(training_curves_figure(history), self.figures_path / TRAINING_FIGURE)


def save_certificate_figures(tables: Mapping[str, CertificateTable], figures_path: Path) -> None:
    """Draw certificates by name: certified accuracy, and the distribution of p_A where known."""
    from decrop.evaluation.plots import certificates_figure, probabilities_figure

    save_figure(certificates_figure(tables), figures_path / ACCURACY_FIGURE)
    if any(table.probability is not None for table in tables.values()):
        save_figure(probabilities_figure(tables), figures_path / PROBABILITIES_FIGURE)


def save_sample_figures(
    figures_path: Path,
    shown: "PicturedSamples",
    denoiser: nn.Module,
    *,
    sigma: float,
    shown_class: int | None = None,
) -> None:
    """Draw the limited data as pictures, and the classifier's features of one class.

    Arguments as in `samples_figure` and `features_figure`.
    """
    from decrop.evaluation.sample_figures import features_figure, samples_figure

    save_figure(samples_figure(shown, denoiser, sigma=sigma), figures_path / SAMPLES_FIGURE)
    save_figure(features_figure(shown, shown_class), figures_path / FEATURES_FIGURE)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG."""
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
