"""The settings of certification, and of how the work is run."""

import math
from statistics import NormalDist
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from decrop.config.components import Component, Table
from decrop.config.settings import (
    MOST_RADII,
    MOST_SIGMAS,
    BatchSize,
    Count,
    FailureProbability,
    NonNegative,
    Settings,
    Sigma,
)

# Of the procedure `fixed`. Builders take selection and estimation counts int64 [B, K+1], sigma and
# failure_probability, and return `decrop.smoothing.certificates.Certificates`.
CERTIFICATES = Table(
    Component(
        "cohen", "CERTIFY", "decrop.smoothing.certificates:cohen_certificates", "Cohen et al. 2019"
    ),
    Component(
        "t_certify_published",
        "T-CERTIFY as published, whose guarantee has a gap",
        "decrop.smoothing.two_sided:published_certificates",
        "Feng et al. 2020",
    ),
    Component(
        "t_certify_preselected",
        "T-CERTIFY at the split that the selection samples choose",
        "decrop.smoothing.two_sided:preselected_certificates",
        "after Feng et al. 2020",
    ),
    Component(
        "t_certify_grid",
        "T-CERTIFY at all splits at once",
        "decrop.smoothing.two_sided:grid_certificates",
        "after Feng et al. 2020",
    ),
    Component(
        "rejection",
        "for bundles with a rejector",
        "decrop.rejection.certificates:rejection_certificates",
        "Sheikholeslami et al. 2022",
    ),
)
Certificate = Annotated[str, CERTIFICATES]
_LARGEST_BATCH = 1_000_000
# A failure probability above it is warned of.
_WEAK = 0.05


