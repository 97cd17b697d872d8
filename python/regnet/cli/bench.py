"""`regnet bench`: whole models (with no other word), single blocks, single kernels. Which suite runs, and on which instruction set."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from regnet.cli import bench_models, bench_shapes

DESCRIPTION = """With no suite, or `models`: classify photographs with our kernels and with every peer that is installed; print parity,
latency, the floor and the speed-up. `regnet bench blocks --help` and `regnet bench ops --help` tell of the other suites.

The weights are random (with BatchNorm statistics measured on the photographs) unless --checkpoint or --pretrained is given:
parity and latency are real, the classes are not. Everything left out is named at the end, with its reason."""
# The same instruction set for oneDNN and for PyTorch's own kernels, so that a roofline is of one machine.
PEERS_ISA = {
    "baseline": ("SSE41", "default"), "avx2": ("AVX2", "avx2"),
    "avx512": ("AVX512_CORE", "avx512"), "avx512_bf16": ("AVX512_CORE_BF16", "avx512"),
}  # fmt: skip


class _Suites(argparse._SubParsersAction):
    """Options before the name of a suite would be lost: refuse them."""

    def __call__(self, parser, namespace, values, option_string=None):
        early = [
            action.option_strings[-1]
            for action in parser._actions
            if action.option_strings and getattr(namespace, action.dest, action.default) != action.default
        ]
        if early:
            parser.error(f"give {', '.join(early)} after {values[0]!r}")
        super().__call__(parser, namespace, values, option_string)


def add(subparsers):
    parser = subparsers.add_parser(
        "bench", help="models, blocks and kernels beside the peers", description=DESCRIPTION, epilog=bench_models.EXAMPLES
    )
    bench_models.options(parser, "models")
    _isa(parser)
    suites = parser.add_subparsers(dest="suite", metavar="suite", title="suites", action=_Suites, parser_class=argparse.ArgumentParser)
    for name, module in (("models", bench_models), ("blocks", bench_shapes), ("ops", bench_shapes)):
        suite = suites.add_parser(
            name, help=module.HELP[name], description=module.DESCRIPTIONS[name], epilog=module.EXAMPLES.replace("{suite}", name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        module.options(suite, name)
        _isa(suite)
        suite.add_argument("--debug", action="store_true", help="show tracebacks and deprecation warnings")
    return parser


def run(options: argparse.Namespace) -> int:
    wanted = _environment(options.isa) if options.isa else {}
    if wanted.items() - os.environ.items():
        return _in_child(options, wanted)
    return (bench_shapes if options.suite in ("ops", "blocks") else bench_models).run(options)


def _isa(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--isa", choices=tuple(PEERS_ISA), help="instruction set of our kernels, and the most that oneDNN and PyTorch may "
                        "use (default: the widest of this CPU; ONNX Runtime and OpenVINO always choose for themselves)")  # fmt: skip


def _environment(isa: str) -> dict[str, str]:
    onednn, aten = PEERS_ISA[isa]
    return {"REGNET_KERNELS_ISA": isa, "ONEDNN_MAX_CPU_ISA": onednn, "ATEN_CPU_CAPABILITY": aten}


def _in_child(options: argparse.Namespace, wanted: dict[str, str]) -> int:
    """The libraries choose their instruction set when they are loaded: run the same command in a process that has it set."""
    import regnet_kernels

    facts = regnet_kernels.environment()
    if facts["extensions"]["cpu"]["state"] == "loaded" and options.isa not in facts["isa"]["supported"]:
        raise ValueError(f"--isa {options.isa} cannot run on this machine: use one of {', '.join(facts['isa']['supported'])}")
    child = subprocess.Popen([sys.executable, "-m", "regnet.cli", *options.arguments], env=os.environ | wanted)
    while True:
        try:
            status = child.wait()
            return status if status >= 0 else 128 - status
        except KeyboardInterrupt:  # the child has it too, and shows what it has
            continue
