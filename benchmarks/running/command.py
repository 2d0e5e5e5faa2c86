"""What the commands have in common: how they read `key=value` words, end, and say in one line what is wrong.

Exit codes: 0 all is done. 1 something failed, or a file is damaged; the rest is done. 2 the settings are wrong.
3 another run works in a folder. 130 interrupted; the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import yaml
from pydantic import ValidationError
from rich.console import Console

from benchmarks.records.folder import FolderInUse
from benchmarks.records.json_places import first_wrong
from tasks.settings import Settings, keys_of, unknown
from tasks.training.ranks import ALONE, Ranks

DONE, FAILED, WRONG_SETTINGS, IN_USE, INTERRUPTED = 0, 1, 2, 3, 130
HELP = {"-h", "--help", "help"}

Read = TypeVar("Read")
Words = TypeVar("Words", bound=Settings)


def command(
    arguments: Sequence[str] | None,
    about: str | None,
    read: Callable[[Sequence[str]], Read],
    work: Callable[[Read], int],
    *,
    interrupted: str,
) -> int:
    """Do what the command line says; returns the exit code.

    Args:
        arguments: None: those of the process.
        about: what is shown to who asks for help.
        read: the settings that they describe; ValueError where they are wrong.
        interrupted: what becomes of the work then.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if HELP & set(given):
        print(about)
        return DONE
    with notes():
        try:
            settings = read(given)
        except ValueError as error:
            return refuse(error, WRONG_SETTINGS)
        return ended(lambda: work(settings), interrupted)


def read_options(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """What a command line of `--options` says; `help` is understood as with the other commands.

    Raises:
        SystemExit: help is shown, or the options are wrong, and argparse has said so.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    return parser.parse_args(["--help"] if given[:1] == ["help"] else given)


def ended(work: Callable[[], int], interrupted: str, ranks: Ranks = ALONE) -> int:
    """The exit code of the work, also where it cannot be done. An error that a rank alone has is raised."""
    try:
        return work()
    except (FolderInUse, OSError, ValueError) as error:
        if not ranks.can_go_on(error):
            raise
        return refuse(error, IN_USE if isinstance(error, FolderInUse) else FAILED, ranks)
    except KeyboardInterrupt:
        if ranks.count > 1:
            raise
        return refuse(ValueError(f"interrupted; {interrupted}"), INTERRUPTED, ranks)


def refuse(error: Exception, code: int, ranks: Ranks = ALONE) -> int:
    """Say what is wrong, in one line; returns the exit code."""
    if settings_want_traces():
        raise error
    if ranks.leads:
        complain([one_line(error)])
    return code


def complain(reasons: Iterable[str]) -> None:
    """Say what is wrong, a line each."""
    for reason in reasons:
        print(f"error: {reason}", file=sys.stderr)


def say(console: Console, text: str) -> None:
    """Show a line as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM as a question that work asks between two steps, when nothing is half done.

    Within the block they only change what the yielded function returns; a second Ctrl-C stops it.
    """
    asked = False

    def ask(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def notes(*, shown: bool = True) -> Iterator[None]:
    """Within, each warning is a note of one line, told once however often it is given."""
    told: set[str] = set()

    def tell(message: Warning | str, *_: object, **__: object) -> None:
        if shown and str(message) not in told:
            print(f"note: {message}", file=sys.stderr)
        told.add(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = tell
        yield


def key_values(arguments: Sequence[str], keys: Collection[str], *, example: str) -> dict[str, str]:
    """What `key=value` arguments say, each key at most once.

    Raises:
        ValueError: in one line: a word that is no `key=value`, an unknown key with the nearest right one, or a key
            given twice.
    """
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not value:
            raise ValueError(f"cannot read '{argument}'; write key=value, for example {example}")
        if key not in keys:
            raise unknown("key", key, keys)
        if key in given:
            raise ValueError(f"{key}= is given twice: {given[key]} and {value}")
        given[key] = value
    return given


def read_words(settings: type[Words], arguments: Sequence[str], *, example: str) -> Words:
    """The settings that `key=value` arguments describe.

    Raises:
        ValueError: in one line: as of `key_values`, or a value is wrong.
    """
    given = key_values(arguments, settings.model_fields, example=example)
    texts = {key.name for key in keys_of(settings) if key.allowed.startswith("text")}
    return settings(**{key: value if key in texts else _plain(value) for key, value in given.items()})


def _plain(word: str) -> object:
    """A number, true, false or null as YAML has them; else the word."""
    try:
        return float(word) if re.fullmatch(r"\d+e\d+", word) else yaml.safe_load(word)
    except yaml.YAMLError:
        return word


def settings_want_traces() -> bool:
    """Whether the user asked for the whole trace of an error."""
    return os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")


def one_line(error: BaseException) -> str:
    """The reason, in one line that a user can read."""
    if isinstance(error, OSError) and error.strerror:
        return (
            f"{error.strerror[0].upper()}{error.strerror[1:]}"
            if error.filename is None
            else f"{error.strerror}: {error.filename}"
        )
    told = first_wrong(error) if isinstance(error, ValidationError) else str(error)
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    text = lines[0] if lines else ""
    expected = isinstance(error, ValueError | OSError) or type(error).__module__.startswith("tasks.")
    return text if expected and text else f"{type(error).__name__}: {text}".rstrip(": ")
