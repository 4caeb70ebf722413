"""The command line from outside: verbs, exit codes, where output goes, and that nothing heavy is loaded."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsctl.base import exits
from dsctl.base.errors import ConfigError, ConfirmationError, DsctlError
from dsctl.base.exits import Exit
from dsctl.cli import app, show
from dsctl.cli.show import Terminal

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "rich", "httpx", "jinja2", "pydantic", "asyncio", "yaml", "aiohttp", "numpy", "supervisor")


def dsctl(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One command in an empty directory with a home of its own."""
    own = {"DSCTL_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), "TERM": "dumb", **environment}
    return subprocess.run(
        [sys.executable, "-m", "dsctl", *arguments], cwd=tmp_path, env=os.environ | own, text=True,
        capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=100,
    )  # fmt: skip


def test_help_lists_verbs_and_exit_codes(tmp_path: Path) -> None:
    """`dsctl --help` names every verb and the whole exit code table."""
    text = dsctl(tmp_path, "--help").stdout
    for verb in [verb.__name__ for verb in app.VERBS] + [str(group.info.name) for group in app.GROUPS]:
        line = re.search(rf"^  {verb} .*", text, flags=re.MULTILINE)
        assert line
        assert not line[0].endswith("...")
    for code, meaning in exits.MEANING.items():
        assert re.search(rf"^ +{code.value}  {re.escape(meaning)}$", text, flags=re.MULTILINE)


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    """Showing the help imports none of the heavy packages; a verb's options cost typer's own validation at most."""
    code = "import sys; from dsctl.cli.app import run; run(sys.argv[1:]); "
    code += f"print([m for m in {HEAVY!r} if m in sys.modules])"
    for arguments, allowed in (["--help"], set[str]()), (["deploy", "--help"], {"pydantic"}):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
        )
        assert set(json.loads(done.stdout.splitlines()[-1].replace("'", '"'))) <= allowed


