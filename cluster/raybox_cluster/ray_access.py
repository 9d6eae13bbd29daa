"""How open a Ray cluster is that others started: who may speak to it, and to its Serve."""

from __future__ import annotations

import ipaddress

from raybox_actors.isolation.capabilities import Finding, TokenFacts
from raybox_actors.isolation.probes import token_of_ray
from raybox_cluster.cli_state import UserError

#: Any call that changes nothing: whether it is answered without a token is all we want to know.
HARMLESS_CALL = "/ray.rpc.NodeInfoGcsService/CheckAlive"
ANSWER_LIMIT_S = 10.0


def gcs_requires_token(address: str) -> bool:
    """Whether the GCS at HOST:PORT refuses callers without a token. Raises UserError when it does not answer."""
    import grpc

    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(HARMLESS_CALL, request_serializer=bytes, response_deserializer=bytes)
        try:
            call(b"", timeout=ANSWER_LIMIT_S)
        except grpc.RpcError as error:
            code = error.code()
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise UserError(f"Ray's GCS at {address} does not answer ({code.name})") from None
            return code is grpc.StatusCode.UNAUTHENTICATED
    return False


def token_facts(address: str) -> TokenFacts:
    """What this process, which joined the Ray at `address`, knows of its token. Raises UserError."""
    return token_of_ray(gcs_requires_token(address))


def serve_host() -> str | None:
    """Where the HTTP proxies of this cluster's Serve listen; None if no Serve runs. Needs a connection to Ray."""
    from raybox_cluster.deploy import serve_details

    details = serve_details()
    return None if details is None else str((details.get("http_options") or {}).get("host") or "0.0.0.0")  # noqa: S104


def judge_serve(host: str | None) -> list[Finding]:
    """The gateway is reached through this Serve, beside everything else that it serves. Pure."""
    if host is None:  # ours to start, where the options say
        return []
    try:
        own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        own = host == "localhost"
    if own:
        return [Finding("Serve", "on", f"listens on {host}", strict=True)]
    detail = f"this cluster's Serve takes HTTP from everywhere ({host}), without TLS"
    remedy = "serve.start(http_options={'host': '127.0.0.1'}), and a TLS proxy before it"
    return [Finding("Serve", "degraded", detail, remedy, strict=True)]
