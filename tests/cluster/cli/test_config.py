"""Options of `raybox up`: every name both ways, every value that cannot be meant."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

import click
import pytest

from raybox_actors.values import Quota
from raybox_cluster.cli import up_command
from raybox_cluster.config import OptionError, UpOptions, option_name, read_file, resolve
from raybox_cluster.config_keys import MAX_KEYS
from raybox_cluster.gateway.auth import ApiKey, hash_key

#: Keys do not belong on a command line, which everybody on the machine can read.
ONLY_IN_FILES = {"api_keys"}


def test_command_line_and_file_have_the_same_options() -> None:
    on_command_line = {one.name for one in up_command.params if isinstance(one, click.Option)} - {"config", "detach"}
    assert on_command_line == {one.name for one in fields(UpOptions)} - ONLY_IN_FILES
    for option in up_command.params:
        if option.name in on_command_line:
            assert option.opts == [f"--{option_name(str(option.name))}"]


def test_every_option_can_come_from_a_file_under_its_command_line_name(tmp_path: Path) -> None:
    values: dict[str, object] = {
        "name": "two", "host": "0.0.0.0", "port": 9000, "api-key": "k" * 8, "sandboxes": 20, "warm": 3,
        "address": "10.0.0.1:6379", "max-timeout-s": 3600.5, "admission-wait-s": 0,
        "max-admission-wait-s": 60, "kernel": "ipykernel", "cpu": 2, "memory-mib": 512, "disk-mib": 256,
        "pids-max": 100,
        "require": "strict", "network": "egress", "network-denied-cidrs": "10.0.0.0/8", "network-dns": "9.9.9.9",
        "warm-languages": "r,bash", "min-sandboxes": 1, "idle-s": 5, "placement": "pack", "cpu-request": 0.5,
        "node-labels": "{pool: sandbox, zone: 'in(a,b)'}", "memory-request-mib": 0, "drain-grace-s": 10,
        "warm-per-node": 1, "gateways": 2, "run-code-access": "open",
    }  # fmt: skip
    assert {name.replace("-", "_") for name in values} == {one.name for one in fields(UpOptions)} - ONLY_IN_FILES
    file = tmp_path / "pool.yaml"
    file.write_text("".join(f"{name}: {value}\n" for name, value in values.items()))
    from_file = resolve({}, file, environment={})
    values["node-labels"] = "pool=sandbox, zone=in(a, b)"
    from_command_line = resolve({name.replace("-", "_"): str(value) for name, value in values.items()}, environment={})
    assert from_file == from_command_line
    assert from_file.max_timeout_s == 3600.5


def test_who_wins(tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    file.write_text("port: 9000\nsandboxes: 20\naddress: file:1\n")
    given = {"sandboxes": "4", "port": None}
    options = resolve(given, file, environment={"RAY_ADDRESS": "environment:1"})
    assert (options.sandboxes, options.port, options.warm, options.address) == (4, 9000, 2, "file:1")
    assert resolve({}, environment={"RAY_ADDRESS": "environment:1"}).address == "environment:1"
    assert resolve({"address": "local"}, environment={"RAY_ADDRESS": "environment:1"}).address is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"port": "eighty"}, "port: must be a whole number from 0 to 65535"),
        ({"port": "65536"}, "port: must be"),
        ({"port": -1}, "port: must be"),
        ({"port": True}, "port: must be"),
        ({"port": 80.0}, "port: must be"),
        ({"host": "no host"}, "host: must be"),
        ({"host": "1.2.3.400"}, "host: must be"),
        ({"name": "Raybox"}, "name: must be"),
        ({"name": "../x"}, "name: must be"),
        ({"name": "x" * 32}, "name: must be"),
        ({"api_key": "short"}, "api-key: must be"),
        ({"api_key": "with a space in it"}, "api-key: must be"),
        ({"sandboxes": 0}, "sandboxes: must be"),
        ({"warm": -1}, "warm: must be"),
        ({"min_sandboxes": 3, "sandboxes": 2}, "min-sandboxes: 3 is more than sandboxes (2)"),
        ({"placement": "tight"}, "placement: must be one of spread, pack"),
        ({"node_labels": "pool"}, "node-labels: must be KEY=VALUE"),
        ({"node_labels": 3}, "node-labels: must be conditions"),
        ({"cpu_request": "much"}, "cpu-request: must be a number from 0"),
        ({"cpu_request": -1}, "cpu-request: must be"),
        ({"cpu_request": 10**400}, "cpu-request: must be a number from 0"),
        ({"warm": 3, "sandboxes": 2}, "warm: 3 sandboxes cannot be kept ready out of 2"),
        ({"address": "somewhere"}, "address: must be"),
        ({"address": "host:port"}, "address: must be"),
        ({"address": "ray://host:10001"}, "address: a Ray client address"),
        ({"gateways": 0}, "gateways: must be"),
        ({"gateways": 2}, "gateways: more than one needs a Ray cluster to join"),
        ({"max_timeout_s": "nan"}, "max-timeout-s: must be"),
        ({"admission_wait_s": -1}, "admission-wait-s: must be"),
        ({"admission_wait_s": 9, "max_admission_wait_s": 8}, "admission-wait-s: is longer"),
    ],
)
def test_values_that_cannot_be_meant(given: dict[str, object], says: str) -> None:
    with pytest.raises(OptionError) as raised:
        resolve(given, environment={})
    assert str(raised.value).startswith(says)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot: 1", "unknown option 'prot'; the options are name, host, port"),
        ("port: eighty", "port must be a whole number"),
        ("api-key: abcdefgh\napi_key: abcdefgh", "api-key is given twice"),
        ("port: [1", "line"),
        ("- port", "must be a mapping"),
        ("\xff", "not valid YAML"),
    ],
)
def test_files_that_cannot_be_meant(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "pool.yaml"
    file.write_bytes(text.encode("latin-1") if text == "\xff" else text.encode())
    with pytest.raises(OptionError) as raised:
        read_file(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert says in str(raised.value) or "not UTF-8" in str(raised.value)


HASH = hash_key("the key of bob")
KEYS = f"""
api-key: key-of-the-admin
api_keys:
  - {{name: alice, key: key-of-alice, sandboxes: 4, cpu: 2.5, memory-mib: 4096, weight: 3}}
  - {{name: bob, sha256: {HASH}, admin: true}}
