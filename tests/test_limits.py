"""What must hold of a network in use beside its results: calls of changing shapes, threads, forks, memory, and how a call gets
to the kernels. benchmarks/limits.py has what is measured."""

import copy
import gc
import json
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import regnet
import torch
from regnet.models import AnyNet, AnyNetConfig
from regnet.swap import FusedRegNet, SwapError
from regnet_kernels import quick
from regnet_kernels._extension import CPU
from swap_models import assert_close, image, make, own_model, randomise
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not CPU.loaded, reason="needs the CPU kernels: calls in plain torch keep torch's own limits")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
# (N, H, W): alone and together, one pixel, odd sides, none, and again
SHAPES = [(1, 64, 64), (3, 33, 17), (1, 1, 1), (0, 32, 32), (5, 64, 48), (2, 1, 1), (1, 33, 17), (16, 40, 24), (1, 64, 64)]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models() -> list[FusedRegNet]:
    return [regnet.optimize(own_model(name)) for name in ("regnety_200mf", "regnetx_200mf")]


def images(index: int = 0) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(index)
    return [torch.randn(n, 3, h, w, generator=random) for n, h, w in SHAPES]


@torch.inference_mode()
def test_shapes_that_change_from_call_to_call(models, two_threads):
    for model in models:
        alone = [copy.deepcopy(model)(x) for x in images()]
        for _ in range(2):  # between them the memory of one call holds what the others left there
            assert all(torch.equal(model(x), y) for x, y in zip(images(), alone))


@torch.inference_mode()
def test_the_number_of_threads_may_change_between_calls(models):
    before, x = torch.get_num_threads(), image(3, height=33, width=17)
    try:
        found = {}
        for count in (1, 2, 1, 3, 2, 3):
            torch.set_num_threads(count)
            y = models[0](x)
            assert torch.equal(found.setdefault(count, y), y)
            assert_close(y, found[1])
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def test_a_plan_is_for_a_program_and_shapes_and_never_for_tensors(two_threads):
    """Two models of one architecture share their plans (csrc/cpu/plan_cache.h); weights, images and results come with each call."""
    sources = [randomise(own_model(), seed) for seed in (1, 2)]
    pair = [regnet.optimize(source) for source in sources]
    batches = [image(2).add(shift) for shift in (0.0, 0.5)]
    wide = [batch.contiguous(memory_format=torch.channels_last) for batch in batches]
    expected = [[source(batch) for batch in batches] for source in sources]
    for _ in range(2):
        for model, results in zip(pair, expected):
            assert_close([model(batch) for batch in batches + wide], results + results)
    pair[0].weights.copy_(pair[1].weights)
    pair[0].params.copy_(pair[1].params)
    assert_close([pair[0](batch) for batch in batches], expected[1])
    pair[0]._apply(torch.clone)  # elsewhere in memory
    pair[1].weights.fill_(float("nan"))
    assert_close([pair[0](batch) for batch in batches], expected[1])


def test_several_callers_of_one_model_and_of_several(models, two_threads):
    with torch.inference_mode():
        alone = [[model(x) for x in images(1)] for model in models]

    @torch.inference_mode()
    def calls(caller: int) -> bool:
        order = range(len(SHAPES)) if caller % 3 else reversed(range(len(SHAPES)))
        return all(torch.equal(models[(caller + turn) % 2](images(1)[turn]), alone[(caller + turn) % 2][turn]) for turn in order)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(calls, range(24)))


def script(body: str, timeout: float = 120) -> str:
    """Runs Python lines in a process of its own and gives what they print; a deadlock fails after `timeout` seconds."""
    head = """
        import os, sys, threading, time, torch, regnet
        sys.path.insert(0, "tests")
        from swap_models import own_model
        def tasks(): return len(os.listdir("/proc/self/task"))
        def start_pool(): return torch.ones(1 << 22).add_(1)
        torch.set_num_threads(2)
        torch.set_grad_enabled(False)
        x = torch.randn(2, 3, 64, 49)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(body)], cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@linux
def test_forks_after_the_parent_used_its_threads():
    """OpenMP's threads do not come along, and it would wait for them; nor must the fork find a lock taken by another thread."""
    out = script("""
        fused = regnet.optimize(own_model("regnety_200mf"))
        expected = fused(x)
        start_pool()
        stop = []
        callers = [threading.Thread(target=lambda: [fused(x) for _ in iter(lambda: bool(stop), True)]) for _ in range(2)]
        for caller in callers: caller.start()
        for turn in range(20):
            pid = os.fork()
            if pid == 0:
                same = all(torch.equal(fused(x), expected) for _ in range(3))
                os._exit(0 if same and torch.get_num_threads() == 2 and tasks() == 1 else 1)
            deadline = time.time() + 20
            while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.time() < deadline: time.sleep(0.01)
            if done == (0, 0): os.kill(pid, 9)
            assert done == (pid, 0), done
        stop.append(True)
        for caller in callers: caller.join()
        assert torch.equal(fused(x), expected)

        class Images(torch.utils.data.Dataset):
            def __len__(self): return 4
            def __getitem__(self, index): return fused(x)[index % 2]

        loader = torch.utils.data.DataLoader(Images(), batch_size=2, num_workers=2, multiprocessing_context="fork",
                                             worker_init_fn=lambda _: torch.set_num_threads(2))
        assert all(torch.equal(batch, expected) for batch in loader)
        print("same")
    """)
    assert out == "same"


