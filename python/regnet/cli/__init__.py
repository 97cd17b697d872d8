"""The `regnet` command: one file a command, each with `add(subparsers)` and `run(arguments) -> exit status or None`."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import warnings

from regnet.cli import bench, bootstrap, compare, convert, edf, env, fit, info, list_models, parity, sample, spaces, tune

COMMANDS = (list_models, info, parity, bench, tune, convert, spaces, sample, edf, fit, bootstrap, compare, env)
# What bad input raises. Anything else is a bug of ours and keeps its traceback.
EXPECTED = (ValueError, LookupError, OSError, ImportError, RuntimeError, NotImplementedError, pickle.UnpicklingError)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 bad input or failed parity, 2 wrong usage, 130 interrupted."""
    options = _parser().parse_args(arguments)
    options.arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not options.debug:
        for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):  # what the peers' libraries say to their authors
            warnings.simplefilter("ignore", category)
    try:
        return options.run(options) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `regnet list | head`: nobody reads any more; keep the interpreter from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except EXPECTED as error:
        if options.debug:
            raise
        print(f"regnet {options.command}: error: {_one_line(error)}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="regnet", description="RegNets on fused kernels: models, parity, benchmarks, checkpoints.",
        epilog="example: regnet bench --models regnety_400mf --batch 1", formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for module in COMMANDS:
        command = module.add(subparsers)
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        command.add_argument("--debug", action="store_true", help="show tracebacks and deprecation warnings")
        command.set_defaults(run=module.run)
    return parser


def _one_line(error: BaseException) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__
