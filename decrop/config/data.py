"""The settings of the data."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from decrop.config.components import Component, Table
from decrop.config.settings import Seed, Settings, Side, Text

# Builders take the settings, and return a `decrop.data.datasets.Dataset`.
DATASETS = Table(
    Component("digits", "scikit-learn's digits, 8x8 grey", "decrop.data.datasets:digits"),
    Component("cifar10", "CIFAR-10, 32x32 colour", "decrop.data.datasets:cifar10"),
    Component("fashion_mnist", "Fashion-MNIST, 28x28 grey", "decrop.data.datasets:fashion_mnist"),
    Component(
        "parquet",
        "train.parquet and test.parquet of yours",
        "decrop.data.datasets:parquet",
    ),
    Component(
        "image_folder",
        "train/<class>/ and test/<class>/ (or val) of yours",
        "decrop.data.datasets:image_folder",
    ),
)
DatasetName = Annotated[str, DATASETS]
YOURS = ("parquet", "image_folder")
# Of torchvision's presets, such as 256 to 224.
_RESIZED_TO_CROP = 8 / 7
_NO_SIDE = float("inf")


def _is_none(value: Any) -> bool:
    # Settings without it are written as they were before it was there.
    return value is None


class DatasetSettings(Settings):
    """Where the images come from."""

    name: DatasetName = Field(
        "cifar10",
        description=f"Registered dataset. {DATASETS.help}. Data of yours need classifier.mean and "
        "classifier.std.",
    )
    path: Text | None = Field(
        None,
        description="Folder of the dataset. parquet: train.parquet and test.parquet with the "
        "columns image and label; image_folder: train/<class>/ and test/<class>/ (or val); "
        "cifar10 and fashion_mnist: torchvision's layout or parquet files, downloaded by "
        "torchvision if not given.",
    )
    image_size: Side | None = Field(
        None,
        description="parquet and image_folder: side of the square that all images become, as by "
        "torchvision's presets: the shorter side is resized (bilinear, antialiased), then the "
        "centre taken. Certificates are of the images that result. Images must have one shape if "
        "not given.",
        exclude_if=_is_none,
    )
    resize_size: Side | None = Field(
        None,
        description="What the shorter side is resized to before the centre is taken; 8/7 of "
        "image_size if not given, as 256 for 224.",
        exclude_if=_is_none,
    )
    mode: Literal["rgb", "grey"] | None = Field(
        None,
        description="parquet and image_folder: reads all images as colour, as torchvision's "
        "ImageFolder does, or as grey; as they are if not given.",
        exclude_if=_is_none,
    )

    @property
    def resized_to(self) -> int:
        """Length of the shorter side before the centre is taken; 0 where nothing is resized."""
        return self.resize_size or round((self.image_size or 0) * _RESIZED_TO_CROP)

    @model_validator(mode="after")
    def _of_encoded_images(self) -> Self:
        if self.resize_size is not None and self.resize_size < (self.image_size or _NO_SIDE):
            raise ValueError("resize_size needs an image_size, which is at most as large")
        given = [name for name in ("image_size", "mode") if getattr(self, name) is not None]
        if given and self.name not in YOURS:
            raise ValueError(f"{given[0]} is of {' and '.join(YOURS)}, not of {self.name}")
        return self


class LimitedDataSettings(Settings):
    """The class-balanced part of the training split that is available (DE-CROP, section 5)."""

    fraction: float = Field(
        0.01,
        gt=0,
        le=1,
        description="Share of the training split, equally many images a class (paper: 0.01 for "
        "CIFAR-10); where that is less than two, of all classes together.",
    )
    held_out_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of the limited data kept out of training, to score trials on.",
    )
    seed: Seed = Field(0, description="Seed of both choices; the same in every trial.")
