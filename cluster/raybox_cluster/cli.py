"""The command `raybox`. Nothing heavy is imported here: `raybox --help` must not wait for Ray.

Exit codes: 0 done; 1 what was run failed (user code, doctor); 2 it cannot be done, and one line says why.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import click

from raybox_cluster.cli_state import PoolRecord, UserError, find
from raybox_cluster.config import OptionError, UpOptions, default_of, option_name, resolve

Command = TypeVar("Command", bound=Callable[..., Any])


def _up_options(command: Command) -> Command:
    """One option per field of UpOptions; values stay text here, UpOptions checks them."""
    for one in reversed(fields(UpOptions)):
        if not one.metadata["value_name"]:  # too much for a command line, which others can read
            continue
        shown = ",".join(one.default) if isinstance(one.default, tuple) else one.default
        default = "" if shown in (None, "") else f"  [default: {shown:g}]" if isinstance(
            shown, float
        ) else f"  [default: {shown}]"  # fmt: skip
        command = click.option(
            f"--{option_name(one.name)}",
            one.name,
            default=None,
            metavar=one.metadata["value_name"],
            help=one.metadata["help"] + default,
        )(command)
    return command


def _pool_options(command: Command) -> Command:
    """For commands that talk to a running pool."""
    command = click.option("--api-key", metavar="KEY", help="Its API key.  [default: RAYBOX_API_KEY, or as for --url]")(
        command
    )
    command = click.option(
        "--url", metavar="URL", help="The pool's URL.  [default: RAYBOX_URL, or the pool that was started here]"
    )(command)
    return click.option("--name", metavar="NAME", help="A pool that was started here, by its name.")(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="raybox-cluster", prog_name="raybox")
def cli() -> None:
    """A pool of code-interpreter sandboxes inside a Ray cluster, with the E2B protocol in front."""


@cli.command("up")
@_up_options
@click.option(
    "--config", "config", type=click.Path(path_type=Path), metavar="FILE", help="YAML file with these options."
)
@click.option("--detach", is_flag=True, help="Return when the pool answers; it runs on until `raybox down`.")
def up_command(config: Path | None, detach: bool, **given: object) -> None:
    """Start a pool and its gateway.

    On a Ray of its own, or in the cluster that --address or RAY_ADDRESS names. Prints what to export for the official
    E2B SDKs and for raybox's; `eval "$(raybox up --detach)"` does it. In the foreground, Ctrl-C ends it.
    """
    options = resolve(given, config)
    from raybox_cluster.cli_up import up

    up(options, detach)


@cli.command("down")
@click.option("--name", metavar="NAME", help="Which pool; not needed when there is only one.")
@click.option(
    "--address", metavar="ADDRESS", help="Ray cluster (HOST:PORT or auto) of a pool that was not started from here."
)
def down_command(name: str | None, address: str | None) -> None:
    """End a pool and wait until everything is gone. Nothing happens when there is none."""
    if address is not None:
        from raybox_cluster.cli_down import down_in_cluster

        click.echo(down_in_cluster(UpOptions(name=name or str(default_of("name")), address=address)), err=True)
        return
    record = find(name)
    if record is None:
        click.echo(f"no pool{f' called {name}' if name else ''} is up", err=True)
        return
    from raybox_cluster.cli_down import down

    click.echo(down(record), err=True)


@cli.command("status")
@_pool_options
@click.option("--json", "as_json", is_flag=True, help="Print what the pool says, as JSON.")
def status_command(name: str | None, url: str | None, api_key: str | None, as_json: bool) -> None:
    """Nodes, and sandboxes by state."""
    from raybox_cluster.cli_status import status

    url, api_key = _pool(name, url, api_key)
    click.echo(status(url, api_key, as_json))


@cli.command("run")
@_pool_options
@click.argument("file", required=False, metavar="[FILE]")
@click.option("-c", "--code", metavar="CODE", help="Run this instead of a file.")
@click.option(
    "--language", metavar="LANGUAGE", help="python, javascript, r, bash, java ...  [default: by the file's ending]"
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="FOLDER",
    help="Where pictures and other results that are no text are saved.  [default: here]",
)
@click.option("--timeout", type=click.IntRange(1, 86_400), default=300, metavar="SECONDS", help="The sandbox's life.")
def run_command(
    name: str | None,
    url: str | None,
    api_key: str | None,
    file: str | None,
    code: str | None,
    language: str | None,
    output: Path,
    timeout: int,
) -> None:
    """Run FILE (`-`: standard input) or CODE in a sandbox of its own, and end the sandbox.

    What it prints is printed, results that are text follow, others are saved. Exit code 1 when the code raised.
    """
    if (file is None) == (code is None):
        raise UserError("give either a FILE or -c CODE")
    from raybox_cluster.cli_run import language_of, read_code, run

    if file is not None:
        language = language or language_of(file)
        code = read_code(file)
    url, api_key = _pool(name, url, api_key)
    assert code is not None
    sys.exit(run(url, api_key, code, language, output, timeout))


@cli.command("key")
def key_command() -> None:
    """Make an API key. Its hash is what the YAML file of `raybox up` needs; the key itself is shown once, here."""
    from raybox_cluster.gateway.auth import hash_key, new_key

    key = new_key()
    click.echo(f"key     {key}\nsha256  {hash_key(key)}")


@cli.command("doctor")
@click.option(
    "--require",
    type=click.Choice(["standard", "strict"]),
    default="standard",
    help="What the pool would require.  [default: standard]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor_command(require: Literal["standard", "strict"], as_json: bool) -> None:
    """What this machine offers for isolating sandboxes. Exit code 1 when no such pool can start here."""
    from raybox_cluster.cli_doctor import doctor

    report, can_start = doctor(require, as_json)
    click.echo(report)
    sys.exit(0 if can_start else 1)


def _pool(name: str | None, url: str | None, api_key: str | None) -> tuple[str, str]:
    """URL and key: as given, else the named pool's, else the environment's, else the pool that was started here."""
    import os

    environment = os.environ if name is None else {}
    url = url or environment.get("RAYBOX_URL")
    api_key = api_key or environment.get("RAYBOX_API_KEY")
    record: PoolRecord | None = None
    if not (url and api_key):
        record = find(name)
        if record is None and name is not None:
            raise UserError(f"no pool called {name} is up; start one with `raybox up --name {name}`")
        if record is None and not url:
            raise UserError("no pool is up; start one with `raybox up`, or name one with --url and --api-key")
        if record is not None and url in (None, record.url):
            url, api_key = record.url, api_key or record.api_key
    if not url or not api_key:
        raise UserError(f"no API key for {url}: give it with --api-key or RAYBOX_API_KEY")
    if not url.startswith(("http://", "https://")):
        raise UserError(f"url: {url} must begin with http:// or https://")
    return url.rstrip("/"), api_key


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point. Every error that is the user's to put right is one line on stderr and exit code 2."""
    try:
        code = cli.main(args=arguments, prog_name="raybox", standalone_mode=False)
    except (UserError, OptionError) as error:
        _fail(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> NoReturn:
    click.echo(f"raybox: {' '.join(message.split())}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
