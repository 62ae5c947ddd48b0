"""The settings of one trial: what a sweep samples, a run logs, a bundle carries and reproduces."""

from typing import Any, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from decrop.classifier_source import AUTO, source_kind
from decrop.classifier_source import ClassifierArchitecture as ClassifierArchitecture
from decrop.classifier_training_settings import ClassifierTrainingSettings
from decrop.settings import Count as Count
from decrop.settings import NonNegative as NonNegative
from decrop.settings import Positive as Positive
from decrop.settings import Probability
from decrop.settings import Settings as Settings

DatasetName = Literal["digits", "cifar10", "fashion_mnist", "parquet", "image_folder"]
DenoiserArchitecture = Literal["dncnn", "dncnn_wide", "memnet", "unet"]
Attack = Literal["pgd", "auto_attack", "deepfool"]
Optimizer = Literal["adam", "adam_then_sgd", "sgd", "one_cycle"]
Objective = Literal["decrop", "stability", "mse"]
AugmentationPolicy = Literal["none", 1, 2, 3]
Mixing = Literal["none", "mixup", "cutmix"]


class DatasetSettings(Settings):
    """Where the images come from."""

    name: DatasetName = Field(
        "cifar10",
        description="Registered dataset; parquet and image_folder are data of yours, with images "
        "of one shape, and need classifier.mean and classifier.std.",
    )
    path: str | None = Field(
        None,
        description="Folder of the dataset. parquet: train.parquet and test.parquet with the "
        "columns image and label; image_folder: train/<class>/ and test/<class>/ (or val); "
        "cifar10 and fashion_mnist: torchvision's layout or parquet files, downloaded by "
        "torchvision if not given.",
    )


class LimitedDataSettings(Settings):
    """The class-balanced part of the training split that is available (DE-CROP, section 5)."""

    fraction: float = Field(
        0.01,
        gt=0,
        le=1,
        description="Share of the training split, equally many images a class (paper: 0.01 for "
        "CIFAR-10).",
    )
    held_out_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of the limited data kept out of training, to score trials on.",
    )
    seed: int = Field(0, ge=0, description="Seed of both draws; the same in every trial.")


class ClassifierSettings(Settings):
    """The pretrained classifier to protect, and how it takes images."""

    source: str = Field(
        AUTO,
        description="auto, the registered network that the weights fit; a registered network by "
        "name; package.module:function, which returns a torch.nn.Module; timm/NAME or "
        "torchvision/NAME; FILE.pt2, a program of torch.export; or the URI of an MLflow model "
        "(models:/NAME/VERSION, runs:/RUN/PATH) that holds such a program.",
    )
    arguments: dict[str, JsonValue] = Field(
        {},
        description="Arguments of the function, or of the timm or torchvision model.",
    )
    weights: str | None = Field(
        None,
        description="safetensors file with the network's weights; a function may do without, and "
        "a program has its own.",
    )
    training: ClassifierTrainingSettings | None = Field(
        None, description="Train a registered network instead of loading weights."
    )
    mean: tuple[float, ...] | None = Field(
        None,
        description="Channel means in [0,1] pixels the classifier was trained with, in the order "
        "of the data's channels; the dataset's own where not given (parquet and image_folder have "
        "none). A classifier that standardises for itself takes mean 0 and std 1 in each channel.",
    )
    std: tuple[Positive, ...] | None = Field(
        None, description="Channel standard deviations; the dataset's own where not given."
    )
    input_size: tuple[Count, Count] | None = Field(
        None,
        description="Height and width that images are resized to (bilinear, antialiased) before "
        "the network, as a part of the certified function; those of the data if not given.",
    )
    channel_order: Literal["rgb", "bgr"] = Field(
        "rgb", description="Order in which the network takes the channels; the data's is rgb."
    )
    feature_layer: str | None = Field(
        None,
        description="Name of the module whose input is the features, averaged over positions; if "
        "not given, the last linear layer or convolution that runs.",
    )

    def __hash__(self) -> int:
        # Arguments are a mapping, which has no hash of its own.
        return hash(self.model_dump_json())

    @model_validator(mode="before")
    @classmethod
    def _earlier_name(cls, found: Any) -> Any:
        if isinstance(found, dict) and "architecture" in found and "source" not in found:
            return {"source" if k == "architecture" else k: v for k, v in found.items()}
        return found

    @field_validator("source")
    @classmethod
    def _of_a_known_form(cls, source: str) -> str:
        source_kind(source)
        return source

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.weights is not None and self.training is not None:
            raise ValueError("give weights or training, not both")
        if self.training is not None and self.source == AUTO:
            raise ValueError("name the source to train, a registered network")
        if (self.mean is None) != (self.std is None):
            raise ValueError("give mean and std together, or neither")
        return self

    @model_validator(mode="after")
    def _fit_the_source(self) -> Self:
        kind = source_kind(self.source)
        if self.training is not None and kind != "registered":
            raise ValueError(f"only a registered network can be trained, not {self.source}")
        if self.training is not None and (self.input_size or self.channel_order != "rgb"):
            raise ValueError(
                "input_size and channel_order are of a pretrained classifier; one that is trained "
                "takes images as they are"
            )
        if self.arguments and kind not in ("factory", "timm", "torchvision"):
            raise ValueError(f"arguments are of a function or a model's name, not {self.source}")
        if self.weights is not None and kind in ("program", "uri"):
            raise ValueError(f"{self.source} has its own weights; give no classifier.weights")
        return self


