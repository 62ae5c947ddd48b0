"""The certified test images: their certificates as rows, and what they look like."""

import base64
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from decrop.config import TrialConfig
from decrop.data.datasets import Dataset, load_dataset
from decrop.data.limited import LabelledImages, take, take_recorded
from decrop.denoisers.sources import stored_denoiser
from decrop.errors import InputError, RunError
from decrop.evaluation.sample_figures import noisy_and_denoised, picture_noise
from decrop.evaluation.table import CertificateTable
from decrop.smoothing.certificates import ABSTAIN
from decrop.smoothing.execution import resolve_device
from decrop.smoothing.noise import as_pixels
from decrop.wording import counted
from tune.directory import SweepTrialFolder
from tune.results.html.charts import spaced

MOST_IMAGES = 500
KINDS = ("clean", "noisy", "denoised")
# Of all thumbnails together, as text: with plotly.js they stay below 5 MB.
_MOST_CHARACTERS = 1_500_000
# Longest sides in pixels and WebP's qualities, tried in turn until they fit.
_ENCODINGS = ((96, 80), (64, 75), (64, 50), (48, 50), (32, 50), (24, 30))
# Noise is most of the room, and the least to be seen exactly.
_NOISY_QUALITY = 0.3
# Below that, pictures are small without loss.
_LOSSLESS_SIDE = 16
_BATCH = 25
# For a denoiser that is slow on this machine: a page is no reason for a sweep to end late.
_MOST_SECONDS = 20.0


@dataclass(frozen=True)
class Verdict:
    """What one certified function makes of an image.

    Attributes:
        outcome: right, wrong or abstained, as `CertificateTable.shares` counts them.
        said: the certified class, or that it abstains.
        radius: certified, in [0,1] pixels; 0 where it abstains.
    """

    outcome: str
    said: str
    radius: float


@dataclass(frozen=True)
class CertifiedImage:
    """A row of the table.

    Attributes:
        idx: number of the image in its split.
        label: name of its true class.
        verdicts: by the key of the certified function.
        pictures: data URLs by kind; empty where there are none.
    """

    idx: int
    label: str
    verdicts: Mapping[str, Verdict]
    pictures: Mapping[str, str]


@dataclass(frozen=True)
class CertifiedImages:
    """The rows, in the order of the table of certificates, and what is said of them.

    Attributes:
        rows: at most `MOST_IMAGES`.
        certified: how many images there are in all.
        kinds: of the pictures; empty where there are none.
        missing: why there are no pictures, or no more of them; empty if nothing is missing.
        pixelated: whether pictures have few pixels, which are drawn as squares.
    """

    rows: Sequence[CertifiedImage]
    certified: int
    kinds: Sequence[str]
    missing: str
    pixelated: bool


def read_certified_images(
    config: TrialConfig,
    folder: SweepTrialFolder,
    tables: Mapping[str, CertificateTable],
    *,
    trust_code: bool = False,
) -> CertifiedImages:
    """Read the rows and make their pictures, as far as data and denoiser are there.

    Args:
        config: settings of the trial whose denoiser is shown.
        tables: by key, that trial's first; those of other images are left out.
        trust_code: whether code that the folder names for its denoiser may be imported.
    """
    table = next(iter(tables.values()))
    count = len(table.idx)
    positions = spaced(count, MOST_IMAGES)
    pictures: list[dict[str, str]] = [{} for _ in positions]
    names: Sequence[str] = ()
    kinds: Sequence[str] = ()
    missing, pixelated = "", False
    try:
        dataset = load_dataset(config.dataset)
        names = dataset.class_names
        images = _images(config, folder, dataset, table, positions)
        denoiser = _denoiser(config, folder, images, trust_code=trust_code)
        kinds = KINDS if denoiser is not None else KINDS[:2]
        shown, missing = _shown(config, images, denoiser)
        pictures = _encoded(shown)
        if (fitting := sum(map(bool, pictures))) < len(pictures):
            missing = f"There is room for pictures of {counted(fitting, 'image')} only."
        pixelated = max(images.images.shape[-2:]) <= _LOSSLESS_SIDE
    except (InputError, RunError, RuntimeError) as error:
        # RuntimeError: PyTorch's, of a denoiser that finds no memory here, for example.
        kinds, missing = (), f"There are no pictures: {str(error).splitlines()[0]}"
    return CertifiedImages(
        rows=[
            CertifiedImage(
                idx=int(table.idx[position]),
                label=_class_name(int(table.label[position]), names),
                verdicts={
                    key: _verdict(other, int(position), names)
                    for key, other in tables.items()
                    if np.array_equal(other.idx, table.idx)
                },
                pictures=found,
            )
            for position, found in zip(positions, pictures, strict=True)
        ],
        certified=count,
        kinds=kinds,
        missing=missing,
        pixelated=pixelated,
    )


