"""The README.md of a bundle: what it protects, what is certified and what is not."""

import yaml

from decrop.config import CertificationSettings, TrialConfig
from decrop.evaluation.accuracy import exact_interval
from decrop.result import TrialResult

_SPLITS = {
    "test": "test images, which chose nothing",
    "held_out": "held-out images of the limited data, on which trials were ranked",
}
_PROCEDURES = {
    "fixed": "Certified by {certificate} from equally many noise draws of each image",
    "adaptive": "Certified by exact sequential tests of a grid of radii, whose guarantee does not "
    "depend on\nwhen an image stops",
}


def model_card(
    config: TrialConfig,
    result: TrialResult,
    estimation_samples: int,
    *,
    origin: str,
    with_classifier: bool,
) -> str:
    """Write a model card in Markdown with a YAML header."""
    header = {
        "library_name": "decrop",
        "tags": ["certified-robustness", "randomized-smoothing", "denoiser", "de-crop"],
        "datasets": [config.dataset.name],
        "license": "unknown",
    }
    classifier = (
        "The classifier's weights are included."
        if with_classifier
        else "The classifier's weights are not included; its content hash is in `config.json`."
    )
    settings = config.certification
    procedure = _PROCEDURES[settings.procedure].format(certificate=settings.certificate)
    draws = f"{'at most ' if settings.procedure == 'adaptive' else ''}{estimation_samples}"
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# Denoiser for certified robustness

Put this denoiser in front of the pretrained {config.classifier.architecture} classifier it was
trained for ({config.dataset.name}), and classify many noisy copies of an image (Gaussian noise,
σ = {config.sigma:g} in [0,1] pixels): the most frequent class cannot be changed by any perturbation
of an L2 norm below the certified radius. {classifier}

{origin}

## Certified accuracy

{result.scores.images} {_SPLITS[result.split]}; 95 % Clopper–Pearson intervals.

| radius | certified accuracy | interval |
| --- | --- | --- |
{_rows(result)}

Average certified radius {result.scores.average_certified_radius:.3f}; abstentions
{_percent(result.scores.abstention_rate)}; accuracy without noise
{_percent(result.clean_accuracy)}. ![Certified accuracy](figures/certified_accuracy.png)

## What a certificate means

{procedure}: {settings.selection_samples} selection and {draws}
estimation samples an image. {_guarantee(settings)}
It holds for the function that was sampled: this denoiser, this classifier, {result.precision} on
{result.device}. It says nothing about perturbations larger than the radius or measured in another
norm, nor about images unlike the data. The noise is added in floating point.

## Data

Trained on {config.limited.fraction:.2%} of the training split. Per-image certificates are in
`certificates.tsv`, all settings and content hashes in `config.json`.

    decrop verify FOLDER      # repeats every certificate recorded here
"""


def _guarantee(settings: CertificationSettings) -> str:
    promise = (
        f"Each certificate is wrong with a probability of at most {settings.failure_probability:g}"
    )
    if settings.certificate == "t_certify_published":
        return f"{promise}, for which the published proof of T-CERTIFY has a gap."
    return f"{promise}."


def _rows(result: TrialResult) -> str:
    rows = []
    for radius, accuracy in result.scores.certified_accuracy.items():
        successes = round(accuracy * result.scores.images)
        low, high = map(float, exact_interval(successes, result.scores.images))
        rows.append(f"| {radius} | {_percent(accuracy)} | {_percent(low)} – {_percent(high)} |")
    return "\n".join(rows)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
