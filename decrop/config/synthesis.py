"""The settings of stage 1: boundary and interpolated samples."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from decrop.config.components import Component, Table
from decrop.config.settings import Count, CountOrZero, NonNegative, Positive, Settings

# Builders are a `decrop.synthesis.boundary.Method`.
ATTACKS = Table(
    Component(
        "pgd",
        "ascends the loss of the true class in a set number of steps, as published",
        "decrop.synthesis.boundary:PGD",
        "Madry et al. 2018",
    ),
    Component(
        "auto_attack",
        "leaves the predicted class by AutoPGD on two losses, DeepFool and Square, each on the "
        "images that the parts before it left, and an image that all leave stays as it is; 1.5 to "
        "3 times as slow as pgd, but for an image that reaches Square about 300 times",
        "decrop.synthesis.boundary:AUTO_ATTACK",
        "Croce and Hein 2020",
    ),
    Component(
        "deepfool",
        "leaves the predicted class by the shortest way in L2, with no bound but [0,1]; about 5 "
        "times as slow as pgd in as many steps",
        "decrop.synthesis.boundary:DEEPFOOL",
        "Moosavi-Dezfooli et al. 2016",
    ),
)
Attack = Annotated[str, ATTACKS]


class BoundarySettings(Settings):
    """Boundary samples (DE-CROP eq. 5): adversarial examples of the limited data."""

    attack: Attack = Field(
        "pgd", description=f"Attack that crosses the decision boundary. {ATTACKS.help}."
    )
    norm: Literal["linf", "l2"] = Field(
        "linf",
        description="pgd: norm of epsilon and step_size (paper: linf). auto_attack keeps to linf.",
    )
    epsilon: float = Field(
        8 / 255,
        gt=0,
        le=1000,
        description="pgd, auto_attack: bound of the norm in [0,1] pixels, at most 1 for linf "
        "(published: 8/255). deepfool keeps none.",
    )
    step_size: float = Field(
        2 / 255,
        gt=0,
        le=1000,
        description="pgd: step in [0,1] pixels (published: 2/255); auto_attack: first step of "
        "AutoPGD, which adapts it.",
    )
    steps: Count = Field(
        20,
        description="pgd: steps (published: 20); auto_attack: steps of AutoPGD on either loss "
        "(AutoAttack's paper: 100); auto_attack, deepfool: most steps of DeepFool (its paper: 50).",
    )
    restarts: int = Field(
        1,
        ge=1,
        le=100,
        description="pgd: random starts; a sample is of the last one that leaves the true class, "
        "or of the first where none does (published: 1).",
    )
    square_queries: CountOrZero = Field(
        5000,
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
    pixels: Literal["float", "uint8"] = Field(
        "float",
        description="uint8 floors the samples that are trained on to 8 bits, as the loader of the "
        "published code does; interpolated logits are those of the sample before.",
    )

    @model_validator(mode="after")
    def _within_pixels(self) -> Self:
        in_linf = self.norm == "linf" or self.attack == "auto_attack"
        for name, value in (("epsilon", self.epsilon), ("step_size", self.step_size)):
            if in_linf and value > 1:
                raise ValueError(
                    f"{name} {value:g} must be at most 1 but for pgd with norm l2, for pixels are "
                    "in [0,1]"
                )
        return self


class InterpolationSettings(Settings):
    """Interpolated samples (DE-CROP eqs. 6 and 7)."""

    partner: Literal["boundary", "same_class"] = Field(
        "boundary",
        description="Whose logits are mixed with those of an image: its boundary sample's, or a "
        "random other image's of its class (ablation without boundary samples).",
    )
    mixing_coefficient: float = Field(
        0.5, ge=0, le=1, description="Weight of the clean logits in DE-CROP eq. 6."
    )
    count: int = Field(
        1,
        ge=1,
        le=16,
        description="Interpolated samples an image, with distinct mixing coefficients whose "
        "median is mixing_coefficient (paper: 1; ablation 2 and 5).",
    )
    steps: Count = Field(
        50, description="Adam steps on the pixels in DE-CROP eq. 7 (published: up to 50)."
    )
    learning_rate: Positive = Field(0.001, description="Adam step in [0,1] pixels.")
    mode: Literal["as_written", "published"] = Field(
        "as_written",
        description="as_written solves DE-CROP eq. 7; published does one step and floors to "
        "8 bits, as the published code does.",
    )

    @model_validator(mode="after")
    def _distinct_coefficients(self) -> Self:
        if self.count > 1 and self.mixing_coefficient in (0, 1):
            raise ValueError(
                f"mixing_coefficient {self.mixing_coefficient:g} with count {self.count} gives "
                "equal coefficients; give one strictly between 0 and 1, or count 1"
            )
        return self
