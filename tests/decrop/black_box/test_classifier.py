"""An endpoint is a classifier: asked in batches, at once, within bounds, or one line says why."""

import copy
import itertools
import json
import pickle
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from decrop.black_box import (
    EndpointClassifier,
    EndpointError,
    QueryBudgetError,
    endpoint_classifier,
)
from decrop.black_box.memory import BlackBox
from decrop.classifiers.load import untrained_classifier
from decrop.config import ClassifierSettings
from decrop.errors import InputError, RunError
from tests.cases import cases
from tests.decrop.black_box.server import (
    Endpoint,
    Reply,
    labels_of,
    logits_of,
    probabilities_of,
    sending,
    serving,
)
from tests.decrop.tiny import CLASSES, SIZE, random_images, tiny_classifier, tiny_dataset
from tests.mlflow_server.processes import free_port

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = tiny_classifier()
DATA = tiny_dataset(
    torch.arange(8) % CLASSES, class_count=CLASSES, images=random_images(8, size=SIZE)
)
IMAGES = torch.rand(7, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
# No waits between repetitions that a test must sit through.
QUICK = {"retries": 0, "timeout_seconds": 5}


def settings(url: str, **given: Any) -> ClassifierSettings:
    return ClassifierSettings.model_validate({"source": url, "endpoint": {**QUICK, **given}})


def opened(endpoint: Endpoint, ledger: Path | None = None, **given: Any) -> EndpointClassifier:
    return endpoint_classifier(settings(endpoint.url, **given), DATA, ledger)


def one_hot(network: torch.nn.Module = NETWORK) -> torch.Tensor:
    return torch.nn.functional.one_hot(network(IMAGES).argmax(1), CLASSES).float()


@cases(
    ("answer", "understood"),
    [
        (labels_of(NETWORK), ("mlflow", "labels")),
        (probabilities_of(NETWORK), ("mlflow", "probabilities")),
        (logits_of(NETWORK), ("mlflow", "logits")),
        (labels_of(NETWORK, "labels"), ("plain", "labels")),
        (probabilities_of(NETWORK, "probabilities"), ("plain", "probabilities")),
        (logits_of(NETWORK, "logits"), ("plain", "logits")),
    ],
)
def test_each_protocol_and_kind_of_answer_is_found_out(
    answer: Any, understood: tuple[str, str]
) -> None:
    with serving(answer) as endpoint:
        classifier = opened(endpoint)
        assert (classifier.function.protocol, classifier.function.answers) == understood
        # One image, and one more where the likelier protocol is not the endpoint's.
        assert endpoint.asked == [1] * (1 if understood[0] == "mlflow" else 2)
        box: BlackBox = classifier
        found = box.probabilities(IMAGES)
    expected = one_hot() if understood[1] == "labels" else NETWORK(IMAGES).softmax(1)
    assert found.dtype == torch.float32 and box.class_count == CLASSES
    torch.testing.assert_close(found, expected)
    named = "inputs" if understood[0] == "mlflow" else "images"
    assert endpoint.documents[-1].keys() == {named}


def rows(column: str, values: list[Any]) -> Any:
    return lambda images: {"predictions": [{column: values[i]} for i in range(len(images))]}


@cases(
    ("answer", "expected"),
    [
        (rows("class", [1, 2, 3, 0, 1, 2, 3]), [1, 2, 3, 0, 1, 2, 3]),
        (rows("label", [1.0, 2, 3, 0, 1, 2, 3]), [1, 2, 3, 0, 1, 2, 3]),
        (rows("probabilities", [[0.1, 0.2, 0.3, 0.4]] * 7), [3] * 7),
        (lambda images: {"predictions": [[2]] * len(images)}, [2] * 7),
    ],
)
def test_rows_of_tables_are_understood(answer: Any, expected: list[int]) -> None:
    with serving(answer) as endpoint:
        assert opened(endpoint).probabilities(IMAGES).argmax(1).tolist() == expected


def test_labels_may_be_all_that_is_wanted() -> None:
    with serving(logits_of(NETWORK)) as endpoint:
        classifier = opened(endpoint, answers="labels")
        assert torch.equal(classifier.probabilities(IMAGES), one_hot())


def test_forward_gives_finite_logarithms_without_gradients() -> None:
    with serving(labels_of(NETWORK)) as endpoint:
        logarithms = opened(endpoint)(IMAGES.requires_grad_())
    IMAGES.requires_grad_(False)
    assert logarithms.isfinite().all() and not logarithms.requires_grad
    assert torch.equal(logarithms.exp().round(), one_hot())
    with serving(probabilities_of(NETWORK)) as endpoint:
        torch.testing.assert_close(opened(endpoint)(IMAGES), NETWORK(IMAGES).log_softmax(1))


@cases(
    ("given", "sent"),
    [
        ({}, [-0.25, 0.5019999742507935, 1.5]),
        ({"pixels": "clipped"}, [0.0, 0.5019999742507935, 1.0]),
        ({"pixels": "uint8"}, [0.0, 0.501960813999176, 1.0]),
        ({"pixels": "uint8", "scale": 255}, [0, 128, 255]),
        ({"scale": 255}, [-63.75, 128.00999450683594, 382.5]),
    ],
)
def test_pixels_are_sent_as_the_settings_say(given: dict[str, Any], sent: list[float]) -> None:
    images = torch.full((1, 1, SIZE, SIZE), 0.25)
    images[0, 0, 0, :3] = torch.tensor([-0.25, 0.502, 1.5])
    with serving() as endpoint:
        opened(endpoint, **given).probabilities(images)
    row = endpoint.documents[-1]["inputs"][0][0][0][:3]
    assert row == sent and {type(value) for value in row} == {type(sent[0])}


def test_every_float32_arrives_as_it_is() -> None:
    with serving() as endpoint:
        opened(endpoint).probabilities(IMAGES)
    received = np.array(endpoint.documents[-1]["inputs"])
    assert np.array_equal(received.astype(np.float32), IMAGES.numpy())


def test_images_go_in_batches_several_at_once() -> None:
    with serving(labels_of(NETWORK), seconds=0.05) as endpoint:
        classifier = opened(endpoint, batch_size=2, concurrency=3)
        found = classifier.probabilities(IMAGES)
    assert sorted(endpoint.asked[1:]) == [1, 2, 2, 2]
    assert endpoint.most_at_once == 3
    assert torch.equal(found, one_hot())
    assert classifier.probabilities(IMAGES[:0]).shape == (0, CLASSES)


def test_copies_threads_and_pickles_ask_and_count_together(tmp_path: Path) -> None:
    ledger = tmp_path / "queries.json"
    with serving(labels_of(NETWORK)) as endpoint:
        classifier = opened(endpoint, ledger)
        others = [
            copy.deepcopy(classifier),
            pickle.loads(pickle.dumps(classifier)),
            torch.nn.Sequential(torch.nn.Identity(), classifier).to(torch.bfloat16)[1],
        ]
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda box: box(IMAGES).argmax(1), others * 4))
    assert all(torch.equal(labels, one_hot().argmax(1)) for labels in found)
    spent = classifier.client.ledger.spent()
    assert spent.asked == spent.answered == endpoint.images == 1 + 12 * 7
    assert spent.requests == len(endpoint.asked) and spent.retries == 0
    assert json.loads(ledger.read_text())["asked"] == spent.asked


