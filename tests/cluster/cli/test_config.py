"""Options of `raybox up`: every name both ways, every value that cannot be meant."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import click
import pytest

from raybox_cluster.cli import up_command
from raybox_cluster.config import OptionError, UpOptions, option_name, read_file, resolve


def test_command_line_and_file_have_the_same_options() -> None:
    on_command_line = {one.name for one in up_command.params if isinstance(one, click.Option)} - {"config", "detach"}
    assert on_command_line == {one.name for one in fields(UpOptions)}
    for option in up_command.params:
        if option.name in on_command_line:
            assert option.opts == [f"--{option_name(str(option.name))}"]


def test_every_option_can_come_from_a_file_under_its_command_line_name(tmp_path: Path) -> None:
    values: dict[str, object] = {
        "name": "two", "host": "0.0.0.0", "port": 9000, "api-key": "k" * 8, "sandboxes": 20, "warm": 3,
        "address": "10.0.0.1:6379", "default-timeout-s": 60, "max-timeout-s": 3600.5, "admission-wait-s": 0,
        "kernel": "ipykernel", "warm-languages": "r,bash",
    }  # fmt: skip
    assert {name.replace("-", "_") for name in values} == {one.name for one in fields(UpOptions)}
    file = tmp_path / "pool.yaml"
    file.write_text("".join(f"{name}: {value}\n" for name, value in values.items()))
    from_file = resolve({}, file, environment={})
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
        ({"warm": 3, "sandboxes": 2}, "warm: 3 sandboxes cannot be kept ready out of 2"),
        ({"address": "somewhere"}, "address: must be"),
        ({"address": "host:port"}, "address: must be"),
        ({"address": "ray://host:10001"}, "address: a Ray client address"),
        ({"default_timeout_s": "nan"}, "default-timeout-s: must be"),
        ({"default_timeout_s": 100, "max_timeout_s": 50}, "default-timeout-s: is longer"),
        ({"admission_wait_s": -1}, "admission-wait-s: must be"),
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
