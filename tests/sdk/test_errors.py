"""The error tree: kinds, pickling, the E2B SDK's names, and the mapping of whatever a server may answer."""

from __future__ import annotations

import builtins
import json
import pickle
from typing import Any

import e2b
import pytest
from hypothesis import given
from hypothesis import strategies as st

import raybox
from raybox import _requests, _responses
from raybox._config import ConnectionConfig
from raybox._errors import KINDS, RayboxError
from raybox._responses import CLASS_OF_KIND, Reply, TransportFailure, error_of, error_of_cut_answer, error_of_failure

TREE: list[type[RayboxError]] = [RayboxError]
for _error in TREE:
    TREE += [error for error in _error.__subclasses__() if error not in TREE]

CONFIG = ConnectionConfig(api_key="k")
TO = _requests.address(CONFIG, "i1", None, None, None)
CONTROL = _requests.info(CONFIG, "i1")
CREATE = _requests.create(
    CONFIG,
    "t",
    timeout=None,
    metadata=None,
    envs=None,
    allow_internet_access=None,
    mcp=None,
    network=None,
    iam=None,
    lifecycle=None,
    volume_mounts=None,
    idempotency_key=None,
)
EXECUTE = _requests.execute(CONFIG, TO, "1", None, None, None, 5, 7)
HEALTH = _requests.health(CONFIG, TO, 5)
REQUESTS = [CONTROL, CREATE, EXECUTE, HEALTH, _requests.list_contexts(CONFIG, TO)]


@pytest.mark.parametrize("error_class", [one for one in TREE if one is not raybox.CommandExitException])
@pytest.mark.parametrize("arguments", [("m",), ("m", 502, "sandbox_lost", True, False, "i1", "oom", 1.5)])
def test_error_survives_pickling(error_class: type[RayboxError], arguments: tuple[Any, ...]) -> None:
    error = error_class(*arguments)
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), repr(back), back.args, vars(back)) == (
        error_class,
        "m",
        repr(error),
        error.args,
        vars(error),
    )


def test_exit_of_a_command_survives_pickling_and_can_be_in_a_set() -> None:
    error = raybox.CommandExitException("oops", None, 3, "exit status 3")
    back = pickle.loads(pickle.dumps(error))
    assert vars(back) == vars(error)
    assert str(back) == "the command exited with code 3:\noops"
    assert (back.kind, back.retryable, back.should_mask_sample) == ("user_code", False, False)
    assert len({error, back}) == 2
    assert str(raybox.CommandExitException(None, None, 1, None)) == "the command exited with code 1"


@pytest.mark.parametrize("error_class", TREE)
def test_tree_is_drawn_in_the_docstring(error_class: type[RayboxError]) -> None:
    from raybox import _errors

    assert _errors.__doc__ is not None
    lines = [line for line in _errors.__doc__.splitlines() if error_class.__name__ in line.split("+--")[-1].split()[:1]]
    assert len(lines) == 1
    if error_class is not RayboxError:
        assert error_class.kind in lines[0].split()


@pytest.mark.parametrize("error_class", [error for error in TREE if hasattr(e2b, error.__name__)])
def test_subclass_relations_are_those_of_the_e2b_sdk(error_class: type[RayboxError]) -> None:
    theirs = {base.__name__ for base in getattr(e2b, error_class.__name__).__mro__} - {
        "Exception",
        "BaseException",
        "Generic",
    }
    ours = {base.__name__ for base in error_class.__mro__}
    assert theirs - {"object"} <= ours
    assert {name for name in ours if hasattr(e2b, name)} == theirs - {"object"}


def test_timeouts_are_builtin_timeouts() -> None:
    assert issubclass(raybox.TimeoutException, builtins.TimeoutError)


def test_every_kind_has_a_class() -> None:
    assert set(CLASS_OF_KIND) == KINDS


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.operation)
@pytest.mark.parametrize("status", [400, 404, 429, 500, 502, 507])
def test_a_named_kind_is_kept(kind: str, request_: _requests.Request, status: int) -> None:
    body = {"code": status, "message": "m", "kind": kind}
    error = error_of(request_, Reply(status, {}, json.dumps(body).encode()))
    assert error.kind == kind
    assert error.message.endswith("m")


def test_what_the_server_says_wins_over_the_class() -> None:
    body = {
        "code": 503,
        "message": "m",
        "kind": "capacity",
        "retryable": False,
        "should_mask_sample": False,
        "cause": "oom",
        "retry_after_s": 2.5,
        "sandboxId": "i2",
    }
    error = error_of(EXECUTE, Reply(503, {"retry-after": "9"}, json.dumps(body).encode()))
    assert type(error) is raybox.ServiceBusyException
    assert (error.retryable, error.should_mask_sample, error.cause) == (False, False, "oom")
    assert (error.retry_after_s, error.sandbox_id, error.status_code) == (2.5, "i2", 503)


NOT_FOUND = b'{"sandboxId": "i1", "message": "The sandbox was not found", "code": 502}'
CLOSED = b'{"sandboxId": "i1", "message": "The sandbox is running but port is not open", "port": 49999, "code": 502}'


