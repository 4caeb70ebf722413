"""The `dsctl` command: its verbs, its exit codes, and the one place where errors are caught."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import NoReturn

import typer

from dsctl import __version__
from dsctl.base import exits
from dsctl.base.errors import DsctlError, StoppedError
from dsctl.base.exits import Exit
from dsctl.cli import show
from dsctl.cli.commands import (
    bench,
    canary,
    chat,
    config,
    cordon,
    deploy,
    diff,
    doctor,
    down,
    gateway,
    hosts,
    init,
    keys,
    lock,
    logs,
    plan,
    provision,
    quantize,
    releases,
    render,
    scale,
    serve,
    status,
    weights,
)

VERBS: tuple[Callable[..., None], ...] = (
    init.init, deploy.deploy, scale.scale, status.status, down.down, logs.logs, plan.plan, diff.diff,
    releases.releases, releases.rollback, cordon.drain, cordon.cordon, cordon.uncordon, cordon.prune,
    serve.serve, chat.chat, gateway.gateway, quantize.quantize, provision.provision,
)  # fmt: skip
GROUPS: tuple[typer.Typer, ...] = (
    doctor.group, canary.group, bench.group, render.group, keys.group, hosts.group, lock.group, config.group,
    weights.group,
)  # fmt: skip
PASSING = {"allow_extra_args": True, "ignore_unknown_options": True}  # what serve does not know is the engine's

EPILOG = "\b\nExit codes:\n" + exits.table()


def _version(wanted: bool) -> None:
    if wanted:
        show.result(f"dsctl {__version__}")
        raise typer.Exit(0)


ONLY_PRINT = ("logs", "config", "render")  # a reader who has seen enough (`| head`) is no failure of these


def build() -> typer.Typer:
    """The Typer application with every verb."""
    app = typer.Typer(
        name="dsctl", rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False, epilog=EPILOG,
        no_args_is_help=True, help="Run DeepSeek-class Mixture-of-Experts models on your own machines.",
    )  # fmt: skip

    @app.callback()
    def root(  # pyright: ignore[reportUnusedFunction]
        version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    ) -> None:
        """Run DeepSeek-class Mixture-of-Experts models on your own machines."""

    for verb in VERBS:
        app.command(name=verb.__name__, context_settings=PASSING if verb is serve.serve else None)(verb)
    for group in GROUPS:
        app.add_typer(group)
    return app


def run(arguments: list[str]) -> int:
    """Runs one command line and returns the exit code; every error ends here."""
    _listen_to_signals()
    try:
        build()(args=arguments, prog_name="dsctl")
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer has made it an exit of 1
            return Exit.OK if arguments[0] in ONLY_PRINT else Exit.FAILED
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except DsctlError as problem:
        show.error(problem)
        if "--json" in arguments:
            show.json({"error": {"message": problem.message, "why": problem.why, "hint": problem.hint}})
        return problem.exit_code
    except Exception as surprise:  # noqa: BLE001 - the last resort of the whole program
        return _last_resort(surprise)
    return Exit.OK


def _listen_to_signals() -> None:
    """Ctrl-C and SIGTERM become errors like any other, so that `finally` blocks run and the exit code is right."""

    def interrupted(_number: int, _frame: object) -> NoReturn:
        raise StoppedError("interrupted", hint="run the same command again; it goes on from here")

    def ended(_number: int, _frame: object) -> None:
        return

    def terminated(_number: int, _frame: object) -> NoReturn:
        signal.signal(signal.SIGTERM, ended)  # `timeout` sends it twice; the end has begun
        raise StoppedError("terminated", Exit.TERMINATED, hint="run the same command again; it goes on from here")

    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, terminated)


def _last_resort(surprise: Exception) -> int:
    """A defect of dsctl: one line for the user, the traceback in a file."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="dsctl-", suffix=".log", delete=False) as log:
        traceback.print_exception(surprise, file=log)
    show.error(DsctlError(f"unexpected {type(surprise).__name__}: {surprise}", hint=f"report it with {log.name}"))
    return Exit.FAILED