def test_what_decides_the_answers_is_told_and_hashed() -> None:
    with serving(labels_of(NETWORK)) as endpoint:
        plain = opened(endpoint)
        same = opened(endpoint, batch_size=3, requests_per_second=1000, query_budget=10)
        other = opened(endpoint, pixels="uint8")
    assert repr(plain) == repr(same) and plain.content_hash() == same.content_hash()
    assert repr(plain) != repr(other) and plain.content_hash() != other.content_hash()
    for text in (endpoint.url, "mlflow", "labels", "pixels='float'", "scale=1"):
        assert text in repr(plain)


def test_requests_a_second_are_bounded_across_copies(tmp_path: Path) -> None:
    ledger = tmp_path / "queries.json"
    with serving() as endpoint:
        boxes = [opened(endpoint, ledger, requests_per_second=20) for _ in range(2)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: boxes[i % 2](IMAGES), range(6)))
    gaps = [b - a for a, b in itertools.pairwise(sorted(endpoint.times))]
    assert len(gaps) == 7
    # Times of arrival jitter.
    assert sum(gaps) >= 7 / 20 - 0.03


# What is refused


def test_there_is_no_network_to_load() -> None:
    with pytest.raises(InputError, match="answers with predictions only"):
        untrained_classifier(settings("http://127.0.0.1:9/invocations"), DATA)


