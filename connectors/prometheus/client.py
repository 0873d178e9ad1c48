"""
The HTTP side: one session of ``prometheus-api-client``, bounded waiting, errors a person can act on.

``PrometheusConnect`` gives the session, the discovery of names and the metadata. Range queries go over the same session
without its query helpers, which drop warnings, put long queries into the URL and know no timeout by themselves.
Credentials go to the configured host and nowhere else: redirects are followed on that host only.

Source: https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

import re
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import IncompleteRead, RemoteDisconnected
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from pydantic import SecretStr
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util.retry import Retry

from connectors.prometheus.matrix import MalformedError, Matrix, RefusedError, TooManyError, parse, parse_document
from harvester.errors import ConnectorError

ATTEMPTS = 4
LONGEST_WAIT_SECONDS = 30.0
"""A server that wants us to wait longer is obeyed by giving up for now, not by sitting still."""

_BUSY = frozenset({408, 429, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK = 256 * 1024
_ERROR_BYTES = 64 * 1024
_LONGEST_TEXT = 400
_TOO_MUCH = re.compile(
    r"exceeded maximum resolution|too many samples|total query time range exceeds|err-mimir-max|too many points"
    r"|exceeds the limit|query timed out|timeout: ",
    re.IGNORECASE,
)


_UNTOLD = (
    requests.RequestException, PrometheusApiClientException, AttributeError, LookupError, TypeError, ValueError,
)
"""What discovery raises where a server does not tell; nothing depends on it but the wording of a note."""


class QueryError(ConnectorError):
    """The server refuses this one query; others may well work."""


class TooMuchError(QueryError):
    """The query asks for more than the server gives at once; a shorter range may work."""


class BusyError(ConnectorError):
    """
    The server asks to be left alone for longer than a collection waits.

    Attributes:
        wait_seconds: For how long.
    """

    wait_seconds: float = 0.0


class _TransientError(Exception):
    """Worth another try after a pause; carries the error to raise when tries run out."""

    def __init__(self, error: ConnectorError, wait_seconds: float | None = None) -> None:
        super().__init__()
        self.error = error
        self.wait_seconds = wait_seconds


class _Bearer(AuthBase):
    """Sets the header itself, so that a ``.netrc`` entry cannot replace it."""

    def __init__(self, token: SecretStr) -> None:
        self.token = token

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        r.headers["Authorization"] = f"Bearer {self.token.get_secret_value()}"
        return r


class _Session(requests.Session):
    """A session whose redirects never leave the host that was configured."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        return target if target and _same_host(self.base, urljoin(resp.url, target)) else None


class _Adapter(HTTPAdapter):
    """Trusts a further certificate authority besides the system's, and never repeats a request by itself."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.context = context
        super().__init__(max_retries=Retry(0, read=False), pool_maxsize=16)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        if self.context is not None:
            options["ssl_context"] = self.context
        super().init_poolmanager(*args, **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        if self.context is not None:
            options["ssl_context"] = self.context
        return super().proxy_manager_for(proxy, **options)


def _context(ca_file: Path | None, certificate: tuple[Path, Path] | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as e:
            cause = "it holds no certificate" if isinstance(e, ssl.SSLError) else str(e.strerror)
            raise ConnectorError("read", str(ca_file), cause, hint="is ca_file right?") from e
    if certificate is not None:
        try:
            context.load_cert_chain(*certificate, password=lambda: "")  # an encrypted key fails instead of asking
        except OSError as e:
            cause = "no certificate with its unencrypted key" if isinstance(e, ssl.SSLError) else str(e.strerror)
            target = f"{certificate[0]} and {certificate[1]}"
            raise ConnectorError("read", target, cause, hint="are certificate_file and key_file right?") from e
    return context


def _same_host(base: str, target: str) -> bool:
    """Tell whether credentials for ``base`` may go to ``target``: same host and port, or its TLS form."""
    ours, theirs = urlsplit(base), urlsplit(target)
    if ours.hostname != theirs.hostname or theirs.scheme not in ("http", "https"):
        return False
    if ours.scheme == theirs.scheme:
        return _port(ours) == _port(theirs)
    return ours.scheme == "http" and (_port(ours), _port(theirs)) == (80, 443)


def _port(url: Any) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def host_of(url: str) -> str:
    """Return ``host:port`` of an address."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{_port(parts)}"


