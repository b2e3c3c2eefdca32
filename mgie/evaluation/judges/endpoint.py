"""An OpenAI-compatible endpoint (`/chat/completions`) as a judge, asked only when named.

The key comes from an environment variable and goes into one header: it is in no file, message or identity,
and what an endpoint echoes of it is blotted out. Redirections are not followed, for they would take it along.
"""

import ipaddress
import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from mgie.errors import ConfigError, DeviceError
from mgie.evaluation.judges.base import Answer, Ask

MOST = 32 << 20
"""Bytes of a response that are read."""
LONGEST_WAIT = 120.0
"""Seconds between two tries, whatever an endpoint asks for."""
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""Statuses after which the same may work later."""
FILTERED = ("content_filter", "content_policy", "moderation")
"""What endpoints call it when a filter of theirs refuses pictures or words."""
BLOT = "(key)"


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirection is a status like any other."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:  # noqa: ARG002
        """None is what leaves the response as it is."""
        return None


class Endpoint:
    """A model behind a URL."""

    steady = False

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_env: str | None = None,
        timeout: float = 180.0,
        tries: int = 6,
        together: int = 4,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """`url` ends before /chat/completions; `key_env` names the environment variable with the key;
        `timeout` is of one try, in seconds. Raises ConfigError."""
        self.url, self.host = _checked_url(url)
        if not model:
            raise ConfigError(f"the endpoint {self.url} needs the name of a model: give --judge_model.")
        self.model, self.timeout, self.tries, self.together = model, timeout, tries, together
        self._key = _key(key_env)
        self._sleep, self._draw = sleep, random.Random()
        if self._key and self.url.startswith("http:") and not _is_here(self.host):
            raise ConfigError(
                f"{self.url} would get the key readable for everybody on the way: use https, or leave "
                "--judge_key_env out."
            )
        local = [urllib.request.ProxyHandler({})] if _is_here(self.host) else []
        self._opener = urllib.request.build_opener(_Stay, *local)
        self.label = f"{model} at {self.host}"

    @property
    def identity(self) -> Mapping[str, Any]:
        """Where, and which model."""
        return {"kind": "endpoint", "url": self.url, "model": self.model}

    def answer(self, ask: Ask, key: str) -> Answer:  # noqa: ARG002
        """What the model says. A status that may pass is waited for and tried again. Raises DeviceError where
        the endpoint cannot be reached, refuses the key, or goes on failing."""
        body = json.dumps(_request(self.model, ask)).encode()
        told, wait = "", 0.0
        for attempt in range(self.tries):
            if attempt:
                self._sleep(wait)
            wait = min(LONGEST_WAIT, 2.0**attempt) * (1 + self._draw.random())
            try:
                status, headers, data = self._post(body)
            except (OSError, HTTPException, ValueError) as error:
                told = self._hidden(_reason(error))
                continue
            if status == 200:
                answer = _understood(data)
                if answer is not None:
                    said = {name: self._hidden(getattr(answer, name)) for name in ("text", "model", "finish")}
                    return replace(answer, **said)
                told = "its answer is no JSON of that interface"
                continue
            told = f"status {status}: {self._hidden(_message(data))}"
            if status not in AGAIN:
                return self._final(status, told, data)
            wait = max(wait, _asked_for(headers))
        raise DeviceError(
            f"the endpoint at {self.host} failed {self.tries} times ({told}): the answers that came are "
            "kept, and the same command goes on from them when it works again."
        )

    def _final(self, status: int, told: str, data: bytes) -> Answer:
        """What a status means that will not pass. Raises DeviceError where it concerns every question."""
        if status in (401, 403):
            raise DeviceError(
                f"the endpoint at {self.host} refused the key (status {status}): put a valid one into the "
                "environment variable that --judge_key_env names."
            )
        if status == 404 or 300 <= status < 400:
            raise DeviceError(
                f"the endpoint at {self.host} has no {self.url}/chat/completions or no model {self.model} "
                f"({told}): check the URL and --judge_model."
            )
        if any(word in data.decode(errors="replace").lower() for word in FILTERED):
            return Answer(text=told, status="refused", finish="content_filter")
        return Answer(text=told, status="error")

    def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of one try."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(f"{self.url}/chat/completions", data=body, headers=headers)
        deadline = time.monotonic() + self.timeout
        try:
            response = self._opener.open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            return int(response.status or 0), dict(response.headers), _read(response, deadline)

    def _hidden(self, text: str) -> str:
        """A text of the endpoint's, without the key."""
        return text.replace(self._key, BLOT) if self._key else text