def failure(endpoint: Endpoint, **given: Any) -> str:
    """Open an endpoint and ask for seven images; return the one line that says why not."""
    with pytest.raises(RunError) as error:
        opened(endpoint, **given).probabilities(IMAGES)
    assert "\n" not in str(error.value) and endpoint.url in str(error.value)
    return str(error.value)


MLFLOW = {"protocol": "mlflow"}


def test_a_dead_endpoint_is_said_and_costs_nothing(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/invocations"
    with pytest.raises(EndpointError) as error:
        endpoint_classifier(settings(url), DATA, tmp_path / "queries")
    assert str(error.value) == f"{url} cannot be reached (connection refused); does it run?"
    assert json.loads((tmp_path / "queries").read_text())["asked"] == 0


def test_a_slow_endpoint_is_said() -> None:
    with serving(seconds=1.0) as endpoint:
        said = failure(endpoint, timeout_seconds=0.1)
    assert "has not answered within 0.1 s; raise classifier.endpoint.timeout_seconds" in said


def test_an_answer_that_drips_is_too_slow_as_a_whole() -> None:
    dripping = Reply(b'{"predictions": [0]}', between_bytes=0.1)
    with serving(None, dripping) as endpoint:
        said = failure(endpoint, timeout_seconds=0.3, **MLFLOW)
    assert "has not answered within 0.3 s" in said


def test_a_connection_that_is_cut_off_is_said() -> None:
    def hang_up(number: int) -> None:
        raise ConnectionResetError

    with serving(before_answer=hang_up) as endpoint:
        said = failure(endpoint, **MLFLOW)
    assert "has cut the connection off" in said


@cases(
    ("status", "said"),
    [
        (400, "answers with status 400; noise takes pixels out of [0,1]"),
        (401, "name the variable with its token as classifier.endpoint.token_variable"),
        (404, "is its path right?"),
        (413, "lower classifier.endpoint.batch_size"),
        (302, "redirects (status 302)"),
        (500, "set classifier.endpoint.pixels=clipped. It says 'no'."),
    ],
)
def test_statuses_are_said(status: int, said: str) -> None:
    no = Reply(b"no", status, {"Location": "/elsewhere"})
    with serving(None, no) as endpoint:
        assert said in failure(endpoint, **MLFLOW)
    assert endpoint.asked == [1]


CAUSE = "pixel values must be in [0, 1]"
REFUSALS = {
    "mlflow": '{"error_code": "BAD_REQUEST", "message": "Encountered an unexpected error while '
    "evaluating the model. Verify that the input is compatible with the model for inference. "
    + "Further words. " * 20
    + f'Error \'{CAUSE}\'", "stack_trace": "Traceback (most recent call last):'
    + "x" * 9000
    + '"}',
    "fastapi": f'{{"detail": [{{"loc": ["body"], "msg": "{CAUSE}"}}]}}',
    "text": f"<html>\n{'long ' * 200}\n{CAUSE}",
}


@cases("body", REFUSALS)
def test_a_refusal_shows_its_cause(body: str) -> None:
    with serving(None, Reply(REFUSALS[body].encode(), 422)) as endpoint:
        said = failure(endpoint, **MLFLOW)
    assert CAUSE in said
    assert "Traceback" not in said


def test_what_may_pass_is_repeated_and_counted(tmp_path: Path) -> None:
    faults = [Reply(b"", 503), Reply(b"", 502, {"Retry-After": "0"})]
    with serving(labels_of(NETWORK)) as endpoint:
        classifier = opened(endpoint, tmp_path / "queries", retries=2)
        endpoint.faults += faults
        assert torch.equal(classifier.probabilities(IMAGES), one_hot())
    spent = classifier.client.ledger.spent()
    assert (spent.asked, spent.answered, spent.retries) == (1 + 3 * 7, 8, 2)
    assert endpoint.images == spent.asked


def test_repetitions_end() -> None:
    with serving(None, *[Reply(b"busy", 503)] * 9) as endpoint:
        said = failure(endpoint, retries=1, **MLFLOW)
    assert said.endswith("answers with status 503. It says 'busy'. It was tried 2 times.")
    assert endpoint.asked == [1, 1]


def test_an_endpoint_says_how_long_to_wait() -> None:
    with serving(labels_of(NETWORK), Reply(b"", 429, {"Retry-After": "1"})) as endpoint:
        opened(endpoint, retries=1, **MLFLOW)
    assert endpoint.times[1] - endpoint.times[0] >= 0.95
    with serving(None, Reply(b"", 429, {"Retry-After": "7000"})) as endpoint:
        said = failure(endpoint, retries=1, **MLFLOW)
    assert "asks to be left alone for 7,000 s (Retry-After)" in said


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def for_ever(begin: bytes, again: bytes, pause: float = 0.02) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        connection.sendall(begin)
        while True:
            connection.sendall(again)
            time.sleep(pause)

    return send


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "send",
    [
        pytest.param(for_ever(b"", b"H"), id="status"),
        pytest.param(for_ever(HEAD + b"X-Long: ", b"x"), id="header"),
        pytest.param(for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), id="continue"),
        pytest.param(for_ever(HEAD + b"Content-Length: 900\r\n\r\n", b" "), id="body"),
        pytest.param(for_ever(HEAD + b"\r\n", b" "), id="body without length"),
        pytest.param(for_ever(CHUNKED, b"1\r\n \r\n"), id="chunks"),
        pytest.param(for_ever(CHUNKED + b"1;", b"x"), id="extension of a chunk"),
        pytest.param(for_ever(CHUNKED + b"0\r\n", b"X: x\r\n"), id="trailers"),
        pytest.param(lambda connection: time.sleep(5), id="nothing"),
    ],
)
def test_an_endpoint_holds_nobody_longer_than_its_time(
    send: Callable[[socket.socket], None],
) -> None:
    with sending(send) as url, pytest.raises(EndpointError) as error:
        began = time.monotonic()
        endpoint_classifier(settings(url, timeout_seconds=0.4, **MLFLOW), DATA, None)
    assert time.monotonic() - began < 4
    assert str(error.value).startswith(f"{url} has not answered within 0.4 s; raise")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "send",
    [
        pytest.param(for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 999, 0), id="continue"),
        pytest.param(for_ever(CHUNKED + b"1;", b"x" * 9999, 0), id="extension of a chunk"),
        pytest.param(for_ever(CHUNKED + b"0\r\n", b"X: x\r\n" * 999, 0), id="trailers"),
        pytest.param(for_ever(CHUNKED, b"ffff\r\n" + b" " * 65535 + b"\r\n", 0), id="chunks"),
        pytest.param(for_ever(HEAD + b"\r\n", b" " * 9999, 0), id="body without length"),
    ],
)
def test_an_endpoint_sends_no_more_than_an_answer(send: Callable[[socket.socket], None]) -> None:
    with (
        sending(send) as url,
        pytest.raises(EndpointError, match=r"more than (1,049,856|65536) bytes"),
    ):
        endpoint_classifier(settings(url, timeout_seconds=15, **MLFLOW), DATA, None)


