"""Builds the torch-free harness of the CPU kernels in several ways and runs it; the flags are those of csrc/cpu/build.py.

    native         every table that the CPU runs, forced by REGNET_KERNELS_ISA; the objects are those of the extension
    emulated       the AVX-512 tables for a CPU without AVX-512: g++ lowers the 64-byte vectors to AVX2, 1x1's by pairs are no assembly
    sanitized      AddressSanitizer and UndefinedBehaviorSanitizer
    guarded        the tables of the extension again, each piece of their working memory guarded
    threads        ThreadSanitizer, of the baseline and of AVX-512, where 1x1's go by pairs
    aarch64        cross-compiled, static, under qemu

By hand: `python tests/cpu_harness/harness.py native --random 500 network` (all arguments but the first go to the harness).
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CROSS, QEMU = "aarch64-linux-gnu-g++", "qemu-aarch64"


def _build_module():
    spec = importlib.util.spec_from_file_location("_cpu_harness_build", ROOT / "csrc" / "cpu" / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build = _build_module()
Job = build.Job

REPLACED = ("arena", "isa")  # sources of csrc/cpu that a variant may exchange for the harness's own
SHARED = [path.stem for path in sorted((ROOT / "csrc/cpu").glob("*.cpp")) if path.stem not in ("kernels", *REPLACED)]
OWN = [path.stem for path in sorted(HERE.glob("*.cpp")) if path.stem not in ("one_table", "strict_arena", "poisoned_alloc")]
CHECKS = ("-O1", "-g1", "-fno-omit-frame-pointer")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# What makes the register tiles compile several times longer: unrolling, and checks of what they cannot do wrong.
ROLLED = ("-fdisable-tree-cunroll", "-fdisable-tree-cunrolli", "-fdisable-rtl-loop2_unroll")
TILES = ("-fno-sanitize=pointer-overflow,object-size", "--param", "asan-instrumentation-with-call-threshold=0")


@dataclass(frozen=True)
class Variant:
    """One executable. tables: the instruction sets in it; kernel_flags: what else their kernels are compiled with;
    flags: what all of csrc/cpu is compiled with; None: as in the extension. one_table: the only table is in use, whatever
    the CPU. strict: each piece of working memory is guarded."""

    name: str
    tables: tuple[str, ...]
    flags: tuple[str, ...] | None = None
    kernel_flags: tuple[str, ...] | None = None
    one_table: bool = False
    strict: bool = False
    cross: bool = False
    link: tuple[str, ...] = ()


EMULATED = {  # flags in place of the instruction set's own
    "avx512": (*build.ISA_FLAGS["avx2"], "-Wno-psabi"),
    "avx512_bf16": (*build.ISA_FLAGS["avx2"], "-Wno-psabi", f"-I{HERE / 'emulated'}", "-D__AVX512BF16__"),
}
VARIANTS = {variant.name: variant for variant in [
    Variant("native", tuple(build.isas())),
    Variant("emulated-avx512", ("avx512",), None, ("-O0", *EMULATED["avx512"]), one_table=True, strict=True),
    Variant("emulated-avx512_bf16", ("avx512_bf16",), None, ("-O0", *EMULATED["avx512_bf16"]), one_table=True, strict=True),
    Variant("sanitized", tuple(build.isas())[:2], (*CHECKS, *SANITIZE), TILES, strict=True, link=SANITIZE),
    Variant("guarded", tuple(build.isas()), strict=True),
    Variant("threads", tuple(build.isas())[:1], (*CHECKS, "-fsanitize=thread"), (), one_table=True, link=("-fsanitize=thread",)),
    Variant("threads-avx512", ("avx512",), (*CHECKS, "-fsanitize=thread"), (), one_table=True, link=("-fsanitize=thread",)),
    Variant("aarch64", ("baseline",), ("-O1",), (), one_table=True, strict=True, cross=True, link=("-static",)),
]}


class Builds:
    """Compiles what the wanted variants need in the background, in the order in which they are wanted and each object once;
    `executable(name)` waits for one of them."""

    def __init__(self, folder: Path, wanted: list[str], workers: int | None = None):
        self.folder, self.objects = folder, {}
        self.pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
        compiler = shlex.split(build.find_compiler())
        self.compilers = {False: compiler, True: [CROSS]}
        self.rolled = {False: ROLLED if _is_gcc(compiler) else (), True: ROLLED}
        self.extension = {job.output.name: job for job in build.jobs(ROOT / "build" / "native-cpu", Path())}
        self.plans = {name: self._objects(VARIANTS[name]) for name in dict.fromkeys(wanted)}
        for plan in self.plans.values():
            for job in plan:
                if job.output not in self.objects:
                    self.objects[job.output] = self.pool.submit(_compile, job)

    def executable(self, name: str) -> Path:
        variant, out = VARIANTS[name], self.folder / f"harness-{name}"
        paths = [str(self.objects[job.output].result()) for job in self.plans[name]]
        _compile(Job(out, (*self.compilers[variant.cross], *paths, "-o", str(out), *variant.link, "-pthread"), tuple(map(Path, paths))))
        return out

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)

    def run(self, name: str, *arguments: str, isa: str | None = None, pairs: str = "always") -> subprocess.CompletedProcess:
        variant = VARIANTS[name]
        # no look for leaks: that needs ptrace, which containers often forbid
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1", "UBSAN_OPTIONS": "print_stacktrace=1",
                       "TSAN_OPTIONS": "halt_on_error=1"}
        environment["REGNET_KERNELS_PAIRS"] = pairs  # whatever the CPU
        environment.pop("REGNET_KERNELS_ISA", None)
        if isa:
            environment["REGNET_KERNELS_ISA"] = isa
        command = [*([QEMU] if variant.cross else []), str(self.executable(name)), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        if "unexpected memory mapping" in done.stderr:  # ThreadSanitizer of an older compiler, address randomisation of a newer kernel
            done = subprocess.run(["setarch", "-R", *command], env=environment, capture_output=True, text=True, timeout=600)
        return done

    def _job(self, output: str, source: Path, flags: tuple[str, ...], cross: bool = False) -> Job:
        common = list(build.COMMON)
        if any(flag.startswith("-O") for flag in flags):  # the last one would win anyway; this says so
            common = [flag for flag in common if not flag.startswith("-O")]
        out = self.folder / output
        command = [*self.compilers[cross], *common, f"-I{build.CSRC}", f"-I{HERE}", *flags, "-MMD", "-MF", f"{out}.d", "-c", str(source),
                   "-o", str(out)]
        return Job(out, tuple(command), (source,))

    def extension_object(self, name: str) -> Job:
        """The extension's own object where it is up to date; else one made here by the same call."""
        job = self.extension[name]
        if job.is_current():
            return job
        out = self.folder / "extension" / name
        swap = {str(job.output): str(out), f"{job.output}.d": f"{out}.d"}
        return Job(out, tuple(swap.get(part, part) for part in job.command), job.inputs)

    def _objects(self, v: Variant) -> list[Job]:
        own_flags = ("-O1", "-Wextra", "-g1")
        side = "aarch64-" if v.cross else ""
        jobs = [self._kernels(v, isa) for isa in v.tables]  # first: they take longest
        jobs += [self._job(f"{side}own-{stem}.o", HERE / f"{stem}.cpp", own_flags, v.cross) for stem in OWN]
        for stem in SHARED + [stem for stem, replaced in (("arena", v.strict), ("isa", v.one_table)) if not replaced]:
            if v.flags is None:
                jobs.append(self.extension_object(f"{stem}.o"))
            else:
                have = tuple(f"-DREGNET_HAVE_{isa.upper()}" for isa in v.tables)
                jobs.append(self._job(f"{v.name}-{stem}.o", ROOT / f"csrc/cpu/{stem}.cpp", (*v.flags, *have), v.cross))
        if v.strict:
            jobs.append(self._job(f"{side}strict_arena.o", HERE / "strict_arena.cpp", own_flags, v.cross))
        elif v.flags is None:
            jobs.append(self._job("poisoned_alloc.o", HERE / "poisoned_alloc.cpp", own_flags))
        if v.one_table:
            table = f"-DREGNET_HARNESS_TABLE={v.tables[0]}"
            jobs.append(self._job(f"{side}table-{v.tables[0]}.o", HERE / "one_table.cpp", (*own_flags, table), v.cross))
        return jobs

    def _kernels(self, v: Variant, isa: str) -> Job:
        if v.kernel_flags is None:
            return self.extension_object(f"kernels.{isa}.o")
        instructions = () if v.name.startswith("emulated") else tuple(build.ISA_FLAGS[isa])
        flags = (*(v.flags or ()), *v.kernel_flags, *instructions, f"-DREGNET_ISA={isa}", *self.rolled[v.cross])
        return self._job(f"{v.name}-kernels.{isa}.o", ROOT / "csrc/cpu/kernels.cpp", flags, v.cross)


def _compile(job: Job) -> Path:
    if not job.is_current():
        job.run()
    return job.output


def _is_gcc(compiler: list[str]) -> bool:
    words = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    return "Free Software Foundation" in words


def main() -> int:
    name, arguments = (sys.argv[1:2] or ["native"])[0], sys.argv[2:]
    builds = Builds(ROOT / "build" / "cpu-harness", [name])
    tables = [None] if VARIANTS[name].one_table else builds.run(name, "--tables").stdout.split()
    status = 0
    for isa in tables:
        done = builds.run(name, *arguments, isa=isa)
        print(done.stderr if done.returncode else "", done.stdout, sep="", end="")
        status = max(status, abs(done.returncode))
    return status


if __name__ == "__main__":
    sys.exit(main())
