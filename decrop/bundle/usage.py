"""How a bundle is opened and verified, as its user types it."""

import shlex

from decrop.config import TrialConfig
from decrop.config.classifier_source import imports_code, source_kind
from decrop.config.data import YOURS


def imported_code(config: TrialConfig) -> list[str]:
    """Return the sources of classifier and denoiser that opening a bundle imports."""
    classifier, denoiser = config.classifier.source, config.denoiser
    return [
        *([classifier] if imports_code(classifier) else []),
        *([denoiser.source] if denoiser.form.imports_code else []),
    ]


def load_call(config: TrialConfig, folder: str, *, with_classifier: bool) -> str:
    """Return what opens a bundle in Python; what is not in it is named in capitals."""
    options = "" if with_classifier else f', classifier="{_classifier_file(config)}"'
    if imported_code(config):
        options += ", trust_code=True"
    return f'decrop.load("{folder}"{options})'


def verify_command(config: TrialConfig, folder: str, *, with_classifier: bool) -> str:
    """Return the command that repeats a bundle's certificates.

    The data lies where the settings say; where they say nothing, as those in a bundle, data of the
    user's own is named PATH.
    """
    words = ["decrop", "verify", folder]
    path = config.dataset.path or ("PATH" if config.dataset.name in YOURS else None)
    if path is not None:
        words += ["--dataset-path", path]
    if not with_classifier:
        words += ["--weights", _classifier_file(config)]
    return shlex.join([*words, *(["--trust-code"] if imported_code(config) else [])])


def _classifier_file(config: TrialConfig) -> str:
    source = config.classifier.source
    files = {"program": "PROGRAM.pt2", "endpoint": source}
    return files.get(source_kind(source), "WEIGHTS.safetensors")
