"""HTTP requests to an endpoint: bounded in rate, time and length, repeated where it may help."""

import os
import re
import threading
from pathlib import Path
from typing import Any, Self

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InvalidHeader,
    MaxRetryError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import Retry, Timeout

from decrop.black_box.exchange import BoundedPools, Exchange, TooLongError, during
from decrop.black_box.ledger import QueryLedger
from decrop.config import EndpointSettings
from decrop.errors import InputError, RunError, one_line
from decrop.wording import counted


class EndpointError(RunError):
    """An endpoint does not answer, or not what a classifier must."""


class WrongAnswerError(EndpointError):
    """An endpoint answers, but with something else."""


# Holds the bearer token of an endpoint that a bundle names, where the user has no settings.
TOKEN_VARIABLE = "DECROP_ENDPOINT_TOKEN"
# Too many requests, and what servers say that are starting, overloaded or broken for a moment.
_RETRIED = (429, 500, 502, 503, 504)
# Seconds before the second repetition; each further one waits twice as long, up to the most.
_BACKOFF, _MOST_BACKOFF = 0.5, 60.0
# An endpoint that asks to be left alone for longer is an error.
_LONGEST_WAIT = 600.0
_SHOWN_WAIT = 1e9
# Characters of a number of seconds, or of a date.
_LONGEST_RETRY_AFTER = 64
_READ_AT_ONCE = 1 << 16
_EXPLAINED_BYTES = 1 << 12
# Status, headers, trailers and the marks of chunks, beside an answer.
_HEADER_BYTES = 1 << 18
_HINTS = {
    401: "name the variable with its token as classifier.endpoint.token_variable",
    403: "name the variable with its token as classifier.endpoint.token_variable",
    404: "is its path right? MLflow's is /invocations",
    413: "lower classifier.endpoint.batch_size",
}
_RANGE_HINT = (
    "noise takes pixels out of [0,1]: if it refuses those, set classifier.endpoint.pixels=clipped"
)
_OF_THE_INPUT = (400, 422, 500)
# Of a JSON answer, where servers say what was wrong: MLflow, FastAPI, others.
_MESSAGE = re.compile(r'"(?:message|detail|error|msg)"\s*:\s*("(?:[^"\\]|\\.)*"?)')
_EXCERPT = 240


