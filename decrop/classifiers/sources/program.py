"""A program of torch.export (.pt2)."""

from pathlib import Path

from decrop.classifiers.program import ExportedNetwork
from decrop.classifiers.program_archive import program_bytes
from decrop.classifiers.sources.network import PROGRAM, Network
from decrop.config import ClassifierSettings
from decrop.data.datasets import Dataset
from decrop.errors import InputError


def program_network(settings: ClassifierSettings, dataset: Dataset) -> Network:
    """Load a program from the file that `classifier.source` names.

    Raises:
        InputError: the file is missing, is no program, or takes other images than the data's.
    """
    return load_program(
        Path(settings.source), settings, dataset, blamed=f"classifier.source: {settings.source}"
    )


def load_program(
    path: Path, settings: ClassifierSettings, dataset: Dataset, *, blamed: str
) -> Network:
    """Load a program from a file; `blamed` is what an error begins with.

    Raises:
        InputError: the file is missing, is no program, or takes other images than the data's.
    """
    program = program_bytes(path, blamed)
    network = ExportedNetwork(program, settings.feature_layer, blamed=blamed)
    channels, *size = dataset.train.shape
    given = (channels, *(settings.input_size or size))
    expected = network.image_shape
    if any(fixed not in (None, found) for fixed, found in zip(expected, given, strict=True)):
        height, width = expected[1] or given[1], expected[2] or given[2]
        remedy = (
            f"set classifier.input_size=[{height},{width}]"
            if expected[0] in (None, channels)
            else "use data of that many channels"
        )
        raise InputError(
            f"{blamed} takes images {_shape(expected)} (channels x height x width), but is given "
            f"{_shape(given)}; {remedy}."
        )
    return Network(network, PROGRAM)


def _shape(shape: tuple[int | None, ...]) -> str:
    return "x".join("any" if size is None else str(size) for size in shape)
