"""A bundle in use: predictions, certificates and denoised images."""

import secrets
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from numpy.typing import NDArray
from torch import Tensor, nn

from decrop.bundle import Bundle, load_bundle
from decrop.bundle.layout import checked_files
from decrop.classifiers.storage import file_or_url
from decrop.config import TrialConfig
from decrop.data.limited import LabelledImages
from decrop.denoisers.check import check_trained_sigma
from decrop.errors import InputError
from decrop.rejection.certificates import rejection_predictions
from decrop.smoothing.certificates import Integers, smoothed_predictions
from decrop.smoothing.collect import CountCollector, OnProgress
from decrop.smoothing.execution import resolve_device
from decrop.smoothing.noise import PixelGrid, as_pixels
from decrop.smoothing.prepare import copied
from decrop.smoothing.procedures import CertificationOutcome, certified_nearby, class_counts
from decrop.smoothing.sampling import SamplingTask
from decrop.trial.certify import (
    CertificationTask,
    certify_task,
    local_sampler,
    sampling_task,
    with_fitting_execution,
)

Device = Literal["auto", "cpu", "cuda"]
Images = Tensor | NDArray[Any]
Numbers = Tensor | NDArray[Any]

_DENOISED_AT_ONCE = 500
# Noise is this many standard deviations away once in 10^23 draws; pixels of 0 to 255 are further.
_MOST_NOISE = 10
_SEED_BITS = 63


def load(
    folder: str | Path,
    classifier: str | Path | nn.Module | None = None,
    *,
    device: Device | None = None,
    trust_code: bool = False,
) -> "SmoothedClassifier":
    """Load an exported denoiser with the classifier it protects.

    Args:
        folder: of the bundle.
        classifier: for a bundle exported without it: a safetensors or .pt2 file, a `Classifier`, or
            a network of its architecture; its content hash must be the recorded one. For a bundle
            whose classifier is an endpoint: the URL to ask, or an `EndpointClassifier`.
        device: to compute on; the kind that the certificates were drawn on if not given, for they
            are reproduced on that alone.
        trust_code: whether the function or model of another package that built the classifier may
            be imported by the name in the bundle, or its endpoint be asked. Only for bundles of
            people you trust.

    Raises:
        InputError: files are missing, changed or malformed, the classifier is not the protected
            one, or there is no such device.
    """
    if isinstance(classifier, str):
        classifier = file_or_url(classifier)
    bundle = load_bundle(Path(folder), classifier=classifier, trust_code=trust_code)
    weakness = bundle.config.certification.weakness
    if weakness is not None:
        warnings.warn(weakness, stacklevel=2)
    return SmoothedClassifier(bundle, Path(folder), device=device)


