"""The settings of the data."""

from typing import Annotated

from pydantic import Field

from decrop.config.components import Component, Table
from decrop.config.settings import Seed, Settings, Text

# Builders take the settings, and return a `decrop.data.datasets.Dataset`.
DATASETS = Table(
    Component("digits", "scikit-learn's digits, 8x8 grey", "decrop.data.datasets:digits"),
    Component("cifar10", "CIFAR-10, 32x32 colour", "decrop.data.datasets:cifar10"),
    Component("fashion_mnist", "Fashion-MNIST, 28x28 grey", "decrop.data.datasets:fashion_mnist"),
    Component(
        "parquet",
        "train.parquet and test.parquet of yours, images of one shape",
        "decrop.data.datasets:parquet",
    ),
    Component(
        "image_folder",
        "train/<class>/ and test/<class>/ (or val) of yours, images of one shape",
        "decrop.data.datasets:image_folder",
    ),
)
DatasetName = Annotated[str, DATASETS]


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