@cases(
    "header",
    ["9" * 5000, "Fri, 31 Dec 9999999999 23:59:59 GMT", "-5", "nan", "1e9", "Fri, 31 Dec 1 0:0:0"],
)
def test_nonsense_for_a_time_to_wait_is_passed_over(header: str) -> None:
    with serving(None, Reply(b"", 503, {"Retry-After": header})) as endpoint:
        opened(endpoint, retries=1, **MLFLOW)
    assert len(endpoint.asked) == 2
    assert endpoint.times[1] - endpoint.times[0] < 4


def reply(document: Any) -> Reply:
    return Reply(json.dumps(document).encode())


@cases(
    ("body", "said"),
    [
        (
            Reply(b"<html>\nSorry</html>"),
            "does not answer with JSON. It says '<html> Sorry</html>'",
        ),
        (Reply(b"[" * 100_000), "does not answer with JSON"),
        (Reply(b"\xff\x1b[31m"), "does not answer with JSON"),
        (reply([1]), "answers without predictions"),
        (reply({"predictions": 3}), "no list of one row an image"),
        (reply({"predictions": [1, 2]}), "answers 1 image with 2 rows"),
        (reply({"predictions": [CLASSES]}), "answers with 4 as a label; labels must be"),
        (reply({"predictions": [-1]}), "answers with -1 as a label"),
        (reply({"predictions": [1.5]}), "answers with 1.5 as a label"),
        (reply({"predictions": [True]}), "answers with bool as a label"),
        (reply({"predictions": ["cat"]}), "answers with str as a label"),
        (reply({"predictions": [None]}), "answers with NoneType as a label"),
        (reply({"predictions": [float("nan")]}), "answers with nan as a label"),
        (reply({"predictions": [10**400]}), "answers with int as a label"),
        (reply({"predictions": [{"class": -1, "label": ""}]}), "answers with -1 as a label"),
        (reply({"predictions": [{"score": 1}]}), "have none of probabilities, class, label"),
        (reply({"predictions": [[0.5, float("nan"), 0.25, 0.25]]}), "NaN or infinite"),
        (reply({"predictions": [[10**400, 0, 0, 0]]}), "NaN or infinite"),
        (reply({"predictions": [[0.5, "x", 0.25, 0.25]]}), "str where a number must be"),
        (reply({"predictions": [[0.5, 0.25, 0.25]]}), "3 numbers an image, but the data have 4"),
        (reply({"predictions": [[]]}), "rows of different lengths"),
        (Reply(b" " * (2 << 20)), "more than 1,049,856 bytes"),
    ],
)
def test_garbage_is_said(body: Reply, said: str) -> None:
    with serving(None, body) as endpoint:
        assert said in failure(endpoint, **MLFLOW)