def _request(model: str, ask: Ask) -> dict[str, Any]:
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {
            "type": "image_url",
            "image_url": {"url": part.url} | ({"detail": part.detail} if part.detail else {}),
        }
        for part in ask.parts
    ]  # fmt: skip
    told = [{"role": "system", "content": ask.system}] if ask.system else []
    return {"model": model, "messages": [*told, {"role": "user", "content": content}], **ask.settings}


def _understood(data: bytes) -> Answer | None:
    """The answer in a response. None: it is none."""
    try:
        whole = json.loads(data)
        choice = whole["choices"][0]
        message, finish = choice["message"], str(choice.get("finish_reason") or "")
        refusal, text = message.get("refusal"), message.get("content")
        usage = whole.get("usage") or {}
        tokens = {str(name): n for name, n in usage.items() if isinstance(n, int) and not isinstance(n, bool)}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    refused = bool(refusal) or finish == "content_filter"
    said = refusal if refused and isinstance(refusal, str) else text
    if not isinstance(said, str) and not refused:
        return None
    status = "refused" if refused else "ok"
    return Answer(
        text=said or "", status=status, model=str(whole.get("model") or ""), finish=finish, usage=tokens
    )


def _read(response: Any, deadline: float) -> bytes:
    """A response's body. Raises OSError where it takes too long or has no end."""
    parts, size = [], 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise TimeoutError("it goes on for too long")
        if size > MOST:
            raise OSError(f"its answer is longer than {MOST} bytes")
    return b"".join(parts)


def _message(data: bytes) -> str:
    """What an endpoint says of an error, on one line."""
    text = data.decode(errors="replace")
    try:
        said = json.loads(text)["error"]
        text = str(said["message"] if isinstance(said, Mapping) else said)
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    text = " ".join(text.split())
    return "".join(letter for letter in text if letter.isprintable())[:200] or "no reason given"


def _asked_for(headers: Mapping[str, str]) -> float:
    """Seconds that an endpoint wants to be left alone."""
    said = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    try:
        return min(LONGEST_WAIT, max(0.0, float(said)))
    except ValueError:
        return 0.0


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return " ".join(str(text).split())[:160]


def _checked_url(url: str) -> tuple[str, str]:
    """The URL without its end, and its host. Raises ConfigError for one that holds secrets or is none."""
    expected = "expected one such as https://HOST/v1"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"the judge's URL cannot be read ({error}): {expected}.") from error
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"the judge's URL holds a user, a password or parameters: {expected}, and the key in an "
            "environment variable that --judge_key_env names."
        )
    if parts.scheme not in ("http", "https") or not host or any(each.isspace() for each in url):
        raise ConfigError(f"{url!r} is no URL of a judge: {expected}.")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path}", f"{host}:{port}" if port else host


def _is_here(host: str) -> bool:
    """Whether a host is this machine."""
    name = host.rsplit(":", 1)[0] if host.count(":") == 1 else host
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _key(variable: str | None) -> str:
    """The key in an environment variable; empty where none is wanted. Raises ConfigError, never with it."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        # Its name is not told: somebody may have given the key itself.
        raise ConfigError(
            "the environment variable that --judge_key_env names is empty: expected its name there, and the "
            "endpoint's key in the variable."
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(
            "what is in the environment variable that --judge_key_env names is no key: expected one word."
        )
    return key