"""


def test_the_file_in_the_documents_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    (tmp_path / "pool.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    options = resolve({}, tmp_path / "pool.yaml", environment={})
    assert options.require == "strict"
    assert [(one.name, one.admin, one.quota) for one in options.api_keys] == [
        ("alice", False, Quota(sandboxes=4)),
        ("trainer", False, Quota(cpu=32, memory_mib=65_536)),
        ("ops", True, None),
    ]


def test_keys_of_a_file_are_hashed_as_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(KEYS)
    options = resolve({}, tmp_path / "pool.yaml", environment={})
    alice, bob = options.api_keys
    assert alice == ApiKey("alice", hash_key("key-of-alice"), False, Quota(4, 2.5, 4096), weight=3.0)
    assert bob == ApiKey("bob", HASH, True, None)
    assert "key-of-alice" not in json.dumps(asdict(options))
    assert UpOptions(**json.loads(json.dumps(asdict(options)))) == options  # how the detached process gets them
    assert "alice" not in repr(options)
    default, *others = options.keys("key-of-the-admin")
    assert default == ApiKey("default", hash_key("key-of-the-admin"), admin=True)
    assert others == [alice, bob]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("alice", "entry 1 must have name and key or sha256"),
        ({"key": "very-secret"}, "entry 1: name must be"),
        ({"name": "a b", "key": "very-secret"}, "entry 1: name must be"),
        ({"name": "default", "key": "very-secret"}, "the name default is that of --api-key"),
        ({"name": "ray", "key": "very-secret"}, "the name ray is that of callers over Ray"),
        ({"name": "run-code", "key": "very-secret"}, "the name run-code is that of callers of /run_code"),
        ({"name": "a"}, "a: give either key or sha256"),
        ({"name": "a", "key": "very-secret", "sha256": HASH}, "a: give either key or sha256"),
        ({"name": "a", "key": "secret!"}, "a: key must be 8 to 256"),
        ({"name": "a", "key": 1234567890}, "a: key must be 8 to 256"),
        ({"name": "a", "key": "very secret"}, "a: key must be 8 to 256"),
        ({"name": "a", "sha256": "very-secret"}, "a: sha256 must be 64 lower-case hex digits"),
        ({"name": "a", "sha256": HASH.upper()}, "a: sha256 must be 64"),
        ({"name": "a", "key": "very-secret", "admin": "yes"}, "a: admin must be true or false"),
        ({"name": "a", "key": "very-secret", "sandboxs": 1}, "a: unknown field 'sandboxs'; the fields are name"),
        ({"name": "a", "key": "very-secret", "sandboxes": -1}, "a: sandboxes must be a number from 0"),
        ({"name": "a", "key": "very-secret", "sandboxes": True}, "a: sandboxes must be"),
        ({"name": "a", "key": "very-secret", "sandboxes": 1.5}, "a: sandboxes must be"),
        ({"name": "a", "key": "very-secret", "cpu": float("nan")}, "a: cpu must be"),
        ({"name": "a", "key": "very-secret", "memory_mib": "1G"}, "a: memory_mib must be"),
        ({"name": "a", "key": "very-secret", "weight": 0}, "a: weight must be a number from 0.001 to 1000"),
        ({"name": "a", "key": "very-secret", "weight": 1001}, "a: weight must be"),
        ({"name": "a", "key": "very-secret", "weight": True}, "a: weight must be"),
    ],
)
def test_keys_that_cannot_be_meant(entry: object, says: str) -> None:
    with pytest.raises(OptionError) as raised:
        UpOptions(api_keys=[entry])  # type: ignore[arg-type]  # as it comes from a file
    assert str(raised.value).startswith(f"api-keys: {says}")
    assert "secret" not in str(raised.value)


def test_a_name_and_a_key_can_be_given_only_once() -> None:
    one = {"name": "a", "key": "very-secret"}
    for other, says in (
        ({"name": "a", "key": "other-secret"}, "name a"),
        ({"name": "b", "key": "very-secret"}, "of a"),
    ):
        with pytest.raises(OptionError, match=f"{says} is given twice"):
            UpOptions(api_keys=[one, other])  # type: ignore[arg-type]  # as it comes from a file
    with pytest.raises(OptionError, match="one of them is the key of --api-key"):
        UpOptions(api_key="very-secret", api_keys=[one])  # type: ignore[arg-type]  # as it comes from a file
    for many in ("a", {"name": "a"}, [one] * (MAX_KEYS + 1)):
        with pytest.raises(OptionError, match=r"api-keys: (must be a list|has more than)"):
            UpOptions(api_keys=many)  # type: ignore[arg-type]  # as it comes from a file


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text("# nothing\n")
    assert read_file(tmp_path / "pool.yaml") == {}


def test_the_key_is_never_shown() -> None:
    assert "secret-key" not in repr(UpOptions(api_key="secret-key"))
    with pytest.raises(OptionError) as raised:
        UpOptions(api_key="secret key")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "reached_at"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("10.1.2.3", "10.1.2.3"), ("pool.example", "pool.example")],
)
def test_listening_everywhere_is_reached_through_loopback(host: str, reached_at: str) -> None:
    assert UpOptions(host=host).url_host == reached_at


def test_lists_come_with_commas_or_as_lists(tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(
        "network: egress\nnetwork-denied-cidrs: [10.1.2.3/8]\nnetwork-dns: 9.9.9.9, 1.1.1.1\n"
    )
    options = resolve({}, tmp_path / "pool.yaml", {})
    assert (options.network_denied_cidrs, options.network_dns) == (("10.0.0.0/8",), ("9.9.9.9", "1.1.1.1"))
    assert UpOptions(**json.loads(json.dumps(asdict(options)))) == options  # as `up --detach` hands them on
    pool = resolve({"network_denied_cidrs": ""}, tmp_path / "pool.yaml", {}).pool(b"")
    assert (pool.network, pool.network_denied_cidrs, pool.network_dns) == ("egress", (), ("9.9.9.9", "1.1.1.1"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"network": "host"}, "network: must be one of none, egress"),
        ({"network_denied_cidrs": "10.0.0.0/8,example.org"}, "network-denied-cidrs: 'example.org' is not"),
        ({"network_denied_cidrs": [8]}, "network-denied-cidrs: must be a list"),
        ({"network_dns": "::1"}, "network-dns: must be IPv4"),
        ({"network_dns": "1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4"}, "network-dns: must be at most 3"),
    ],
)
def test_a_network_that_cannot_be_meant_is_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError) as raised:
        resolve(given, environment={})
    assert words in str(raised.value)


def test_the_pool_gets_what_was_asked_for() -> None:
    pool = UpOptions(name="two", sandboxes=5, warm=1, max_timeout_s=400).pool(b"secret")
    assert (pool.name, pool.sandboxes, pool.warm, pool.max_timeout_s, pool.secret) == ("two", 5, 1, 400.0, b"secret")


def test_warm_languages() -> None:
    options = resolve({"warm_languages": "r, java r"}, environment={})
    assert options.pool(b"").warm_languages == options.warm_languages == ("r", "java")
    assert resolve({"warm_languages": ""}, environment={}).warm_languages == ()
    for wrong in ("cobol", "python", ["r", 1], 3):
        with pytest.raises(OptionError, match="warm-languages: must be names out of javascript, r, bash, java"):
            resolve({"warm_languages": wrong}, environment={})