def test_answers_must_go_on_as_they_began() -> None:
    with serving(probabilities_of(NETWORK)) as endpoint:
        classifier = opened(endpoint)
        endpoint.answer = logits_of(NETWORK)
        with pytest.raises(EndpointError, match=r"set classifier.endpoint.answers=logits"):
            classifier(IMAGES)
        endpoint.answer = labels_of(NETWORK)
        with pytest.raises(EndpointError, match="answers with labels only"):
            classifier(IMAGES)
        endpoint.answer = lambda images: {"predictions": [[1.0, 0, 0, 0], [1.0, 0]]}
        with pytest.raises(EndpointError, match="answers 7 images with 2 rows"):
            classifier(IMAGES)


def test_plain_answers_have_a_name() -> None:
    with serving(lambda images: {"outputs": [1]}) as endpoint:
        said = failure(endpoint, protocol="plain")
    assert "answers without labels, probabilities or logits" in said


def test_images_that_cannot_be_sent_are_refused() -> None:
    with serving() as endpoint:
        classifier = opened(endpoint)
        with pytest.raises(InputError, match="not finite numbers"):
            classifier(torch.full((1, 1, SIZE, SIZE), torch.nan))
        with pytest.raises(InputError, match=r"asked for images \[1, 6, 6\].*not \[3, 6, 6\]"):
            classifier(torch.rand(1, 3, SIZE, SIZE))
    assert endpoint.asked == [1]


