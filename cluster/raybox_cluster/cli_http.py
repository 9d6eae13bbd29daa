"""The little of the E2B protocol that the command line needs. Its own few lines: the server does not import an SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

import httpx

from raybox_cluster.cli_state import UserError

INTERPRETER_PORT = "49999"
CREATE_LIMIT_S = 60.0


class Client:
    """One pool over HTTP. Everything that goes wrong is a UserError with one line. Use as a context manager."""

    def __init__(self, url: str, api_key: str) -> None:
        self.url = url
        # trust_env off: a proxy that the environment names is for the outside world, not for the pool.
        self._http = httpx.Client(base_url=url, timeout=httpx.Timeout(30.0), trust_env=False)
        self._headers = {"X-API-KEY": api_key}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def status(self) -> dict[str, Any]:
        """What GET /raybox/status says."""
        return self._control("GET", "/raybox/status")

    def create(self, timeout_s: int) -> dict[str, Any]:
        """A new sandbox, as the control plane describes it."""
        body = {"templateID": "code-interpreter-v1", "timeout": timeout_s, "metadata": {"created-by": "raybox run"}}
        return self._control("POST", "/v2/sandboxes", body)

    def kill(self, sandbox_id: str) -> None:
        """End a sandbox; one that is gone already is fine."""
        answer = self._request("DELETE", f"/sandboxes/{sandbox_id}")
        if answer.status_code not in (200, 204, 404):
            self._refuse(answer)

    def execute(self, sandbox: dict[str, Any], code: str, language: str | None) -> Iterator[dict[str, Any]]:
        """Events of one cell, live. `sandbox` as `create` returned it."""
        headers = {"E2b-Sandbox-Id": str(sandbox["sandboxID"]), "E2b-Sandbox-Port": INTERPRETER_PORT}
        if sandbox.get("envdAccessToken"):
            headers["X-Access-Token"] = str(sandbox["envdAccessToken"])
        if sandbox.get("trafficAccessToken"):
            headers["E2B-Traffic-Access-Token"] = str(sandbox["trafficAccessToken"])
        body = {"code": code, "context_id": None, "language": language, "env_vars": None}
        # Events come at least every few seconds, so silence means that something is wrong.
        limit = httpx.Timeout(30.0, read=60.0)
        ended = False
        try:
            with self._http.stream("POST", "/execute", json=body, headers=headers, timeout=limit) as answer:
                if not answer.is_success:
                    answer.read()
                    self._refuse(answer)
                for line in answer.iter_lines():
                    event = json.loads(line)
                    ended = ended or event.get("type") == "end_of_execution"
                    yield event
        except (httpx.TransportError, ValueError) as error:
            if not ended:
                raise UserError(f"the connection broke while the code ran: {error or type(error).__name__}") from None

    def _control(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self._request(method, path, body)
        if not answer.is_success:
            self._refuse(answer)
        try:
            plain = answer.json()
        except ValueError:
            plain = None
        if not isinstance(plain, dict):
            raise UserError(f"what answers at {self.url} is not raybox")
        return plain

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            return self._http.request(method, path, json=body, headers=self._headers, timeout=CREATE_LIMIT_S)
        except httpx.ConnectError:
            raise UserError(f"nothing answers at {self.url}") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UserError(f"{self.url}: {error or type(error).__name__}") from None

    def _refuse(self, answer: httpx.Response) -> NoReturn:
        if answer.status_code == 401:
            raise UserError(f"the pool at {self.url} does not accept this API key")
        try:
            said = answer.json()["message"]
        except (ValueError, KeyError, TypeError):
            said = answer.text.strip()[:300] or f"status {answer.status_code}"
        raise UserError(str(said))