@pytest.mark.parametrize("verb", [v.__name__ for v in app.VERBS] + [str(g.info.name) for g in app.GROUPS])
def test_every_verb_explains_itself(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Every verb has help, and exits 0 for it."""
    assert app.run([verb, "--help"]) == 0
    assert f"Usage: dsctl {verb}" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nonsense"], 2),
        (["scale"], 2),
        (["scale", "x"], 2),
        (["scale", "2"], 2),
        (["deploy", "--nonsense"], 2),
        (["status"], 1),
        (["status", "--json"], 1),
        (["down"], 0),
        (["logs"], 2),
        (["logs", "../x"], 2),
        (["chat", " "], 2),
        (["chat", "hi"], 6),
        (["config", "show", "-c", "none.yaml"], 2),
        (["serve", "nowhere"], 2),
        (["keys", "ls"], 0),
        (["keys", "revoke", "x"], 2),
        (["plan", "--mock"], 3),
        (["diff", "--mock"], 3),
        (["deploy", "--mock", "--dry-run"], 3),
        (["render", "supervisor"], 0),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else str(value),
)
def test_exit_codes(
    arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each outcome without a deployment has its code; errors go to stderr, results to stdout; nothing is created."""
    monkeypatch.setenv("DSCTL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert app.run(arguments) == code
    out, err = capfd.readouterr()
    if code == 2:
        assert out == ""
        assert err
    assert not (tmp_path / "home").exists()


def test_json_is_one_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """With --json stdout is one object with schema_version, whatever the verb."""
    monkeypatch.setenv("DSCTL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for arguments in ("status", "plan --mock", "diff --mock", "render supervisor", "config show", "keys ls"):
        app.run([*arguments.split(), "--json"])
        assert json.loads(capfd.readouterr().out)["schema_version"] == 1
    assert app.run(["scale", "2", "--json"]) == 2
    assert "nothing is deployed" in json.loads(capfd.readouterr().out)["error"]["message"]


def test_status_json_is_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also with nothing deployed, exactly the agreed fields."""
    monkeypatch.setenv("DSCTL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert app.run(["status", "--json"]) == 1
    told = json.loads(capfd.readouterr().out)
    assert told == {"schema_version": 1, "project": "dsctl", "url": None, "replicas": []}


def test_a_mistake_in_the_file_is_shown_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, and one line with file, line, path and the nearest name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dsctl.yaml").write_text("replicaz: 3\n")
    assert app.run(["plan"]) == 2
    assert "dsctl.yaml:1: replicaz: unknown setting; did you mean 'replicas'?" in capfd.readouterr().err


def test_init_writes_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """init makes dsctl.yaml, and does not overwrite it unasked."""
    monkeypatch.chdir(tmp_path)
    assert app.run(["init"]) == 0
    assert (tmp_path / "dsctl.yaml").is_file()
    assert app.run(["init"]) == 2
    assert app.run(["init", "--force"]) == 0


def test_a_surprise_is_one_line_and_a_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An error nobody foresaw ends with 1, one line, and a file that holds the traceback."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def burst() -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(app, "build", lambda: lambda **_: burst())
    assert app.run([]) == 1
    err = capfd.readouterr().err
    assert "unexpected ZeroDivisionError: oh" in err
    [log] = tmp_path.glob("dsctl-*.log")
    assert str(log) in err
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_with_their_code(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C and SIGTERM during `logs -f` end it at once and without a word, with 130 and 143."""
    logs = tmp_path / "home" / "dsctl" / "logs"
    logs.mkdir(parents=True)
    (logs / "r1.log").write_text("one\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "dsctl", "logs", "-f"], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=os.environ | {"DSCTL_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "one\n"
    with (logs / "r1.log").open("a") as log:
        log.write("two\n")
    assert process.stdout.readline() == "two\n"
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("", "\n")
    assert process.returncode == code


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    """`dsctl config schema | head -1` ends quietly."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dsctl", "config", "schema"], cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0


def test_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR, a dumb terminal and a pipe are plain; FORCE_COLOR wins over a pipe."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert show.paint("x", "31") == "x"
    monkeypatch.delenv("NO_COLOR")
    assert show.paint("x", "31") != "x"
    monkeypatch.setenv("TERM", "dumb")
    assert show.paint("x", "31") == "x"
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert show.paint("x", "31") != "x"


def test_a_long_wait_has_a_heartbeat(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing new for 30 s gives one line with elapsed and limit, not one for every look."""
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    voice = Terminal()
    voice.say("begun")
    for now in (110.0, 129.0, 130.5, 131.0, 161.0):
        voice.waiting("r1", now - 100, 1800)
    beats = [line for line in capfd.readouterr().err.splitlines() if "still waiting for r1" in line]
    assert len(beats) == 2
    assert "of at most 30 min" in beats[0]


def test_quiet_and_verbose(capfd: pytest.CaptureFixture[str]) -> None:
    """--quiet drops progress, --verbose adds details."""
    Terminal(is_quiet=True).say("a")
    Terminal().note("b")
    Terminal(is_verbose=True).note("c")
    assert [line.split()[-1] for line in capfd.readouterr().err.splitlines()] == ["c"]


def test_without_a_terminal_a_hazard_needs_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 8 names the flag; --yes agrees; on a terminal a person is asked."""
    monkeypatch.setattr("sys.argv", ["dsctl", "down"])
    with pytest.raises(ConfirmationError) as caught:
        Terminal().confirm("this ends it", "--yes")
    assert caught.value.exit_code == Exit.UNCONFIRMED
    assert caught.value.hint == "dsctl down --yes"
    Terminal(agreed=True).confirm("this ends it", "--yes")


def test_an_error_has_all_its_parts_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """What, why and what to try; stdout stays empty."""
    show.error(ConfigError("wrong", why="because", hint="right"))
    out, err = capfd.readouterr()
    assert (out, err.splitlines()) == ("", ["dsctl: wrong", "  because", "  try: right"])
    assert isinstance(ConfigError("x"), DsctlError)


@pytest.mark.parametrize(("is_terminal", "shown"), [(True, "a\ufffd[2Jb\n"), (False, "a\x1b[2Jb\n")])
def test_a_terminal_obeys_nobody_but_dsctl(is_terminal: bool, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Escape codes in a model's words do not reach a terminal; a pipe gets every character."""
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stdout", screen)
    show.conversation([("answer", "a\x1b[2Jb")])
    assert screen.getvalue() == shown
