"""Sources of a classifier: registered networks, and the forms of `classifier.source`."""

import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from decrop.config.components import (
    FACTORY,
    REGISTERED,
    Component,
    SourceComponent,
    Table,
    form_of,
)

AUTO = "auto"


@dataclass(frozen=True)
class ClassifierArchitectureComponent(Component):
    """A network that decrop brings.

    Attributes:
        smallest: pixels a side of the smallest images that pooling leaves something of.
    """

    smallest: int = 1


# Builders take image_channels and class_count, and return a module.
CLASSIFIERS = Table(
    ClassifierArchitectureComponent(
        "small_cnn",
        "three convolutions, for images of about 8x8 pixels",
        "decrop.networks.small_cnn:SmallCNN",
        smallest=2,
    ),
    *(
        ClassifierArchitectureComponent(
            f"cifar_resnet{depth}",
            f"ResNet of {depth} layers for CIFAR",
            f"decrop.networks.resnet:cifar_resnet{depth}",
            "He et al. 2016, section 4.2",
        )
        for depth in (20, 56, 110)
    ),
    ClassifierArchitectureComponent(
        "resnet12",
        "ResNet-12 of MetaOptNet",
        "decrop.networks.resnet:ResNet12",
        "Lee et al. 2019",
        smallest=16,
    ),
    ClassifierArchitectureComponent(
        "alexnet",
        "AlexNet for 32x32 images",
        "decrop.networks.alexnet:AlexNet",
        "Barbalau et al. 2020",
        smallest=15,
    ),
    ClassifierArchitectureComponent(
        "half_alexnet",
        "AlexNet of half as many channels",
        "decrop.networks.alexnet:half_alexnet",
        "Barbalau et al. 2020",
        smallest=15,
    ),
    ClassifierArchitectureComponent(
        "resnet18",
        "ResNet-18 with a stem for small images",
        "decrop.networks.resnet:resnet18",
        "He et al. 2016",
    ),
)
ClassifierArchitecture = Annotated[str, CLASSIFIERS]


# Of two forms that a source has, the last counts. Builders take the classifier's settings and the
# dataset, and return a `decrop.classifiers.sources.Network`.
SOURCES = Table(
    SourceComponent(
        REGISTERED,
        "a registered network, auto for the one that the weights fit",
        "decrop.classifiers.sources:registered_network",
        trainable=True,
    ),
    SourceComponent(
        "factory",
        "a function of yours that returns a network",
        "decrop.classifiers.sources:factory_network",
        form="package.module:function",
        pattern=FACTORY,
        imports_code=True,
        takes_arguments=True,
    ),
    SourceComponent(
        "timm",
        "a model of timm",
        "decrop.classifiers.sources:zoo_network",
        form="timm/NAME",
        pattern=r"timm/[\w.-]+",
        imports_code=True,
        takes_arguments=True,
    ),
    SourceComponent(
        "torchvision",
        "a model of torchvision",
        "decrop.classifiers.sources:zoo_network",
        form="torchvision/NAME",
        pattern=r"torchvision/[\w.-]+",
        imports_code=True,
        takes_arguments=True,
    ),
    SourceComponent(
        "program",
        "a program of torch.export",
        "decrop.classifiers.sources:program_network",
        form="FILE.pt2",
        pattern=r"(?!(timm|torchvision)/[\w.-]+$)(?s:.*)\.pt2",
        has_weights=True,
    ),
    SourceComponent(
        "uri",
        "a model that another package loads, such as models:/ of MLflow",
        "decrop.classifiers.sources:network_at_uri",
        form="the URI of a model",
        pattern=r"[a-z][a-z0-9+.-]*:/\S+",
        has_weights=True,
    ),
    SourceComponent(
        "endpoint",
        "a classifier that answers over HTTP",
        "decrop.classifiers.sources:no_network",
        form="the http(s) address of an endpoint",
        pattern=r"https?://\S+",
    ),
)


def source_kind(source: str) -> str:
    """Return which form a source has."""
    return form_of(source, (AUTO, *CLASSIFIERS), SOURCES)


def imports_code(source: str) -> bool:
    """Tell whether a source is code of another package, which runs when it is imported."""
    return SOURCES[source_kind(source)].imports_code


def check_endpoint(url: str) -> None:
    """Raise ValueError unless a URL can be asked, and recorded: it must hold no credentials."""
    if re.search("[@?#]", url):
        raise ValueError(
            "an endpoint's URL must hold no @, ? or #, with which users, passwords and keys are "
            "given, for it is recorded; a token goes by the environment variable that "
            "classifier.endpoint.token_variable names"
        )
    try:
        parts = urlsplit(url)
        possible = bool(parts.hostname) and parts.port != 0 and url.isascii()
    except ValueError:
        possible = False
    if not possible:
        raise ValueError("an endpoint is http(s)://HOST[:PORT]/PATH, as in …:5001/invocations")


def uri_scheme(source: str) -> str:
    """Return the part of a URI before its colon."""
    return source.partition(":")[0]