@linux
def test_no_threads_are_left_behind():
    out = script("""
        start_pool()
        before = tasks()
        fused = [regnet.optimize(own_model("regnetx_200mf")) for _ in range(2)]
        for model in fused: model(x)
        during = tasks()
        del fused, model
        print(during - before, tasks() - before)
    """)
    assert out == "0 0"


@linux
def test_memory_does_not_grow_and_goes_with_the_model():
    """The pool of working memory stays, at most four blocks of the largest call (csrc/cpu/arena.cpp), and so do the plans last used."""
    out = script("""
        import gc
        from regnet.models import AnyNet, AnyNetConfig
        def resident(): return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024
        fused = regnet.optimize(AnyNet(AnyNetConfig(depths=(1, 7), widths=(64, 1024), group_widths=(64, 64))).eval(), inplace=True)
        size = fused.packed.nbytes / 2**20
        batches = [torch.randn(n, 3, h, w) for n, h, w in ((1, 32, 32), (4, 33, 17), (6, 64, 32), (2, 1, 1))]
        small = [torch.randn(1, 3, 1 + turn // 20, 1 + turn % 20) for turn in range(400)]  # more than plans are kept
        for _ in range(3):
            for batch in batches + small: fused(batch)
        before = resident()
        for _ in range(10):
            for batch in batches + small: fused(batch)
        grown = resident() - before
        with_model = resident()
        del fused
        gc.collect()
        print(size, grown, with_model - resident())
    """)
    size, grown, freed = map(float, out.split())
    assert size > 64 and grown < 1 and freed > 0.95 * size


@linux
def test_optimize_needs_the_packed_weights_and_little_more():
    """The weights are folded and packed a few rows at a time, and with inplace=True each is freed when it is packed."""
    def extra(inplace: bool) -> float:
        given = {"what": "optimize", "model": "regnety_3.2gf", "threads": 1, "inplace": inplace}
        command = [sys.executable, "benchmarks/limits_child.py", json.dumps(given)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["extra_mib"]

    model, packed = 74, 75  # MiB
    assert extra(inplace=False) < packed + 40
    assert extra(inplace=True) < max(packed - model, 0) + 40


def test_a_refused_inplace_leaves_the_model_and_a_held_part_stays_whole():
    model = own_model("regnetx_200mf")
    with torch.inference_mode():
        expected, stage = model(image()), model.stages[3]
        with pytest.raises(SwapError, match="images of 3 channels"):
            regnet.optimize(model, inplace=True, mean=(0.5,), std=(0.5,))
        with pytest.raises(Exception, match="cannot run|CUDA"):
            regnet.optimize(model, inplace=True, backend="cuda")
        odd = make(AnyNet, AnyNetConfig(depths=(1,), widths=(9,), group_widths=(3,), num_classes=5))
        before = odd(image())
        with pytest.raises(ValueError, match="bfloat16 weights are packed in pairs"):
            regnet.optimize(odd, inplace=True, dtype=torch.bfloat16)
        assert torch.equal(odd(image()), before) and torch.equal(model(image()), expected)
        regnet.optimize(model, inplace=True)
        assert_close(model(image()), expected)
        assert stage(torch.randn(1, 152, 4, 4)).shape == (1, 368, 2, 2)


class Seen(TorchDispatchMode):
    """Notes the ops that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def test_the_short_way_is_for_plain_inference_only(models):
    """What watches or changes ops finds the op `network` with its rules."""
    fused, x = models[0], image()
    wanted = fused._dispatch(x, fused.program, images=True)
    assert quick.available and quick.suits(x)
    with torch.no_grad():
        assert quick.suits(x.clone().requires_grad_()) and torch.equal(fused(x), wanted)
    with torch.inference_mode():
        assert torch.equal(fused(x), wanted)
        assert torch.equal(fused.forward_head(fused.forward_features(x)), fused.forward_head(fused.forward_features(x)))
    assert torch.equal(fused(x), wanted) and not quick.suits(x.clone().requires_grad_())
    with Seen() as seen:
        fused(x)
    assert seen.names == ["regnet_kernels::network"]
    with torch.autocast("cpu"):
        assert not quick.suits(x)
    for inside in (lambda y: torch.func.vmap(lambda z: torch.tensor(0.0).expand(2) if quick.suits(z) else z.sum().expand(2))(y),
                   lambda y: torch.func.grad(lambda z: z.sum() * (0.0 if quick.suits(z) else 1.0))(y)):
        assert inside(x).abs().sum() > 0
    assert not quick.suits(torch.nn.Parameter(x, requires_grad=False))
    with torch.autograd.forward_ad.dual_level():
        assert not quick.suits(x)
    traced = torch.jit.trace(fused, x, check_trace=False)
    assert torch.equal(traced(x), wanted)
    assert torch.equal(copy.deepcopy(fused)(x), wanted)
    gc.collect()
