"""`raybox run`: one piece of code in a sandbox of its own."""

from __future__ import annotations

import base64
import binascii
import json
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import click

from raybox_cluster.cli_http import Client
from raybox_cluster.cli_state import UserError

MAX_CODE_BYTES = 16 * 1024 * 1024
LANGUAGES = {
    ".py": "python",
    ".ipy": "python",
    ".js": "javascript",
    ".mjs": "javascript",
    ".ts": "typescript",
    ".r": "r",
    ".sh": "bash",
    ".java": "java",
    ".jsh": "java",
}
#: Representations that become files: key of the result -> ending of the file, and whether it comes in base64.
SAVED = {
    "png": ("png", True),
    "jpeg": ("jpeg", True),
    "svg": ("svg", False),
    "pdf": ("pdf", True),
    "html": ("html", False),
    "latex": ("tex", False),
    "javascript": ("js", False),
    "json": ("json", False),
    "chart": ("chart.json", False),
}


def language_of(file: str) -> str | None:
    """By the file's ending; None lets the pool choose (python)."""
    return LANGUAGES.get(PurePath(file).suffix.lower())


def read_code(file: str) -> str:
    """Text of a file, or of standard input for `-`. Raises UserError."""
    try:
        raw = sys.stdin.buffer.read(MAX_CODE_BYTES + 1) if file == "-" else Path(file).read_bytes()
        if len(raw) > MAX_CODE_BYTES:
            raise UserError(f"{file}: more than {MAX_CODE_BYTES >> 20} MiB of code")
        return raw.decode()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8 text") from None


def run(url: str, api_key: str, code: str, language: str | None, output: Path, timeout_s: int) -> int:
    """Run it, print live, save what is no text; 0, or 1 when the code raised. The sandbox is ended in any case."""
    with Client(url, api_key) as client:
        sandbox = client.create(timeout_s)
        try:
            return _print(client.execute(sandbox, code, language), output)
        finally:
            client.kill(sandbox["sandboxID"])


def _print(events: Iterator[dict[str, Any]], output: Path) -> int:
    failed, ended, saved = False, False, 0
    for event in events:
        match event.get("type"):
            case "stdout":
                click.echo(event["text"], nl=False)
            case "stderr":
                click.echo(event["text"], nl=False, err=True)
            case "result":
                saved = _show(event, output, saved)
            case "error":
                failed = True
                click.echo(event.get("traceback") or f"{event.get('name')}: {event.get('value')}", err=True)
            case "end_of_execution":
                ended = True
    if not ended:
        raise UserError("the sandbox stopped answering before the code ended")
    return 1 if failed else 0


def _show(result: dict[str, Any], output: Path, saved: int) -> int:
    """Print the text, save the rest; returns how many results were saved up to now."""
    files = [(key, *SAVED[key]) for key in SAVED if result.get(key) not in (None, {}, "")]
    if text := result.get("markdown") or result.get("text"):
        click.echo(text)
    if not files:
        return saved
    saved += 1
    try:
        output.mkdir(parents=True, exist_ok=True)
        for key, ending, encoded in files:
            path = output / f"result-{saved}.{ending}"
            path.write_bytes(_bytes_of(result[key], encoded))
            click.echo(f"saved {path}", err=True)
    except OSError as error:
        raise UserError(f"{output}: results cannot be saved: {error.strerror}") from None
    return saved


def _bytes_of(value: Any, encoded: bool) -> bytes:
    if encoded:
        try:
            return base64.b64decode(value)
        except (binascii.Error, ValueError):
            return str(value).encode()
    return value.encode() if isinstance(value, str) else json.dumps(value, indent=1).encode()
