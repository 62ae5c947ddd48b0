"""The settings of the classifier to protect."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from decrop.config.black_box import EndpointSettings, SurrogateSettings
from decrop.config.classifier_source import AUTO, SOURCES, check_endpoint, source_kind
from decrop.config.classifier_training import ClassifierTrainingSettings
from decrop.config.settings import (
    MOST_CHANNELS,
    FreeMapping,
    Number,
    Positive,
    Settings,
    Side,
    Text,
)

# What an endpoint has done already, or does not have.
_OF_NETWORKS = (
    "weights",
    "training",
    "arguments",
    "mean",
    "std",
    "input_size",
    "channel_order",
    "feature_layer",
)


class ClassifierSettings(Settings):
    """The pretrained classifier to protect, and how it takes images."""

    source: Text = Field(
        AUTO,
        description="auto, the registered network that the weights fit; a registered network by "
        "name; package.module:function, which returns a torch.nn.Module; timm/NAME or "
        "torchvision/NAME; FILE.pt2, a program of torch.export; the URI of an MLflow model "
        "(models:/NAME/VERSION, runs:/RUN/PATH) that holds such a program; or the http(s) URL of "
        "an endpoint, which answers images with predictions and is known by nothing else.",
    )
    arguments: FreeMapping = Field(
        {},
        description="Arguments of the function, or of the timm or torchvision model.",
    )
    weights: Text | None = Field(
        None,
        description="safetensors file with the network's weights; a function may do without, and "
        "a program has its own. Of a model of torchvision or timm also the name of published ones "
        "(IMAGENET1K_V2, a1_in1k), which the library downloads, with their mean and std.",
    )
    training: ClassifierTrainingSettings | None = Field(
        None, description="Train a registered network instead of loading weights."
    )
    surrogate: SurrogateSettings | None = Field(
        None,
        description="Of an endpoint: the network that imitates it, through which the denoiser is "
        "trained.",
    )
    mean: tuple[Number, ...] | None = Field(
        None,
        max_length=MOST_CHANNELS,
        description="Channel means in [0,1] pixels the classifier was trained with, in the order "
        "of the data's channels; the dataset's own where not given (parquet and image_folder have "
        "none). A classifier that standardises for itself takes mean 0 and std 1 in each channel.",
    )
    std: tuple[Positive, ...] | None = Field(
        None,
        max_length=MOST_CHANNELS,
        description="Channel standard deviations; the dataset's own where not given.",
    )
    input_size: tuple[Side, Side] | None = Field(
        None,
        description="Height and width that images are resized to (bilinear, antialiased) before "
        "the network, as a part of the certified function; those of the data if not given.",
    )
    channel_order: Literal["rgb", "bgr"] = Field(
        "rgb", description="Order in which the network takes the channels; the data's is rgb."
    )
    feature_layer: Text | None = Field(
        None,
        description="Name of the module whose input is the features, averaged over positions; if "
        "not given, the last linear layer or convolution that runs.",
    )

    endpoint: EndpointSettings | None = Field(
        None, description="How an endpoint is asked, where the source is one."
    )

    @property
    def asked(self) -> EndpointSettings | None:
        """How the endpoint is asked, or None where the source is none."""
        if source_kind(self.source) != "endpoint":
            return None
        return self.endpoint or EndpointSettings()

    @model_validator(mode="before")
    @classmethod
    def _earlier_name(cls, found: Any) -> Any:
        if isinstance(found, dict) and "architecture" in found and "source" not in found:
            return {"source" if k == "architecture" else k: v for k, v in found.items()}
        return found

    @field_validator("source")
    @classmethod
    def _of_a_known_form(cls, source: str) -> str:
        if source_kind(source) == "endpoint":
            check_endpoint(source)
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
        if kind == "endpoint":
            self._refuse_what_an_endpoint_decides()
        elif self.endpoint is not None:
            raise ValueError(f"endpoint is of a source http(s)://…, not {self.source}")
        form = SOURCES[kind]
        if self.training is not None and not form.trainable:
            raise ValueError(f"only a registered network can be trained, not {self.source}")
        if self.surrogate is not None and kind != "endpoint":
            raise ValueError(
                f"surrogate is of an endpoint, not of {self.source}, which a denoiser can be "
                "trained through itself"
            )
        if self.training is not None and (self.input_size or self.channel_order != "rgb"):
            raise ValueError(
                "input_size and channel_order are of a pretrained classifier; one that is trained "
                "takes images as they are"
            )
        if self.arguments and not form.takes_arguments:
            raise ValueError(f"arguments are of a function or a model's name, not {self.source}")
        if self.weights is not None and form.has_weights:
            raise ValueError(f"{self.source} has its own weights; give no classifier.weights")
        return self

    def _refuse_what_an_endpoint_decides(self) -> None:
        defaults = type(self).model_fields
        given = [name for name in _OF_NETWORKS if getattr(self, name) != defaults[name].default]
        if given:
            raise ValueError(
                f"{self.source} is an endpoint, which takes images as they are: give no "
                f"{', '.join(given)}"
            )
