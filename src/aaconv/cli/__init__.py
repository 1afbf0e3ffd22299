"""The command line: parses, calls, prints. Nothing heavy is imported before a command is known to be well-formed."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from aaconv import __version__
from aaconv._errors import Failed, Stopped
from aaconv.cli.commands import COMMANDS, Commands
from aaconv.cli.detect import DETECT
from aaconv.cli.explain import EXPLAIN
from aaconv.cli.export import EXPORT

USAGE, INTERRUPTED, FAILED = 2, 130, 1
EXTRAS = {  # that bring a package; others are in "train"
    "executorch": "executorch",
    "gradio": "app",
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "export"),
}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 the work failed, 2 bad input (one line says what), 130 interrupted."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us; else the next file to be opened gets its place
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (until the process ends)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names of any language, whatever the terminal's
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments)
    except SystemExit:  # of --help, which may go into a pipe too
        _flush()
        raise
    return code if _flush() else FAILED


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    options, overrides = parser.parse_known_args(arguments)
    options.overrides = overrides
    if overrides and not options.takes_overrides:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    try:
        options.command(options)
    except KeyboardInterrupt:
        return _say("interrupted; the same command goes on from the last checkpoint", INTERRUPTED)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("aaconv"):
            raise
        package = error.name.partition(".")[0]
        extra = EXTRAS.get(package, "train")
        return _say(f"this command needs the package {package!r}: pip install 'aaconv[{extra}]'", USAGE)
    except Stopped as error:
        return _say(str(error), INTERRUPTED)
    except (Failed, FloatingPointError, ValueError, TypeError, OSError) as error:
        if options.debug:
            raise
        if not _flush():  # that was the error
            return FAILED
        return _say(str(error), FAILED if _is_of_the_machine(error) else USAGE)
    return 0


def _is_of_the_machine(error: Exception) -> bool:
    """Whether the command was well-formed."""
    return isinstance(error, (Failed, FloatingPointError)) or getattr(error, "errno", None) in NO_ROOM


def _flush() -> bool:
    """Print what is left; False where that cannot be: whoever read it is gone, as ``head`` is, or there is no room."""
    if sys.stdout.closed:
        return True
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python would try again at its end
        if not isinstance(error, BrokenPipeError):
            _say(f"the output cannot be written: {error}", FAILED)
        return False
    return True


def _say(message: str, code: int) -> int:
    line = " ".join(message.split())
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)  # names may steer a terminal
    print("aaconv:", "".join(shown), file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """Errors in one line; the usage is a --help away."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_say(f"{message}; see '{self.prog} --help'", USAGE))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="aaconv", description="Attention-augmented convolution (Bello et al. 2019) for PyTorch.")
    parser.add_argument("--version", action="version", version=f"aaconv {__version__}")
    commands = _add_commands(parser, COMMANDS | EXPLAIN | EXPORT)
    text = "Train, evaluate and use detectors."
    _add_commands(commands.add_parser("detect", help=text, description=text), DETECT)
    return parser


def _add_commands(parser: argparse.ArgumentParser, table: Commands) -> argparse._SubParsersAction[_Parser]:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, (add_options, command, text) in table.items():
        formatter = argparse.ArgumentDefaultsHelpFormatter
        sub = commands.add_parser(name, help=text, description=text, formatter_class=formatter, allow_abbrev=False)
        add_options(sub)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(command=command, takes_overrides=name in ("train", "compare"))
    return commands
