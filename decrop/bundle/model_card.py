"""The README.md of a bundle: what it protects, what is certified and what is not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from decrop.bundle.layout import (
    CARD,
    CERTIFICATES,
    CHECKSUMS,
    CLASSIFIER,
    CONFIG,
    DENOISER,
    ENVELOPE_TABLE,
    HISTORY,
    ONNX,
    RECORD,
    REJECTOR,
    REJECTOR_HISTORY,
    TORCH_EXPORT,
)
from decrop.bundle.load import RejectorRecord
from decrop.bundle.trained_part import PARTS
from decrop.bundle.usage import load_call, verify_command
from decrop.config import CertificationSettings, TrialConfig
from decrop.config.data import YOURS
from decrop.denoisers.sources import PROGRAM
from decrop.documents import parse_yaml
from decrop.errors import InputError
from decrop.evaluation.accuracy import exact_interval
from decrop.evaluation.table import Shares
from decrop.rejection.training import RejectionScores
from decrop.smoothing.noise import PixelGrid
from decrop.trial.result import TrialResult
from decrop.wording import counted

_SPLITS = {
    "test": "test images, which chose nothing",
    "held_out": "held-out images of the limited data, on which trials were ranked",
}
_CHOSEN_BY = {
    "held_out": "That is of a function that was chosen without them. Of a trial, or an epoch, that "
    "is chosen by\nthese certificates more may be wrong.\n",
}
_PROCEDURES = {
    "fixed": "Certified by {certificate} from equally many noise draws of each image",
    "adaptive": "Certified by exact sequential tests of a grid of radii, whose guarantee does not "
    "depend on\nwhen an image stops",
    "anytime": "Certified from a bound that holds at every number of noise draws at once, so that "
    "more of them\nmay follow",
}
_PIXELS = {
    "float": "sent as they come out of the denoiser",
    "clipped": "clipped to [0,1] before they are sent, which is part of what is certified",
    "uint8": "rounded to 8 bits before they are sent, which is part of what is certified",
}
_AT_SIGMA = f"{Path(CERTIFICATES).stem}_sigma_"
_FILES = {
    DENOISER: "weights of the denoiser",
    PROGRAM: "the network of the denoiser, a program of torch.export, without what was trained",
    REJECTOR: "weights of the rejector",
    REJECTOR_HISTORY: "its loss in each epoch",
    ONNX: "the denoiser alone as ONNX: float32 `images` to `denoised`, any batch",
    TORCH_EXPORT: "the same for `torch.export.load`, which needs no decrop",
    f"{CLASSIFIER}/classifier.json": "architecture, class names and content hash of the classifier",
    f"{CLASSIFIER}/weights.safetensors": "its weights",
    f"{CLASSIFIER}/program.pt2": "the classifier, a program of torch.export; decrop reads it and "
    "runs no code that its maker may have put into it, `torch.export.load` does",
    CERTIFICATES: "one row an image that was certified",
    RECORD: "its settings and content hashes",
    _AT_SIGMA: "the same at other σ",
    ENVELOPE_TABLE: "the envelope of all σ, and of each image at which",
    CONFIG: "all settings, scores and content hashes",
    HISTORY: "losses of each epoch",
    "figures/": "figures",
    CHECKSUMS: "SHA-256 of each file",
}
_ACCURACY = "## Certified accuracy"
_SIGMAS = "## At several σ"
# Of which a bundle with its classifier has one.
_CLASSIFIERS = {f"{CLASSIFIER}/weights.safetensors", f"{CLASSIFIER}/program.pt2"}


@dataclass(frozen=True)
class Described:
    """What a bundle's settings and its card say.

    Attributes:
        config: portable ones.
        estimation_samples: N, or the most of them where images stop early.
        origin: sentences that say how this denoiser was chosen.
        license_id: of the weights, as model hubs name it.
    """

    config: TrialConfig
    result: TrialResult
    estimation_samples: int
    shares: Shares
    origin: str
    license_id: str
    rejector: RejectorRecord | None = None


def model_card(described: Described, files: Sequence[str]) -> str:
    """Write a model card in Markdown with a YAML header that model hubs read.

    Args:
        files: names of the bundle's files, without this card and the checksums.
    """
    config, result, shares = described.config, described.result, described.shares
    rejection = None if described.rejector is None else described.rejector.held_out
    part = PARTS[config.trains]
    header: dict[str, Any] = {
        "library_name": "decrop",
        "pipeline_tag": "image-classification",
        "license": described.license_id,
        "tags": [
            "certified-robustness",
            "randomized-smoothing",
            *part.tags,
        ],
    }
    # Data of the user's own have no name that others know.
    if config.dataset.name not in YOURS:
        header["datasets"] = [config.dataset.name]
    with_classifier = not _CLASSIFIERS.isdisjoint(files)
    endpoint = config.classifier.asked
    classifier = (
        "The classifier's weights are included."
        if with_classifier
        else "The classifier is\nan HTTP endpoint, which is asked only where the user names it; "
        f"images are {_PIXELS[endpoint.pixels]}."
        if endpoint is not None
        else "The classifier's weights are not included; its content hash is in "
        "`classifier/classifier.json`."
    )
    verify = verify_command(config, "FOLDER", with_classifier=with_classifier)
    settings = config.certification
    procedure = _PROCEDURES[settings.procedure].format(certificate=settings.certificate)
    weakness = f" **{settings.weakness}**" if settings.weakness else ""
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {config.trains.capitalize()} for certified robustness

{part.use(config, f"({config.dataset.name}{_images(result)})")}
{_smoothing(config)}: the most frequent class cannot be changed by
any perturbation of an L2 norm below the certified radius. {classifier}
{_rejector(rejection)}
## Use

    import decrop

    model = {load_call(config, "FOLDER", with_classifier=with_classifier)}
    model.predict(images)    # classes, or -1 where it abstains
    model.certify(images)    # classes with the radius that each is certified for

Images are uint8, or floats in [0,1], [batch, channels, height, width].{_made_of_files(config)}
`{verify}` repeats every certificate recorded here.

{_ACCURACY}

{result.scores.images} {_SPLITS[result.split]}; 95 % Clopper–Pearson intervals.

| radius | certified accuracy | interval |
| --- | --- | --- |
{_rows(result)}

{_average(result)}; certified correct
{_percent(shares.correct)}, misclassified {_percent(shares.misclassified)} (a wrong class was \
selected, certified
or not), abstentions {_percent(shares.abstained)}; accuracy without noise
{_percent(result.clean_accuracy)}.
{_figure(files)}{_at_several_sigmas(result)}
## What a certificate means

{procedure}{_promise(settings, described.estimation_samples)}{weakness}
{_CHOSEN_BY.get(result.split, "")}{_sample_sizes(settings)}

It holds for the function that was sampled: {part.before_the_classifier}\
this classifier,
{"" if rejection is None else "this rejector, "}{result.precision} on {result.device}, in batches of
{_batches(config)}. {_noise(config)}

## Limits

A certificate says nothing about perturbations larger than the radius or measured in another norm,
nor about images unlike the data. It does not say that the class is right, only that it stays the
same.

## Data and training

{part.training_data(config)} {part.training(config)}

{described.origin}

## Files

| | |
| --- | --- |
{_file_rows(files)}
"""