class EndpointClient:
    """Sends requests to one URL; threads may share it, and copies of it are itself.

    Proxies of the environment are not used. The bearer token is read from the environment when a
    request is sent and is kept nowhere.
    """

    def __init__(
        self, url: str, settings: EndpointSettings, ledger_path: Path | None = None
    ) -> None:
        """Take what is to be asked, and how.

        Args:
            ledger_path: file that counts the queries; None counts them in this process.
        """
        self.url = url
        self.settings = settings
        self.ledger = QueryLedger(
            ledger_path,
            budget=settings.query_budget,
            requests_per_second=settings.requests_per_second,
        )
        self._token()
        self._begin()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Connections are of this process.
        return {"url": self.url, "settings": self.settings, "ledger": self.ledger}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def post(
        self,
        body: bytes,
        *,
        images: int,
        most_bytes: int,
        retries: int | None = None,
        stop: threading.Event | None = None,
    ) -> bytes:
        """Return the answer to a request, once there is one with status 200.

        Args:
            body: JSON.
            images: in it, counted in the ledger each time that it is sent.
            most_bytes: of an answer that is read.
            retries: instead of those of the settings.
            stop: once it is set nothing more is sent or waited for.

        Raises:
            EndpointError: there is no such answer.
            QueryBudgetError: the budget does not suffice to send it, or to send it again.
        """
        stop = stop or threading.Event()
        retry = Retry(
            total=self.settings.retries if retries is None else retries,
            allowed_methods=None,
            status_forcelist=_RETRIED,
            backoff_factor=_BACKOFF,
            backoff_max=_MOST_BACKOFF,
        )
        repeated = 0
        while True:
            self._go_ahead(images, retry=repeated > 0, stop=stop)
            response, answer, failure = self._send(body, most_bytes, images)
            if failure is None and response is not None and response.status == 200:
                return answer
            reason = self._reason(response, answer, failure)
            if response is not None and not retry.is_retry("POST", response.status):
                raise reason
            try:
                retry = retry.increment("POST", self.url, response=response, error=failure)
            except MaxRetryError:
                times = f" It was tried {repeated + 1} times." if repeated else ""
                raise type(reason)(f"{reason}{times}") from None
            self._wait(self._pause(retry, response), stop)
            repeated += 1

    def told(self, answer: bytes) -> str:
        """Return a sentence with the beginning of an answer.

        Where a bearer token was sent nothing is shown: an answer may hold it in any guise.
        """
        if self.settings.token_variable is not None:
            return f"Its {len(answer):,} bytes are not shown, for they may hold the token."
        text = answer[:_EXPLAINED_BYTES].decode(errors="replace")
        if message := _MESSAGE.search(text):
            text = message[1].strip('"').replace("\\n", " ").replace('\\"', '"')
        # The cause is often at the end.
        return f"It says {one_line(text, _EXCERPT)!r}."

    def shown(self, error: object) -> str:
        """Return what an error says, without numbers of an answer where a token was sent."""
        if self.settings.token_variable is None:
            return str(error)
        return re.sub(r"[-+.e\d]*\d", "…", str(error))

    def _send(
        self, body: bytes, most_bytes: int, images: int
    ) -> tuple[urllib3.BaseHTTPResponse | None, bytes, HTTPError | None]:
        """Send a request once and return what came: response and body, or what went wrong."""
        seconds = self.settings.timeout_seconds
        exchange = Exchange(seconds, 2 * most_bytes + _HEADER_BYTES)
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            # A compressed answer could be of any length.
            "Accept-Encoding": "identity",
        }
        if token := self._token():
            headers["Authorization"] = f"Bearer {token}"
        try:
            with during(exchange):
                response = self._connections().request(
                    "POST",
                    self.url,
                    body=body,
                    headers=headers,
                    timeout=Timeout(connect=seconds, read=seconds),
                    retries=False,
                    redirect=False,
                    preload_content=False,
                )
        except SSLError as error:
            raise EndpointError(
                f"{self.url} cannot be asked over TLS: {one_line(str(error), 200)}."
            ) from None
        except ConnectTimeoutError as error:
            self.ledger.give_back(images)
            return None, b"", error
        except HTTPError as error:
            return None, b"", self._late(exchange) or error
        except TooLongError:
            raise self._too_long(images, most_bytes) from None
        try:
            right = response.status == 200
            return response, self._read(response, most_bytes, whole=right), None
        except HTTPError as error:
            return None, b"", self._late(exchange) or error
        except TooLongError:
            raise self._too_long(images, most_bytes) from None
        finally:
            # What was not read to its end cannot be used again.
            response.close()

    def _late(self, exchange: Exchange) -> ReadTimeoutError | None:
        if not exchange.is_over:
            return None
        return ReadTimeoutError(None, self.url, "too slow")  # type: ignore[arg-type]

    def _too_long(self, images: int, most_bytes: int) -> WrongAnswerError:
        return WrongAnswerError(
            f"{self.url} answers {counted(images, 'image')} with more than {most_bytes:,} bytes; "
            "no answer of a classifier is that long."
        )

    def _read(self, response: urllib3.BaseHTTPResponse, most: int, *, whole: bool) -> bytes:
        """Return the body, or of one that only explains an error the beginning."""
        parts: list[bytes] = []
        length = 0
        limit = most if whole else _EXPLAINED_BYTES
        while part := response.read1(_READ_AT_ONCE, decode_content=False):
            parts.append(part)
            length += len(part)
            if length > limit:
                if whole:
                    raise TooLongError
                break
        return b"".join(parts)

    def _reason(
        self, response: urllib3.BaseHTTPResponse | None, answer: bytes, failure: HTTPError | None
    ) -> EndpointError:
        if response is not None:
            status = response.status
            if 300 <= status < 400:
                return WrongAnswerError(
                    f"{self.url} redirects (status {status}); give the URL that answers itself."
                )
            hint = _HINTS.get(status, "")
            if status in _OF_THE_INPUT and self.settings.pixels == "float":
                hint = _RANGE_HINT
            hint = f"; {hint}" if hint else ""
            return WrongAnswerError(
                f"{self.url} answers with status {status}{hint}. {self.told(answer)}"
            )
        # One sort of the timeouts too.
        if isinstance(failure, NewConnectionError):
            return EndpointError(
                f"{self.url} cannot be reached ({self._cause(failure)}); does it run?"
            )
        if isinstance(failure, ConnectTimeoutError | ReadTimeoutError):
            return EndpointError(
                f"{self.url} has not answered within {self.settings.timeout_seconds:g} s; raise "
                "classifier.endpoint.timeout_seconds or lower its batch_size."
            )
        return EndpointError(f"{self.url} has cut the connection off ({self._cause(failure)}).")

    def _pause(self, retry: Retry, response: urllib3.BaseHTTPResponse | None) -> float:
        """Return how long to wait before the request is repeated."""
        asked_for = None if response is None else _retry_after(retry, response)
        if asked_for is not None and asked_for > _LONGEST_WAIT:
            assert response is not None
            raise EndpointError(
                f"{self.url} answers with status {response.status} and asks to be left alone for "
                f"{min(asked_for, _SHOWN_WAIT):,.0f} s (Retry-After); go on after that."
            )
        return retry.get_backoff_time() if asked_for is None else asked_for

    def _go_ahead(self, images: int, *, retry: bool, stop: threading.Event) -> None:
        """Count a request and wait until it may be sent."""
        self._wait(0, stop)
        seconds = self.ledger.reserve(images, retry=retry)
        try:
            self._wait(seconds, stop)
        except EndpointError:
            self.ledger.give_back(images)
            raise

    def _wait(self, seconds: float, stop: threading.Event) -> None:
        if stop.wait(seconds) if seconds > 0 else stop.is_set():
            raise EndpointError(f"{self.url} is asked no more.")

    def _token(self) -> str | None:
        variable = self.settings.token_variable
        if variable is None:
            return None
        token = os.environ.get(variable, "").strip()
        if not re.fullmatch(r"[!-~]+", token):
            raise InputError(
                f"classifier.endpoint.token_variable: the environment variable {variable} "
                + ("is not set." if not token else "holds what is no token: blanks, or not ASCII.")
            )
        return token

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._process = 0

    def _connections(self) -> urllib3.PoolManager:
        with self._lock:
            # A forked process must not use the connections of the other.
            if self._process != os.getpid():
                self._process = os.getpid()
                self._pool = BoundedPools(num_pools=1, maxsize=self.settings.concurrency)
            return self._pool

    def _cause(self, error: HTTPError | None) -> str:
        """Return the operating system's words, without those of the library around them."""
        found: BaseException | None = error
        while found is not None and not isinstance(found, OSError):
            found = found.__cause__ or found.__context__
        if isinstance(found, OSError) and found.strerror:
            return found.strerror.lower()
        if self.settings.token_variable is not None:
            # The library's words may repeat the answer's.
            return type(error).__name__
        return one_line(str(error), 200)


def _retry_after(retry: Retry, response: urllib3.BaseHTTPResponse) -> float | None:
    """Return the seconds that an answer asks for; None where it does not say, or nonsense."""
    header = response.headers.get("Retry-After", "")
    if not 0 < len(header) <= _LONGEST_RETRY_AFTER:
        return None
    try:
        return retry.parse_retry_after(header)
    except (InvalidHeader, ValueError, OverflowError, OSError):
        return None