class SmoothedClassifier(ModelHubMixin):
    """The smoothed classifier of a bundle: what it answers most often under Gaussian noise.

    Images are [B, C, H, W], uint8, or floats in [0,1] that are computed with as float32; tensors or
    arrays. Noise on a grid (`decrop.smoothing.noise`) is added to the nearest grid points, which
    8-bit images are: the certified radius of other floats is smaller by their distance.

    With `indices`, which number the images in the split that the bundle certified, the noise is the
    recorded one, so that answers can be repeated. Without, it is new in every call: the guarantees
    are about noise that the images were not chosen by.

    `save_pretrained`, `push_to_hub` and `from_pretrained` follow huggingface_hub's conventions;
    what they save is the bundle, byte for byte, and the last takes the options of `load`.

    Attributes:
        bundle: what was loaded.
        device: on which it computes.
    """

    # Otherwise the mixin keeps a copy of all arguments, weights included, as configuration.
    _hub_mixin_config = {}  # noqa: RUF012

    def __init__(self, bundle: Bundle, folder: Path, *, device: Device | None = None) -> None:
        """Take a bundle that was loaded from a folder (see `load`)."""
        if device is not None and device not in get_args(Device):
            raise InputError(f"device must be {', '.join(get_args(Device))}, but is {device!r}.")
        self.bundle = bundle
        self.device = resolve_device(device or bundle.config.execution.device)
        if self.device.type != bundle.result.device:
            warnings.warn(
                f"the bundle was certified on {bundle.result.device}; on {self.device.type} the "
                "function has other last bits, so single answers may differ from the recorded.",
                stacklevel=2,
            )
        self._folder = folder
        self._config = self._fitting(bundle)
        self._denoiser = copied(bundle.denoiser).to(self.device)

    def __repr__(self) -> str:
        """Say in one line what it is made of."""
        config, shape = self.bundle.config, self.bundle.result.image_shape
        parts = [
            f"{config.denoiser.source} before {config.classifier.source}"
            if config.trains == "denoiser"
            else config.classifier.source,
            *(["mirrored"] if config.denoiser.mirrored else []),
            f"{len(self.class_names)} classes",
            f"images {' x '.join(map(str, shape))}",
            f"sigma {self.sigma:g}",
            str(self.device),
        ]
        return f"{type(self).__name__}({', '.join(parts)})"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return self.bundle.class_names

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise, in [0,1] pixels."""
        return self.bundle.config.sigma

    def predict(
        self,
        images: Images,
        *,
        samples: int = 1_000,
        failure_probability: float | None = None,
        indices: Numbers | None = None,
        sigma: float | None = None,
    ) -> Integers:
        """Return the class of each image, int64 [B], or -1 where it abstains.

        PREDICT (Cohen, Rosenfeld and Kolter 2019, section 3.2.1 and proposition 1): the two classes
        drawn most often are compared by an exact two-sided binomial test, so for each image the
        probability of a class that is not the smoothed classifier's is at most
        `failure_probability`. A prediction has no radius (`certify`). Where a rejector may turn
        draws away, those count for no class (`rejection_predictions`).

        Args:
            samples: noise draws of each image, >= 1.
            failure_probability: in (0, 1); the one of the certificates if not given.
            indices: int64 [B], see the class.
            sigma: standard deviation of the noise, in [0,1] pixels; the bundle's own if not given.
        """
        config, task = self._task(images, indices, sigma)
        if failure_probability is None:
            failure_probability = config.certification.failure_probability
        counts = class_counts(CountCollector.of(task, local_sampler(config, task)), samples)
        predictions = (
            smoothed_predictions if self.bundle.rejector is None else rejection_predictions
        )
        return predictions(counts, failure_probability)

    def certify(
        self,
        images: Images,
        labels: Numbers | None = None,
        indices: Numbers | None = None,
        *,
        sigma: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> CertificationOutcome:
        """Certify images by the bundle's procedure, with its samples and failure probability.

        With all recorded images, labels and indices, on the recorded kind of device, these are the
        recorded certificates. With some of them adaptive radii may be others, which hold too.

        Args:
            labels: int64 [B], true classes, if known. Adaptive certification then draws no more of
                an image whose selected class is wrong, which abstains.
            indices: int64 [B], see the class.
            sigma: standard deviation of the noise, in [0,1] pixels; the bundle's own if not given.
                Each certificate is of the smoothed classifier at that sigma: to certify at several
                and to take the best makes wrong ones likelier (`decrop.smoothing.envelope`).
        """
        config, task = self._task(images, indices, sigma)
        known = None
        if labels is not None:
            most = len(self.class_names) - 1
            known = _numbers("labels", labels, len(task.images), most=most).numpy()
        sampler = local_sampler(config, task)
        outcome = certify_task(
            config, task, sampler, known, self.bundle.estimation_samples, on_progress
        )
        if task.noise != "grid":
            return outcome
        return certified_nearby(outcome, PixelGrid.of(task.sigma).distance(task.images))

    def denoise(self, images: Images) -> Tensor:
        """Return denoised images, float32 [B, C, H, W] in [0,1] pixels, on the CPU.

        The denoiser alone, in fp32 whatever the precision of the certificates. Values may exceed
        [0,1] a little.

        Args:
            images: noisy, [B, C, H, W]; floats may leave [0,1] by 10 standard deviations of the
                noise.
        """
        noisy = as_pixels(self._checked(images, margin=_MOST_NOISE * self.sigma))
        with torch.inference_mode():
            batches = noisy.split(_DENOISED_AT_ONCE)
            return torch.cat([self._denoiser(batch.to(self.device)).cpu() for batch in batches])

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Copy the bundle's files to a folder (`huggingface_hub.ModelHubMixin.save_pretrained`)."""
        # The mixin begins by deleting the folder's config.json.
        if Path(save_directory).resolve() == self._folder.resolve():
            raise InputError(f"{save_directory} is the bundle itself; choose another folder.")
        checked_files(self._folder)
        url: str | None = super().save_pretrained(save_directory, **options)
        return url

    def _save_pretrained(self, save_directory: Path) -> None:
        for name in checked_files(self._folder):
            target = save_directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._folder / name, target)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> "SmoothedClassifier":
        folder = Path(model_id)
        if not folder.is_dir():
            downloaded = snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
            folder = Path(downloaded)
        return load(folder, **model_kwargs)

    def _fitting(self, bundle: Bundle) -> TrialConfig:
        execution = bundle.config.execution.model_copy(update={"device": self.device.type})
        config = bundle.config.model_copy(update={"execution": execution})
        return with_fitting_execution(config, bundle.network, bundle.result.image_shape)

    def _task(
        self, images: Images, indices: Numbers | None, sigma: float | None
    ) -> tuple[TrialConfig, SamplingTask]:
        """Return the settings and the work, with noise that is new unless images are numbered."""
        config, bundle = self._config, self.bundle
        if sigma is not None and sigma != config.sigma:
            config = config.at_sigma(sigma)
            check_trained_sigma(self._config, sigma)
            # It is told that sigma; the bundle's own keeps its own.
            bundle = replace(bundle, denoiser=copied(bundle.denoiser))
        checked = self._checked(images)
        if indices is None:
            config = config.model_copy(update={"seed": secrets.randbits(_SEED_BITS)})
            image_ids = torch.arange(len(checked))
        else:
            image_ids = _numbers("indices", indices, len(checked))
        # Sampling asks for no labels, which need not be known.
        given = LabelledImages(checked, torch.full_like(image_ids, -1), image_ids)
        classes = len(self.class_names)
        task = CertificationTask(bundle.network, given, bundle.result.split, classes)
        return config, sampling_task(config, task)

    def _checked(self, images: Images, *, margin: float = 0.0) -> Tensor:
        """Return images uint8 or float32, on the CPU; floats may leave [0,1] by the margin."""
        found = torch.as_tensor(images).detach().cpu()
        shape = self.bundle.result.image_shape
        if found.ndim != 4 or tuple(found.shape[1:]) != shape:
            expected = f"[batch, {', '.join(map(str, shape))}]"
            raise InputError(f"images must be {expected}, but are {list(found.shape)}.")
        if not len(found):
            raise InputError("images must be at least 1, but are 0.")
        if found.dtype == torch.uint8:
            return found
        if not found.dtype.is_floating_point:
            raise InputError(f"images must be uint8, or floats in [0,1], but are {found.dtype}.")
        found = found.float()
        low, high = found.min().item(), found.max().item()
        # NaN is neither.
        if not (low >= -margin and high <= 1 + margin):
            allowed = "[0,1]" if not margin else f"[{-margin:g}, {1 + margin:g}] ([0,1] and noise)"
            raise InputError(
                f"images must be uint8, or floats in {allowed}, but are from {low:g} to {high:g}."
            )
        return found


def _numbers(name: str, values: Numbers, count: int, *, most: int | None = None) -> Tensor:
    """Return int64 [count] on the CPU, at least 0 and at most `most`."""
    found = torch.as_tensor(values).detach().cpu()
    if found.dtype.is_floating_point or found.dtype.is_complex or found.dtype == torch.bool:
        raise InputError(f"{name} must be integers, but are {found.dtype}.")
    if found.shape != (count,):
        raise InputError(f"{name} must be [{count}], one an image, but are {list(found.shape)}.")
    found = found.long()
    low, high = int(found.min()), int(found.max())
    if low < 0 or (most is not None and high > most):
        allowed = "at least 0" if most is None else f"from 0 to {most}"
        raise InputError(f"{name} must be {allowed}, but are from {low} to {high}.")
    return found