def misquotes(card: str, config: TrialConfig, result: TrialResult, estimation_samples: int) -> bool:
    """Return whether a card that tabulates certified accuracies has other figures than a result.

    Arguments as of `model_card`.
    """
    _, heading, after = card.partition(f"\n{_ACCURACY}\n\n")
    section = after.partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return bool(heading) and not (
        section.startswith(f"{result.scores.images} ")
        and rows[2:] == _rows(result).splitlines()
        and f"\n{_average(result)};" in section
        and _at_several_sigmas(result) in card
        and f"\n{_smoothing(config)}: " in card
        and _promise(config.certification, estimation_samples) in card
    )


def license_and_origin(card: str) -> tuple[str, str]:
    """Read back which licence a card states and how the denoiser was chosen."""
    parts = card.split("---\n", 2)
    try:
        header = parse_yaml(parts[1], CARD) if len(parts) == 3 else None
    except InputError:
        header = None
    found = header.get("license") if isinstance(header, dict) else None
    _, _, after = card.partition("\n## Data and training\n\n")
    _, _, origin = after.partition("\n## Files\n")[0].partition("\n\n")
    return found if isinstance(found, str) else "unknown", origin.strip()


def _rejector(scores: RejectionScores | None) -> str:
    if scores is None:
        return ""
    of_errors, of_others = (
        "—" if share is None else _percent(share)
        for share in (scores.errors_rejected, scores.right_rejected)
    )
    return f"""
A rejector turns noisy copies away whose class it doubts; they count for no class. Of
{scores.draws} noisy copies of held-out images of the limited data it rejects
{_percent(scores.rejected)}: {of_errors} of those whose class differs from that of the clean image,
and {of_others} of the others. The rejector was not trained on these images; the denoiser may have
been.
"""


def _batches(config: TrialConfig) -> str:
    chunks = config.execution.chunks_per_batch
    assert chunks != "auto"  # a bundle records what was used
    size = counted(config.execution.chunk_size, "noisy copy", "noisy copies")
    return f"{counted(chunks, 'chunk')} of {size}"