class CertificationSettings(Settings):
    """Randomised smoothing certificates."""

    procedure: Literal["adaptive", "fixed", "anytime"] = Field(
        "adaptive",
        description="fixed takes as many samples of each image, as published; adaptive stops an "
        "image once more samples are not worth it, and certifies radii of a grid; anytime takes "
        "max_samples of each image, and certifying on with more leaves the guarantee as it is "
        "(of the others sample sizes must be chosen beforehand).",
    )
    noise: Literal["grid", "gaussian"] = Field(
        "grid",
        description="grid: rounded to steps of 8-bit images, or of a fraction of them, and added "
        "in integers, so that the guarantee holds for what is computed (after Voráček and Hein, "
        "ICLR 2023); gaussian: added in floating point, as published.",
    )
    certificate: Certificate = Field(
        "cohen", description=f"fixed: what turns counts into certificates. {CERTIFICATES.help}."
    )
    selection_samples: Count = Field(100, description="N0: samples that choose the top class.")
    estimation_samples: Count = Field(
        10_000, description="fixed: N, samples that bound its probability, on the test split."
    )
    max_samples: Count = Field(
        20_000,
        description="adaptive and anytime: most samples of an image on the test split, "
        "selection_samples included (20,000 matches a fixed N of 10,000).",
    )
    held_out_samples: Count = Field(
        1_000, description="N, or most of them, on held-out images, once trained."
    )
    pruning_samples: Count = Field(
        100, description="N, or most of them, on held-out images, while training."
    )
    failure_probability: FailureProbability = Field(
        0.001, description="Probability per image that a certificate is wrong."
    )
    radii: tuple[NonNegative, ...] = Field(
        (0.0, 0.25, 0.5, 0.75),
        min_length=1,
        max_length=MOST_RADII,
        description="L2 radii in [0,1] pixels at which certified accuracy is reported.",
    )
    radius_step: float = Field(
        0.05,
        ge=1e-4,
        le=0.05,
        description="adaptive: step of the grid of radii that fills the gaps between `radii`.",
    )
    test_images: Count = Field(
        500,
        description="Evenly spaced test images to certify (paper: every 20th, 500); spaced in the "
        "order of the labels where that would skip a class.",
    )

    sigmas: tuple[Sigma, ...] = Field(
        (),
        max_length=MOST_SIGMAS,
        description="Standard deviations of the noise at which test images are certified besides "
        "sigma: a table for each, and their envelope, of each image the certificate of the largest "
        "radius, with failure_probability split over them. None by default.",
        # Settings without it are written as they were before it was there.
        exclude_if=lambda sigmas: not sigmas,
    )

    @model_validator(mode="after")
    def _increasing(self) -> Self:
        for name in ("radii", "sigmas"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name} must increase")
        return self

    @model_validator(mode="after")
    def _fit_the_procedure(self) -> Self:
        if self.procedure != "fixed" and self.max_samples <= self.selection_samples:
            raise ValueError(
                f"max_samples ({self.max_samples}) must exceed selection_samples "
                f"({self.selection_samples}), which it includes"
            )
        if self.procedure != "fixed" and self.certificate != "cohen":
            raise ValueError(f"certificate {self.certificate} needs procedure fixed")
        return self

    @property
    def weakness(self) -> str | None:
        """A sentence on a failure probability that is hardly a guarantee; None of any other."""
        if self.failure_probability <= _WEAK:
            return None
        return (
            f"Careful: at failure probability {self.failure_probability:g}, up to "
            f"{self.failure_probability:.0%} of all certificates may be wrong; 0.001 is usual."
        )

    @model_validator(mode="after")
    def _enough_to_certify(self) -> Self:
        least = least_samples(self.failure_probability)
        fixed = self.procedure == "fixed"
        counts = {
            "estimation_samples"
            if fixed
            else "max_samples less selection_samples": self.most_estimation_samples,
            "held_out_samples": self.held_out_samples,
            "pruning_samples": self.pruning_samples,
        }
        for name, samples in counts.items():
            if samples < least:
                raise ValueError(
                    f"{name} ({samples}) must be at least {least}, for with fewer nothing can be "
                    f"certified at failure_probability {self.failure_probability:g}, even where "
                    "all samples agree"
                )
        return self

    def at_one_sigma(self) -> Self:
        """Return the settings of a certification at one standard deviation alone."""
        return self.model_copy(update={"sigmas": ()})

    @property
    def reach(self) -> float:
        """The largest radius that samples which all agree certify on the test split, in sigmas.

        It is Phi^-1(failure_probability^(1/N)) (Cohen, Rosenfeld and Kolter 2019, section 3.2.2).
        """
        bound = self.failure_probability ** (1 / self.most_estimation_samples)
        return NormalDist().inv_cdf(min(bound, math.nextafter(1, 0)))

    @property
    def most_estimation_samples(self) -> int:
        """N of the test split, or the most of them where images stop early."""
        if self.procedure == "fixed":
            return self.estimation_samples
        return self.max_samples - self.selection_samples


def least_samples(failure_probability: float) -> int:
    """Return how many samples must agree before anything can be certified."""
    # A fair coin may not fall alike so often with more than the failure probability.
    return math.floor(-math.log2(failure_probability)) + 1


class ExecutionSettings(Settings):
    """How the computation runs; part of what is certified, so it is recorded."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto prefers CUDA.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Of the certified function; auto is bf16 where the hardware computes in it, "
        "and fp16 on a GPU without.",
    )
    layout: Literal["auto", "channels_last", "contiguous"] = Field(
        "auto",
        description="Of images in memory, part of the certified function; auto is channels_last, "
        "which is faster, for networks that work in it.",
    )
    training_precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Of the networks while the denoiser is trained; weights and losses are fp32.",
    )
    chunk_size: BatchSize = Field(
        50, description="Noise samples of one image that share a random stream and go together."
    )
    chunks_per_batch: BatchSize | Literal["auto"] = Field(
        "auto",
        description="Most chunks in one forward pass; auto tries which number is "
        "fastest. Certificates are repeated with the number that was used.",
    )

    @model_validator(mode="after")
    def _batch_fits(self) -> Self:
        chunks = 1 if self.chunks_per_batch == "auto" else self.chunks_per_batch
        if chunks * self.chunk_size > _LARGEST_BATCH:
            raise ValueError(
                f"chunks_per_batch ({chunks}) of chunk_size ({self.chunk_size}) make batches of "
                f"{chunks * self.chunk_size:,} images; {_LARGEST_BATCH:,} is the most"
            )
        return self
