"""The settings of a classifier behind an HTTP endpoint."""

from typing import Literal

from pydantic import Field

from decrop.config.settings import Count, Positive, Settings

Protocol = Literal["mlflow", "plain"]
Answers = Literal["labels", "probabilities", "logits"]
Pixels = Literal["float", "clipped", "uint8"]
Scale = Literal[1, 255]


class EndpointSettings(Settings):
    """How an endpoint is asked; the fields up to `scale` are part of the certified function."""

    protocol: Literal["auto", Protocol] = Field(
        "auto",
        description="mlflow: {inputs: images} to {predictions: …}, as MLflow's scoring server; "
        "plain: {images: images} to {labels: …}, {probabilities: …} or {logits: …}; auto finds out "
        "by asking for one image.",
    )
    answers: Literal["auto", Answers] = Field(
        "auto",
        description="What an answer holds for each image: the number of its class, or one number "
        "for each class; auto takes those for probabilities where the first answer's add up to 1, "
        "else for logits.",
    )
    pixels: Pixels = Field(
        "float",
        description="What is done to a noisy (and denoised) image before it is sent: float, "
        "nothing; clipped, values leave [0,1] no more; uint8, they are rounded to 8 bits too.",
    )
    scale: Scale = Field(1, description="Value that a white pixel is sent as: 1, or 255.")
    batch_size: Count = Field(100, le=10_000, description="Most images in a request.")
    concurrency: Count = Field(
        4, le=256, description="Requests that one process has under way at once."
    )
    requests_per_second: Positive | None = Field(
        None,
        ge=1e-3,
        description="Most requests a second, of all processes together; no bound if None.",
    )
    timeout_seconds: Positive = Field(
        60.0, le=3600, description="Time in which a request must be answered whole."
    )
    retries: int = Field(
        5,
        ge=0,
        le=100,
        description="How often a request is repeated, after longer and longer waits or the one "
        "that the endpoint asks for, where it is refused a connection, times out, or is answered "
        "with status 429 or 5xx.",
    )
    token_variable: str | None = Field(
        None,
        max_length=200,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the environment variable that holds a bearer token; the token itself "
        "is recorded nowhere.",
    )
    query_budget: Count | None = Field(
        None, description="Images that may be sent in all, repeated ones included; None: no bound."
    )