_ATTACK_HELP = (
    "Attack that crosses the decision boundary. pgd (published) ascends the loss of the true class "
    "in a set number of steps. auto_attack leaves the predicted class by AutoPGD on two losses, "
    "DeepFool and Square, each on the images that the parts before it left, and an image that all "
    "leave stays as it is; 1.5 to 3 times as slow as pgd, but for an image that reaches Square "
    "about 300 times. deepfool leaves the predicted class by the shortest way in L2, with no bound "
    "but [0,1]; about 5 times as slow as pgd in as many steps."
)


class BoundarySettings(Settings):
    """Boundary samples (eq. 5): adversarial examples of the limited data."""

    attack: Attack = Field("pgd", description=_ATTACK_HELP)
    epsilon: float = Field(
        8 / 255,
        gt=0,
        le=1,
        description="pgd, auto_attack: L-infinity bound in [0,1] pixels (published: 8/255). "
        "deepfool keeps none.",
    )
    step_size: float = Field(
        2 / 255,
        gt=0,
        le=1,
        description="pgd: step in [0,1] pixels (published: 2/255); auto_attack: first step of "
        "AutoPGD, which adapts it.",
    )
    steps: Count = Field(
        20,
        description="pgd: steps (published: 20); auto_attack: steps of AutoPGD on either loss "
        "(AutoAttack's paper: 100); auto_attack, deepfool: most steps of DeepFool (its paper: 50).",
    )
    square_queries: int = Field(
        5000,
        ge=0,
        description="auto_attack: queries of Square for an image that the other parts leave (its "
        "paper: 5000); 0 leaves Square out.",
    )
    overshoot: NonNegative = Field(
        0.02,
        description="deepfool: how much further than the boundary it goes, as a share of the way "
        "there (its paper: 0.02); with 0 many samples stop just short of it.",
    )
    on_failure: Literal["keep", "drop"] = Field(
        "keep",
        description="What to do with images whose prediction the attack did not change "
        "(published: keep).",
    )


class InterpolationSettings(Settings):
    """Interpolated samples (eqs. 6 and 7)."""

    partner: Literal["boundary", "same_class"] = Field(
        "boundary",
        description="Whose logits are mixed with those of an image: its boundary sample's, or a "
        "random other image's of its class (ablation without boundary samples).",
    )
    mixing_coefficient: float = Field(
        0.5, ge=0, le=1, description="Weight of the clean logits in eq. 6."
    )
    count: int = Field(
        1,
        ge=1,
        le=16,
        description="Interpolated samples an image, with distinct mixing coefficients whose "
        "median is mixing_coefficient (paper: 1; ablation 2 and 5).",
    )
    steps: Count = Field(50, description="Adam steps on the pixels in eq. 7 (published: up to 50).")
    learning_rate: Positive = Field(0.001, description="Adam step in [0,1] pixels.")
    mode: Literal["as_written", "published"] = Field(
        "as_written",
        description="as_written solves eq. 7; published does one step and floors to 8 bits, as the "
        "published code does.",
    )

    @model_validator(mode="after")
    def _distinct_coefficients(self) -> Self:
        if self.count > 1 and self.mixing_coefficient in (0, 1):
            raise ValueError(
                f"mixing_coefficient {self.mixing_coefficient:g} with count {self.count} gives "
                "equal coefficients; give one strictly between 0 and 1, or count 1"
            )
        return self


class DenoiserSettings(Settings):
    """The denoiser in front of the classifier."""

    architecture: DenoiserArchitecture = Field("dncnn", description="Registered network.")
    depth: int = Field(
        17,
        ge=3,
        le=64,
        description="Convolution layers of dncnn and dncnn_wide (paper: 17); memnet (41) and unet "
        "(20) have theirs whatever stands here.",
    )
    channels: int = Field(
        64,
        ge=4,
        le=512,
        description="Hidden channels (paper: 64); dncnn_wide has twice as many (paper: 128), unet "
        "twice and four times as many at its lower resolutions.",
    )