@pytest.mark.parametrize(
    ("request_", "status", "body", "expected", "kind", "retryable"),
    [
        (CONTROL, 400, b"", raybox.InvalidArgumentException, "bad_request", False),
        (CONTROL, 401, b"", raybox.AuthenticationException, "auth", False),
        (CONTROL, 403, b"", raybox.SandboxException, "auth", False),
        (CONTROL, 404, b"", raybox.SandboxNotFoundException, "not_found", False),
        (CREATE, 404, b"", raybox.NotFoundException, "not_found", False),
        (CONTROL, 409, b"", raybox.SandboxException, "bad_request", False),
        (CONTROL, 429, b"", raybox.RateLimitException, "capacity", True),
        (CONTROL, 500, b"", raybox.SandboxException, "internal", True),
        (CONTROL, 502, b"", raybox.SandboxException, "internal", True),
        (CONTROL, 503, b"", raybox.ServiceBusyException, "capacity", True),
        (EXECUTE, 400, b"", raybox.InvalidArgumentException, "bad_request", False),
        (EXECUTE, 404, b"Context c not found", raybox.NotFoundException, "not_found", False),
        (EXECUTE, 409, b"", raybox.SandboxException, "bad_request", True),
        (EXECUTE, 422, b"", raybox.InvalidArgumentException, "bad_request", False),
        (EXECUTE, 418, b"", raybox.InvalidArgumentException, "bad_request", False),
        (EXECUTE, 500, b"no such language", raybox.SandboxException, "internal", True),
        (EXECUTE, 502, NOT_FOUND, raybox.SandboxNotRunningException, "sandbox_lost", False),
        (EXECUTE, 502, CLOSED, raybox.SandboxUnreachableException, "internal", True),
        (EXECUTE, 502, b"Bad Gateway", raybox.SandboxUnreachableException, "internal", True),
        (EXECUTE, 302, b"", raybox.SandboxException, "internal", False),
        (EXECUTE, 507, b"", raybox.NotEnoughSpaceException, "limit", False),
    ],
)
def test_status_without_a_kind(
    request_: _requests.Request, status: int, body: bytes, expected: type, kind: str, retryable: bool
) -> None:
    error = error_of(request_, Reply(status, {}, body))
    assert (type(error), error.kind, error.retryable, error.status_code) == (expected, kind, retryable, status)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from(sorted(KINDS)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["message", "kind", "cause", "retryable", "should_mask_sample", "retry_after_s", "sandboxId", "code"]
            ),
            inner,
        )
    ),
)


@given(
    request_=st.sampled_from(REQUESTS),
    status=st.integers(100, 999),
    headers=st.dictionaries(st.sampled_from(["retry-after", "should-retry"]), st.text()),
    body=st.binary() | ANY_JSON.map(lambda value: json.dumps(value).encode()),
)
def test_mapping_is_total(request_: _requests.Request, status: int, headers: dict[str, str], body: bytes) -> None:
    reply = Reply(status, headers, body)
    for error in (error_of(request_, reply), error_of_cut_answer(request_, reply, "cut")):
        assert error.kind in KINDS
        assert isinstance(error.retryable, bool)
        assert isinstance(error.should_mask_sample, bool)
        assert error.retry_after_s is None or error.retry_after_s >= 0
        assert isinstance(str(error), str)
        pickle.loads(pickle.dumps(error))
    delay_s = _responses.retry_delay_s(request_, reply, 0, lambda: 0.5)
    assert delay_s is None or delay_s >= 0


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.operation)
@pytest.mark.parametrize("stage", ["connect", "connect_timeout", "head_timeout", "timeout", "broken"])
def test_every_failure_is_an_error(request_: _requests.Request, stage: Any) -> None:
    error = error_of_failure(request_, TransportFailure(stage, "why"))
    assert error.kind == ("timeout" if "timeout" in stage else "internal")
    assert isinstance(error, TimeoutError) == (error.kind == "timeout" or request_ in (EXECUTE, HEALTH, REQUESTS[-1]))
    # Nothing that may have taken effect is called safe to repeat.
    if stage in ("head_timeout", "timeout", "broken") and request_.method != "GET":
        assert error.retryable is False


@pytest.mark.parametrize(
    ("request_", "status", "headers", "attempt", "expected"),
    [
        (CONTROL, 503, {}, 0, 0.1),
        (CONTROL, 503, {}, 2, 0.4),
        (CONTROL, 503, {}, 3, None),
        (CONTROL, 503, {"should-retry": "false"}, 0, None),
        (CONTROL, 400, {"should-retry": "true"}, 0, 0.1),
        (CONTROL, 429, {"retry-after": "12"}, 0, 12.0),
        (CONTROL, 502, {}, 0, 0.1),
        (CONTROL, 500, {}, 0, None),
        (CREATE, 429, {}, 0, 0.1),
        (CREATE, 502, {}, 0, None),  # it may have made one
        (CREATE._replace(headers=(("Idempotency-Key", "k"),)), 502, {}, 0, 0.1),
        (EXECUTE, 503, {}, 0, None),
    ],
)
def test_what_is_repeated(
    request_: _requests.Request, status: int, headers: dict[str, str], attempt: int, expected: float | None
) -> None:
    assert _responses.retry_delay_s(request_, Reply(status, headers, b""), attempt, lambda: 1.0) == expected