def _images(result: TrialResult) -> str:
    channels, height, width = result.image_shape
    return f", images of {channels}×{height}×{width}"


def _made_of_files(config: TrialConfig) -> str:
    """Say how images became those that were certified, where that is more than to decode them."""
    dataset = config.dataset
    steps = [] if dataset.mode is None else [f"read as {dataset.mode}"]
    if dataset.image_size is not None:
        steps.append(
            f"resized until the shorter side has {dataset.resized_to} pixels\n(bilinear, "
            f"antialiased), and cut to the {dataset.image_size} x {dataset.image_size} in the "
            "centre, as by torchvision's presets"
        )
    if not steps:
        return ""
    return f"\nFiles were {', '.join(steps)}.\nCertificates are of the images that result."


def _figure(files: Sequence[str]) -> str:
    figures = {
        "Certified accuracy": "figures/certified_accuracy.png",
        "Distribution of p_A": "figures/p_a_distribution.png",
    }
    shown = [f"\n![{title}]({path})\n" for title, path in figures.items() if path in files]
    return "".join(shown)


def _at_several_sigmas(result: TrialResult) -> str:
    """Return a section with certified accuracies at each sigma, where there are several."""
    if result.by_sigma is None or result.envelope is None:
        return ""
    radii = list(result.scores.certified_accuracy)
    rows = [
        " | ".join(
            [
                f"| {name}",
                *(_percent(scores.certified_accuracy[radius]) for radius in radii),
                f"{scores.average_certified_radius:.3f} |",
            ]
        )
        for name, scores in {**result.by_sigma, "envelope": result.envelope}.items()
    ]
    return f"""
{_SIGMAS}

Certified accuracy at each radius on the same images, by the standard deviation σ of the noise:

| σ | {" | ".join(radii)} | average radius |
| --- |{" --- |" * len(radii)} --- |
{chr(10).join(rows)}

The envelope takes of each image the largest radius at any σ, whatever its class. The failure
probability is split over these σ, so that all certificates of an image hold together. It says that
the smoothed classifier at the σ of that image keeps its answer. It is no certificate of one
classifier that chooses σ by the image, for within the radius the choice might change.
"""


def _file_rows(files: Sequence[str]) -> str:
    return "\n".join(
        f"| `{name}{'…' if name == _AT_SIGMA else ''}` | {meaning} |"
        for name, meaning in _FILES.items()
        if name in files or name == CHECKSUMS or any(file.startswith(name) for file in files)
    )


def _smoothing(config: TrialConfig) -> str:
    return f"(Gaussian noise, σ = {config.sigma:g} in [0,1] pixels)"


def _promise(settings: CertificationSettings, estimation_samples: int) -> str:
    """Say with how many samples, and how surely, each certificate holds."""
    most = "at most " if settings.procedure == "adaptive" else ""
    gap = ""
    if settings.certificate == "t_certify_published":
        gap = ", for which the published proof of T-CERTIFY has a gap"
    return (
        f": {settings.selection_samples} selection and {most}{estimation_samples}\n"
        "estimation samples an image. Each certificate is wrong with a probability of at most "
        f"{settings.failure_probability:g}{gap}."
    )


def _sample_sizes(settings: CertificationSettings) -> str:
    if settings.procedure == "anytime":
        return "That holds for these and all later certificates from the same noise together."
    return (
        "The sample sizes were fixed beforehand: to certify again with others until it pleases\n"
        "multiplies that probability."
    )


def _noise(config: TrialConfig) -> str:
    if config.certification.noise == "gaussian":
        return (
            "The noise is added\nin floating point, for which the theorem does not strictly hold."
        )
    grid = PixelGrid.of(config.sigma)
    low, high = grid.lowest // grid.scale, grid.highest // grid.scale
    return (
        f"The image with\nthe noise is rounded to multiples of 1/{grid.scale} and cut to "
        f"[{low}, {high}], which is a part of that\nfunction and is computed exactly, in integers. "
        "So the certificate holds against all\nreal-valued perturbations, those to other 8-bit "
        "images among them. An image that is not\nof 8 bits is certified at the nearest grid "
        "point, with a radius smaller by the distance."
    )


def _rows(result: TrialResult) -> str:
    rows = []
    for radius, accuracy in result.scores.certified_accuracy.items():
        successes = round(accuracy * result.scores.images)
        low, high = map(float, exact_interval(successes, result.scores.images))
        rows.append(f"| {radius} | {_percent(accuracy)} | {_percent(low)} – {_percent(high)} |")
    return "\n".join(rows)


def _average(result: TrialResult) -> str:
    low, high = result.scores.average_radius_interval
    average = result.scores.average_certified_radius
    return f"Average certified radius {average:.3f} ({low:.3f} – {high:.3f})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