class Client:
    """One server, one session; a context manager."""

    def __init__(
        self,
        source: str,
        url: str,
        *,
        timeout_seconds: float,
        headers: Mapping[str, str] | None = None,
        token: SecretStr | None = None,
        basic: tuple[str, SecretStr] | None = None,
        ca_file: Path | None = None,
        certificate: tuple[Path, Path] | None = None,
        proxy: str | None = None,
        params: Mapping[str, str] | None = None,
        compression: bool = False,
        most_series: int = 5_000,
    ) -> None:
        self.source = source
        self.url = url.rstrip("/")
        self.params = dict(params or {})
        self.timeout = (min(10.0, timeout_seconds), timeout_seconds)
        self.most_series = most_series
        self.credentials = bool(token or basic)
        secrets = [one.get_secret_value() for one in (token, basic[1] if basic else None) if one is not None]
        if basic is not None:
            secrets.append(b64encode(f"{basic[0]}:{basic[1].get_secret_value()}".encode()).decode())
        self._secrets = tuple(secret for secret in secrets if secret)
        session = _Session(self.url)
        session.headers.update(headers or {})
        session.headers["User-Agent"] = "harvester"
        session.headers["Accept-Encoding"] = "gzip" if compression else "identity"
        if token is not None:
            secret = token.get_secret_value()
            if not secret or not secret.isascii() or not secret.isprintable():
                raise ConnectorError(
                    "read token of", source, "the token is empty or holds a character no header may hold",
                    hint="does the file or command hold more than the token?",
                )
            session.auth = _Bearer(token)
        elif basic is not None:
            session.auth = HTTPBasicAuth(basic[0].encode(), basic[1].get_secret_value().encode())
        context = _context(ca_file, certificate) if ca_file or certificate else None
        # Its constructor mounts a retrying adapter over whatever was mounted before, so ours comes after.
        self.api = PrometheusConnect(
            self.url, retry=Retry(0), session=session, timeout=self.timeout,
            proxy={"http": proxy, "https": proxy} if proxy else None,
        )
        session.mount(self.url, _Adapter(context))
        self.session = session

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.api.close()

    # -- questions ----------------------------------------------------------------------------------------------------

    def query_range(self, query: str, start: int, end: int, step_seconds: int, target: str = "") -> Matrix:
        """
        Ask a range query, both ends (milliseconds UTC) included, and read its whole answer.

        Raises:
            TooMuchError: if a shorter range may work.
            QueryError: if the server refuses the query itself.
            ConnectorError: if it cannot be asked or does not answer whole.
        """
        fields = {
            **self.params,
            "query": query,
            "start": _seconds(start),
            "end": _seconds(end),
            "step": str(step_seconds),
            # So that the server gives up before we do, and stops working for nobody.
            "timeout": f"{max(1, int(self.timeout[1] * 0.9))}s",
        }

        def read(response: requests.Response) -> Matrix:
            found = parse(self._chunks(response), self.most_series)
            warnings, infos = (tuple(map(self._told, said)) for said in (found.warnings, found.infos))
            return replace(found, warnings=warnings, infos=infos)

        answer: Matrix = self._ask("POST", "/api/v1/query_range", fields, target or self.source, read)
        return answer

    def query(self, query: str, at: int | None = None, target: str = "") -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """
        Ask an instant query; return ``data``, with ``resultType`` and ``result``, and the warnings.

        Raises:
            QueryError: if the server refuses the query itself.
            ConnectorError: if it cannot be asked or its answer is none.
        """
        fields = {**self.params, "query": query} | ({} if at is None else {"time": _seconds(at)})

        def read(response: requests.Response) -> dict[str, Any]:
            document = self._document(response)
            if not isinstance(document["data"], dict) or not {"resultType", "result"} <= document["data"].keys():
                raise MalformedError("it is JSON, but not the answer of a query")
            return document

        answer = self._ask("POST", "/api/v1/query", fields, target or self.source, read)
        return answer["data"], tuple(map(self._told, answer["warnings"]))

    def get(self, path: str) -> Any:
        """Return ``data`` of a status page as JSON."""
        return self._ask("GET", path, {}, self.source, self._document)["data"]

    def metric_names(self) -> list[str]:
        """Return the names of all metrics, or an empty list where the server does not tell."""
        try:
            return [str(name) for name in self.api.all_metrics()]
        except _UNTOLD:
            return []

    def metric_type(self, name: str) -> str:
        """Return what the metadata calls a metric (``counter``, ``gauge`` ...), or ``""`` where it does not say."""
        try:
            found = self.api.get_metric_metadata(name)
            return next((str(one["type"]) for one in found if one["metric_name"] == name), "")
        except _UNTOLD:
            return ""

    # -- transport ----------------------------------------------------------------------------------------------------

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        deadline = time.monotonic() + 10 * self.timeout[1]
        while chunk := response.raw.read(_CHUNK, decode_content=True):
            if time.monotonic() > deadline:
                raise ConnectorError(
                    "read answer of", self.source, f"it still trickles after {10 * self.timeout[1]:g} s",
                    hint="raise timeout, or lower max_points", retry=True,
                )
            yield chunk

    def _document(self, response: requests.Response) -> dict[str, Any]:
        return parse_document(b"".join(self._chunks(response)))

    def _ask(self, method: str, path: str, fields: Mapping[str, str], target: str, read: Any) -> Any:
        """Send, read and retry: at most ``ATTEMPTS`` times, as long apart as the server asks."""
        for attempt in range(ATTEMPTS):
            try:
                with self._translated(target), self._sent(method, path, fields, target) as response:
                    if response.status_code != 200:
                        raise self._refusal(response, path, target)
                    return read(response)
            except _TransientError as e:
                wait = 2.0**attempt / 2 if e.wait_seconds is None else e.wait_seconds
                if wait > LONGEST_WAIT_SECONDS:
                    busy = BusyError(
                        "query", target, f"the server asks to wait {wait:.0f} s", hint="it is asked again after that",
                        retry=True,
                    )
                    busy.wait_seconds = wait
                    raise busy from None
                if attempt == ATTEMPTS - 1:
                    raise e.error from None
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def _sent(
        self, method: str, path: str, fields: Mapping[str, str], target: str
    ) -> Iterator[requests.Response]:
        url = self.url + path
        for _ in range(4):
            body = fields if method == "POST" else None
            response = self.session.request(
                method, url, data=body, stream=True, timeout=self.timeout, allow_redirects=False,
                verify=self.session.verify,
            )
            if response.status_code not in _REDIRECTS:
                try:
                    yield response
                finally:
                    response.close()
                return
            location = urljoin(url, response.headers.get("Location", ""))
            response.close()
            if not _same_host(self.url, location):
                raise ConnectorError(
                    "query", target, f"{host_of(self.url)} redirects to {urlsplit(location).netloc.rpartition('@')[2]}",
                    hint="credentials are not sent to another host: if that is the server (or its login page), "
                    "set url or the credentials",
                )
            url = location
        raise ConnectorError("query", target, "it redirects in a circle", hint="is url right?")

    @contextmanager
    def _translated(self, target: str) -> Iterator[None]:
        """Turn what the network and the body do wrong into errors a person can act on."""
        where = host_of(self.url)
        try:
            yield
        except RefusedError as e:
            raise self._refused(target, str(e)) from None
        except TooManyError as e:
            raise QueryError(
                "query", target, str(e), hint="aggregate, or raise max_series if so many are wanted"
            ) from None
        except MalformedError as e:
            text = str(e)
            if "breaks off" in text:
                raise _TransientError(
                    ConnectorError("read answer of", target, text, hint="is a proxy cutting it short?", retry=True)
                ) from e
            raise ConnectorError(
                "query", target, f"{where} is no Prometheus API: {text}",
                hint="is url the base address, with its prefix if it has one? A login page or a proxy may answer",
            ) from e
        except (requests.ReadTimeout, ReadTimeoutError) as e:
            raise ConnectorError(
                "query", target, f"no answer from {where} within {self.timeout[1]:g} s",
                hint="raise timeout, or lower max_points", retry=True,
            ) from e
        except requests.ConnectTimeout as e:
            raise ConnectorError(
                "connect to", target, f"{where} did not answer within {self.timeout[0]:g} s",
                hint="is the host right, and reachable from here?", retry=True,
            ) from e
        except requests.exceptions.SSLError as e:
            raise ConnectorError(
                "connect to", target, f"{where}: {_root(e)}", hint="a private authority is trusted by ca_file",
            ) from e
        except requests.exceptions.ProxyError:
            # The proxy's address may hold a password: neither it nor the chain is shown.
            raise ConnectorError(
                "connect to", target, f"the proxy does not let us through to {where}",
                hint="is proxy right?", retry=True,
            ) from None
        except requests.ConnectionError as e:
            root = _root(e)
            error = ConnectorError(
                "connect to", target, f"{where}: {root}", hint="is the server running, and is url right?", retry=True
            )
            if "refused" in root or "not known" in root or "resolve" in root:
                raise error from e
            raise _TransientError(error) from e
        except HTTPError as e:
            raise _TransientError(
                ConnectorError(
                    "read answer of", target, f"{where} broke it off ({_root(e)})",
                    hint="is a proxy cutting it short?", retry=True,
                )
            ) from e
        except requests.RequestException as e:
            # The text of an invalid header holds the header.
            raise ConnectorError("query", target, f"the request cannot be made ({type(e).__name__})", hint="") from None

    def _refusal(self, response: requests.Response, path: str, target: str) -> Exception:
        """Return the error that a status other than 200 means."""
        status, where = response.status_code, host_of(self.url)
        body = response.raw.read(_ERROR_BYTES, decode_content=True) or b""
        said = ""
        try:
            parse_document(body)
        except RefusedError as e:
            said = self._told(str(e))
        except MalformedError:
            pass
        name = self._told(f"{status} {response.reason}")
        if status in (401, 403):
            hint = (
                "is the token or password right, and may it read this server?" if self.credentials
                else "this server wants credentials: set token_env, or username and password_env"
            )
            return ConnectorError("query", target, f"{where} answers {name}", hint=hint)
        if said and (status in (400, 422) or (status == 503 and _TOO_MUCH.search(said))):
            return self._refused(target, said)
        if status in _BUSY:
            error = ConnectorError(
                "query", target, f"{where} answers {said or name}", hint="it is overloaded or restarting", retry=True
            )
            return _TransientError(error, _retry_after(response.headers.get("Retry-After")))
        if status == 404:
            return ConnectorError(
                "query", target, f"404: there is no {path} at {self.url}",
                hint="is url the base address, with its prefix if it has one (/prometheus, /select/0/prometheus)?",
            )
        return ConnectorError(
            "query", target, f"{where} answers {said or name}",
            hint="is url right?" if status < 500 else "its own log may say why", retry=status >= 500,
        )

    def _refused(self, target: str, said: str) -> QueryError:
        kind = TooMuchError if _TOO_MUCH.search(said) else QueryError
        hint = "lower max_points, or ask for less" if kind is TooMuchError else "mend the query in the settings"
        return kind("query", target, self._told(said), hint=hint)

    def _told(self, text: str) -> str:
        """Return a server's words fit to be shown: on one line, of bearable length, without what we sent in secret."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = " ".join(text.split())
        return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " ..."


def _seconds(milliseconds: int) -> str:
    whole, rest = divmod(milliseconds, 1000)
    return f"{whole}.{rest:03d}" if rest else str(whole)


def _retry_after(value: str | None) -> float | None:
    """Return the seconds a Retry-After header asks for: a number, or a date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (at - datetime.now(UTC)).total_seconds()) if at.tzinfo else None


def _root(error: BaseException) -> str:
    """Return the innermost reason in a chain of wrapped network errors, in a few words."""
    seen: list[BaseException] = []
    at: Any = error
    while isinstance(at, BaseException) and at not in seen:
        seen.append(at)
        inner = getattr(at, "reason", None)
        nested = [one for one in at.args if isinstance(one, BaseException)]
        at = inner if isinstance(inner, BaseException) else nested[0] if nested else at.__cause__ or at.__context__
    for one in reversed(seen):
        if isinstance(one, ssl.SSLError):
            return f"its certificate is not trusted ({getattr(one, 'verify_message', '') or one.reason})"
        if isinstance(one, RemoteDisconnected):
            return "it closed the connection without an answer"
        if isinstance(one, IncompleteRead):
            return "the answer ended early"
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
    return type(seen[-1]).__name__