class PriorSettings(Settings):
    """Pretraining of the denoiser on generated images, before any image of the data is used."""

    kind: Literal["none", "dead_leaves"] = Field(
        "none",
        description="none starts from random weights (paper); dead_leaves pretrains on random "
        "overlapping shapes, with mean squared error.",
    )
    steps: Count = Field(1000, description="Steps of pretraining.")
    batch_size: Count = Field(100, description="Images a step, each used once.")
    learning_rate: Positive = Field(2e-3, description="Peak of the one-cycle schedule (Adam).")


class LossWeights(Settings):
    """The weights beta of eq. 12."""

    label_consistency: NonNegative = Field(1.0, description="beta 1 (paper: 1).")
    cosine: NonNegative = Field(4.0, description="beta 2 (paper: 4).")
    mmd: NonNegative = Field(4.0, description="beta 3 (paper: 4).")
    discriminator: NonNegative = Field(1.0, description="beta 4 (paper: 1).")


class DiscriminatorSettings(Settings):
    """The domain discriminator (eq. 11) behind a gradient reversal layer."""

    hidden_units: Count = Field(100, description="Units of the hidden layer (paper: 100).")
    learning_rate: Positive = Field(1e-5, description="Adam learning rate (paper: 1e-5).")
    reversal_scale: NonNegative = Field(
        1.0, description="Scale of the reversed gradient before beta 4 and the ramp (published: 2)."
    )


class AugmentationSettings(Settings):
    """Augmentation of the training images (section 4 of the paper's supplement)."""

    policy: AugmentationPolicy = Field(
        1,
        description="1: random crop, then horizontal flip; 2: one of horizontal flip, vertical "
        "flip, random crop and affine; 3: all four (paper's best: 1).",
    )
    crop_padding: int = Field(4, ge=0, description="Zero pixels added on each side before a crop.")
    flip_probability: float = Field(0.5, ge=0, le=1, description="Of each flip of the policy.")
    mixing: Mixing = Field(
        "none",
        description="After the policy, mix images of a batch: mixup (Zhang et al. 2018) or cutmix "
        "(Yun et al. 2019).",
    )
    mixing_alpha: Positive = Field(
        1.0,
        description="The share of an image in its mixture is drawn from Beta(alpha, alpha) "
        "(CIFAR-10 in both papers: 1).",
    )
    views: Literal["matched", "independent"] = Field(
        "matched",
        description="Whether the three views of an image share all draws (published: independent).",
    )


class TrainingSettings(Settings):
    """The phases of training the denoiser."""

    objective: Objective = Field(
        "decrop",
        description="decrop: eq. 12. Baselines of denoised smoothing (Salman et al. 2020): "
        "stability is eq. 8 alone, mse the squared error to the clean image.",
    )
    generated_samples: Literal["boundary_and_interpolated", "boundary", "interpolated"] = Field(
        "boundary_and_interpolated",
        description="decrop: samples whose losses eqs. 9 and 10 sum (paper: both).",
    )
    mse_epochs: int = Field(
        0,
        ge=0,
        description="Epochs of the squared error to the clean image before the others (denoised "
        "smoothing's MSE, then stability).",
    )
    epochs: Count = Field(600, description="Epochs without the discriminator (paper: 600).")
    discriminator_epochs: int = Field(
        600, ge=0, description="decrop: epochs with the discriminator (paper: 600)."
    )
    batch_size: Count = Field(200, description="Images a step (published: 200).")
    optimizer: Optimizer = Field(
        "adam",
        description="adam (published code), adam_then_sgd (paper: SGD after adam_epochs), sgd, or "
        "one_cycle: Adam whose learning rate rises to learning_rate and falls to zero in a phase.",
    )
    learning_rate: Positive = Field(1e-3, description="Initial learning rate (paper: 1e-3).")
    learning_rate_drop_every: Count = Field(
        200, description="Epochs of a phase between drops of the learning rate (paper: 200)."
    )
    learning_rate_drop_factor: float = Field(
        0.1, gt=0, le=1, description="Factor of a drop (paper: 0.1)."
    )
    adam_epochs: Count = Field(50, description="Epochs of Adam in adam_then_sgd (paper: 50).")
    weight_decay: NonNegative = Field(1e-4, description="L2 weight decay (published: 1e-4).")
    l1_penalty: NonNegative = Field(
        0.0, description="Weight of the L1 norm of the denoiser's weights in the loss."
    )
    averaging_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay a step of the moving average of the weights that is kept as the "
        "denoiser; 0 keeps the last weights.",
    )
    loss_weights: LossWeights = LossWeights()
    discriminator: DiscriminatorSettings = DiscriminatorSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    evaluations: Count = Field(
        4,
        description="Held-out scores of a trial, the last after the last epoch; used for pruning.",
    )
    early_stopping: bool = Field(
        False,
        description="Whether a trial keeps the weights of its best held-out score instead of its "
        "last; the training on the whole limited data then ends at that epoch.",
    )

    @model_validator(mode="after")
    def _scores_to_choose_from(self) -> Self:
        if self.early_stopping and self.evaluations < 2:
            raise ValueError(
                f"evaluations ({self.evaluations}) must be at least 2 with early_stopping, which "
                "chooses between them"
            )
        return self

    @property
    def phase_epochs(self) -> tuple[int, int, int]:
        """Epochs of phase 0 (squared error), 1 (the objective) and 2 (with the discriminator)."""
        with_discriminator = self.discriminator_epochs if self.objective == "decrop" else 0
        return self.mse_epochs, self.epochs, with_discriminator