def _verdict(table: CertificateTable, position: int, names: Sequence[str]) -> Verdict:
    predicted = int(table.predict[position])
    outcome = "abstained"
    if table.correct[position]:
        outcome = "right"
    elif table.misclassified[position]:
        outcome = "wrong"
    said = "abstains"
    if predicted != ABSTAIN:
        said = _class_name(predicted, names)
    elif outcome == "wrong" and table.selected is not None:
        said = f"abstains ({_class_name(int(table.selected[position]), names)} selected)"
    return Verdict(outcome, said, float(table.radius[position]))


def _class_name(label: int, names: Sequence[str]) -> str:
    return names[label] if 0 <= label < len(names) else f"class {label}"


def _images(
    config: TrialConfig,
    folder: SweepTrialFolder,
    dataset: Dataset,
    table: CertificateTable,
    positions: NDArray[np.int64],
) -> LabelledImages:
    """Decode the shown images, and check that they are those that were certified."""
    result = folder.result
    named = config.dataset.path or config.dataset.name
    indices = torch.from_numpy(table.idx.astype(np.int64))
    recorded = None if result is None else result.hashes.get("certified_images")
    if len(positions) == len(table.idx) and recorded is not None:
        return take_recorded(dataset.test, indices, recorded, named=named)
    if int(indices.max()) >= len(dataset.test.labels):
        raise InputError(f"{named} has fewer images than were certified.")
    images = take(dataset.test, indices[positions])
    if not np.array_equal(images.labels.numpy(), table.label[positions]):
        raise InputError(f"the images of {named} have other labels than those certified.")
    return images


def _denoiser(
    config: TrialConfig, folder: SweepTrialFolder, images: LabelledImages, *, trust_code: bool
) -> nn.Module | None:
    if config.trains != "denoiser":
        return None
    return stored_denoiser(
        folder.denoiser_settings(config),
        folder.denoiser_path,
        image_channels=images.images.shape[1],
        sigma=config.sigma,
        trust_code=trust_code,
    )


def _shown(
    config: TrialConfig, images: LabelledImages, denoiser: nn.Module | None
) -> tuple[list[dict[str, NDArray[np.uint8]]], str]:
    """Return pictures of each image by kind, and what is missing of them."""
    # A driver need not have the GPUs of its cluster.
    device = resolve_device("cpu" if config.execution.device == "cpu" else "auto")
    generator = picture_noise(config.seed)
    began = time.monotonic()
    shown: list[dict[str, NDArray[np.uint8]]] = []
    late = 0
    for batch in images.images.split(_BATCH):
        clean = as_pixels(batch)
        slow = time.monotonic() - began > _MOST_SECONDS
        function = nn.Identity() if denoiser is None or slow else denoiser
        noisy, denoised = noisy_and_denoised(
            clean, function, sigma=config.sigma, generator=generator, device=device
        )
        kinds = {"clean": clean, "noisy": noisy}
        if denoiser is not None and not slow:
            kinds["denoised"] = denoised
        late += len(batch) if slow and denoiser is not None else 0
        bytes_of = {kind: _as_bytes(found) for kind, found in kinds.items()}
        shown += [{kind: found[i] for kind, found in bytes_of.items()} for i in range(len(batch))]
    missing = (
        f"Not denoised here, which would take too long: {counted(late, 'image')}." if late else ""
    )
    return shown, missing


def _as_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Return images as bytes [B, H, W, C], cut off to what a screen shows."""
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    found: NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).numpy()
    return found


def _encoded(shown: Sequence[Mapping[str, NDArray[np.uint8]]]) -> list[dict[str, str]]:
    """Encode pictures as data URLs, all of one size and as good as there is room for."""
    encoded: list[dict[str, str]] = []
    for side, quality in _ENCODINGS:
        encoded, characters = [], 0
        for urls, size in _urls(shown, side, quality):
            characters += size
            if characters > _MOST_CHARACTERS:
                break
            encoded.append(urls)
        else:
            return encoded
    return [*encoded, *({} for _ in range(len(shown) - len(encoded)))]


def _urls(
    shown: Sequence[Mapping[str, NDArray[np.uint8]]], side: int, quality: int
) -> Iterator[tuple[dict[str, str], int]]:
    for pictures in shown:
        urls = {
            kind: _data_url(pixels, side, quality * (_NOISY_QUALITY if kind == "noisy" else 1))
            for kind, pixels in pictures.items()
        }
        yield urls, sum(map(len, urls.values()))


def _data_url(pixels: NDArray[np.uint8], side: int, quality: float) -> str:
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image = image.convert("RGB")
    lossless = max(image.size) <= _LOSSLESS_SIDE
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=round(quality), lossless=lossless, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