# Secrets

TOKEN = "very-secret-token"


def test_the_token_is_sent_and_kept_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    given = {"token_variable": "MY_TOKEN"}
    with serving(labels_of(NETWORK)) as endpoint:
        classifier = opened(endpoint, tmp_path / "queries", **given)
        kept = [
            repr(classifier),
            pickle.dumps(classifier).decode(errors="replace"),
            (tmp_path / "queries").read_text(),
            classifier.recorded().model_dump_json(),
        ]
        assert not any(TOKEN in text for text in kept)
        assert classifier.recorded().token_variable is None
    assert endpoint.headers[0]["Authorization"] == f"Bearer {TOKEN}"
    echo = Reply(b"x" * 110 + f"Bearer {TOKEN} is not known".encode(), 403)
    for body in (echo, Reply(echo.body)):
        with serving(None, body) as endpoint:
            said = failure(endpoint, **given, **MLFLOW)
        assert "147 bytes are not shown, for they may hold the token" in said
        assert "Bearer" not in said and "very" not in said


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 403 no\r\nContent-Length: 35\r\n\r\nvery-s e cr et - to ken nekot-terces",
        b"HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\n" + b'{"predictions": [4829131]}',
        b"HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n" + b'{"predictions": [482913.17]}',
        b"very-secret 4829131 HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4829131, 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nvery-secret\r\nContent-Length: 1\r\n\r\n",
    ],
)
def test_an_answer_that_disguises_the_token_is_not_shown(
    reply: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    with sending(lambda connection: connection.sendall(reply)) as url:
        given = settings(url, token_variable="MY_TOKEN", **MLFLOW)
        with pytest.raises(RunError) as error:
            endpoint_classifier(given, DATA, None)
    said = str(error.value).removeprefix(url)
    for piece in ("very", "secr", "to ken", "nekot", "4829", "8291"):
        assert piece not in said + caplog.text


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "MY_TOKEN is not set"), ("two\nlines", "what is no token"), ("  ", "is not set")],
)
def test_a_token_that_cannot_be_sent_is_refused(
    value: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("MY_TOKEN", value)
    with serving() as endpoint, pytest.raises(InputError, match=said) as error:
        opened(endpoint, token_variable="MY_TOKEN")
    assert endpoint.asked == [] and "lines" not in str(error.value)


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with serving(labels_of(NETWORK)) as endpoint:
        assert torch.equal(opened(endpoint).probabilities(IMAGES), one_hot())


# The budget


def test_no_more_is_asked_than_the_budget_allows(tmp_path: Path) -> None:
    ledger = tmp_path / "queries.json"
    given = {"query_budget": 10, "batch_size": 3}
    with serving(labels_of(NETWORK)) as endpoint:
        classifier = opened(endpoint, ledger, **given)
        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(classifier.probabilities, IMAGES[:3]) for _ in range(5)]
        spent = [one for one in asking if one.exception() is None]
        refused = [str(one.exception()) for one in asking if one.exception() is not None]
        assert (len(spent), len(refused)) == (3, 2)
        assert refused[0] == (
            "classifier.endpoint.query_budget: 10 of 10 images are spent, and the next request "
            "has 3; raise it to go on."
        )
        # Also not by another process later.
        with pytest.raises(QueryBudgetError, match="10 of 10"):
            opened(endpoint, ledger, **given)
        assert opened(endpoint, ledger, query_budget=14)(IMAGES[:3]).shape == (3, CLASSES)
    assert endpoint.images == 14


def test_a_file_that_counts_no_queries_is_refused(tmp_path: Path) -> None:
    endless = '{"asked": 0, "answered": 0, "requests": 0, "retries": 0, "next_send": Infinity}'
    for text in ("[]", '{"asked": -1}', "x", endless):
        (tmp_path / "queries").write_text(text)
        with serving() as endpoint, pytest.raises(InputError, match="queries"):
            opened(endpoint, tmp_path / "queries")
        assert endpoint.asked == []