class CertificationSettings(Settings):
    """Randomised smoothing certificates."""

    procedure: Literal["adaptive", "fixed"] = Field(
        "adaptive",
        description="fixed draws equally often for each image, as published; adaptive stops an "
        "image once more draws are not worth it, and certifies radii of a grid.",
    )
    certificate: Literal[
        "cohen", "t_certify_published", "t_certify_preselected", "t_certify_grid", "rejection"
    ] = Field(
        "cohen",
        description="fixed: CERTIFY (Cohen et al. 2019), or T-CERTIFY (Feng et al.) as published, "
        "whose guarantee has a gap, or in one of two forms without it; rejection (Sheikholeslami "
        "et al. 2022) is for bundles with a rejector.",
    )
    selection_samples: Count = Field(100, description="N0: samples that choose the top class.")
    estimation_samples: Count = Field(
        10_000, description="fixed: N, samples that bound its probability, on the test split."
    )
    max_samples: Count = Field(
        20_000,
        description="adaptive: most samples of an image on the test split, selection_samples "
        "included (20,000 matches a fixed N of 10,000).",
    )
    held_out_samples: Count = Field(
        1_000, description="N, or most of them, on held-out images, once trained."
    )
    pruning_samples: Count = Field(
        100, description="N, or most of them, on held-out images, while training."
    )
    failure_probability: Probability = Field(
        0.001, description="Probability per image that a certificate is wrong."
    )
    radii: tuple[NonNegative, ...] = Field(
        (0.0, 0.25, 0.5, 0.75),
        min_length=1,
        description="L2 radii in [0,1] pixels at which certified accuracy is reported.",
    )
    radius_step: float = Field(
        0.05,
        gt=0,
        le=0.05,
        description="adaptive: step of the grid of radii that fills the gaps between `radii`.",
    )
    test_images: Count = Field(
        500,
        description="Evenly spaced test images to certify (paper: every 20th, 500); spaced in the "
        "order of the labels where that would skip a class.",
    )

    @model_validator(mode="after")
    def _increasing(self) -> Self:
        if list(self.radii) != sorted(set(self.radii)):
            raise ValueError("radii must increase")
        return self

    @model_validator(mode="after")
    def _fit_the_procedure(self) -> Self:
        if self.procedure == "adaptive" and self.max_samples <= self.selection_samples:
            raise ValueError(
                f"max_samples ({self.max_samples}) must exceed selection_samples "
                f"({self.selection_samples}), which it includes"
            )
        if self.procedure == "adaptive" and self.certificate != "cohen":
            raise ValueError(f"certificate {self.certificate} needs procedure fixed")
        return self


class ExecutionSettings(Settings):
    """How the computation runs; part of what is certified, so it is recorded."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto prefers CUDA.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Of the certified function; auto is bf16 where the hardware computes in it.",
    )
    training_precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Of the networks while the denoiser is trained; weights and losses are fp32.",
    )
    chunk_size: Count = Field(
        50, description="Noise draws of one image that share a random stream and go together."
    )
    chunks_per_batch: Count | Literal["auto"] = Field(
        "auto",
        description="Chunks in one forward pass, padded if fewer; auto tries which number is "
        "fastest. Certificates are repeated with the number that was used.",
    )


class TrialConfig(Settings):
    """Everything that determines one trial."""

    seed: int = Field(0, ge=0, description="Seed of synthesis, training and certification noise.")
    sigma: Positive = Field(
        0.25, description="Standard deviation of the Gaussian noise, in [0,1] pixels."
    )
    dataset: DatasetSettings = DatasetSettings()
    limited: LimitedDataSettings = LimitedDataSettings()
    classifier: ClassifierSettings = ClassifierSettings()
    boundary: BoundarySettings = BoundarySettings()
    interpolation: InterpolationSettings = InterpolationSettings()
    denoiser: DenoiserSettings = DenoiserSettings()
    prior: PriorSettings = PriorSettings()
    training: TrainingSettings = TrainingSettings()
    certification: CertificationSettings = CertificationSettings()
    execution: ExecutionSettings = ExecutionSettings()
