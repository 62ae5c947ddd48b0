"""Settings of endpoints are refused in one line where they cannot be used, without secrets."""

import pytest

from decrop.cli.options import change
from decrop.config import EndpointSettings, TrialConfig
from decrop.config.classifier_source import source_kind
from tests.cases import cases
from tests.refusals import one_line

URL = "http://localhost:5001/invocations"


def refusal(*assignments: str) -> str:
    return one_line(change, TrialConfig(), assignments)


def test_a_url_is_an_endpoint_and_no_model() -> None:
    assert source_kind(URL) == source_kind("https://models.example/v1") == "endpoint"
    assert source_kind("models:/name/1") == source_kind("runs:/run/model") == "uri"


def test_an_endpoint_has_settings_and_others_have_none() -> None:
    config = change(TrialConfig(), [f"classifier.source={URL}"])
    assert config.classifier.asked == EndpointSettings()
    given = [f"classifier.source={URL}", "classifier.endpoint.batch_size=64"]
    assert change(TrialConfig(), given).classifier.asked == EndpointSettings(batch_size=64)
    assert TrialConfig().classifier.asked is None
    assert "endpoint is of a source http(s)://" in refusal("classifier.endpoint.retries=1")


@cases(
    "assignment",
    [
        "classifier.weights=w.safetensors",
        "classifier.input_size=[8,8]",
        "classifier.channel_order=bgr",
        "classifier.feature_layer=fc",
        "classifier.arguments={depth: 3}",
    ],
)
def test_what_the_endpoint_decides_is_not_given(assignment: str) -> None:
    name = assignment.partition("=")[0].removeprefix("classifier.")
    message = refusal(f"classifier.source={URL}", assignment)
    assert f"is an endpoint, which takes images as they are: give no {name}" in message


def test_an_endpoint_is_neither_standardised_nor_trained() -> None:
    message = refusal(f"classifier.source={URL}", "classifier.mean=[0]", "classifier.std=[1]")
    assert "give no mean, std" in message
    assert refusal(f"classifier.source={URL}", "classifier.training.epochs=1")


@cases(
    "url",
    [
        "http://me:very-secret@localhost/invocations",
        "http://me:very/secret@localhost/invocations",
        "http://localhost/invocations?key=very-secret",
        "http://localhost/invocations#very-secret",
        f"http://me:{'very-secret' * 9}@localhost/invocations",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_shown(url: str) -> None:
    for other in ([], ["classifier.training.epochs=1"]):
        message = refusal(f"classifier.source={url}", *other)
        assert "secret" not in message
    assert "classifier.endpoint.token_variable" in refusal(f"classifier.source={url}")


@pytest.mark.parametrize("url", ["http:///x", "http://localhost:99999/x", "http://localhost:a/x"])
def test_what_cannot_be_asked_is_refused(url: str) -> None:
    assert "an endpoint is http(s)://HOST[:PORT]/PATH" in refusal(f"classifier.source={url}")


def test_chunks_fit_into_requests() -> None:
    given = [f"classifier.source={URL}", "classifier.endpoint.batch_size=20"]
    assert "execution.chunk_size (50) must be at most classifier.endpoint.batch_size (20)" in (
        refusal(*given)
    )
    assert change(TrialConfig(), [*given, "execution.chunk_size=20"]).execution.chunk_size == 20
    assert "must be at most" in refusal(f"classifier.source={URL}", "execution.chunk_size=200")
