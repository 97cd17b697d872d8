"""Which backend runs, what a forced one that cannot run says, and how absent, broken and misconfigured builds show."""

import os
import re
import subprocess
import sys
import textwrap

import pytest
import regnet_kernels
import torch
from regnet_kernels import (BackendError, bottleneck, conv_bn_act, env_report, explain, network, se_gate,
                            squeeze_excite)
from regnet_kernels._extension import CPU, CPU_INFO
from regnet_kernels.dispatch import BACKENDS
from regnet_kernels.testing import ConvShape, SeShape, make_conv, make_squeeze_excite
from test_ops import small_network

X, WEIGHT, BIAS = make_conv(ConvShape(2, 12, 20, 7, 9, 3, 1, 2), torch.float32)[0]


def run(script, **environment):
    """Run a script in a fresh interpreter; returns what it printed, stderr included."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env={**os.environ, **environment}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_this_checkout_has_its_cpu_kernels_and_dispatch_takes_them():
    assert CPU.state == "loaded", f"{CPU.reason}; build them with `make build`"
    for op, args in (("network", (X[:, :3], small_network())), (conv_bn_act, (X, WEIGHT)), ("se_gate", (X.sum((2, 3)), *se(), 63))):
        kwargs = {"groups": 2} if op is conv_bn_act else {}
        assert explain(op, *args, **kwargs).chosen == "cpu"
    assert CPU_INFO.chosen in CPU_INFO.supported and set(CPU_INFO.supported) <= set(CPU_INFO.compiled)
    assert f"chosen:        {CPU_INFO.chosen}" in env_report()


def se():
    return make_squeeze_excite(SeShape(2, 12, 8, 7, 9), torch.float32)[1:]


def test_explain_says_what_a_forced_backend_raises():
    wide = (X.double(), WEIGHT.double())
    explanation = explain("conv_bn_act", *wide, groups=2)
    assert explanation.chosen == "eager"
    assert conv_bn_act(*wide, groups=2).dtype == torch.float64
    assert "conv_bn_act on cpu in float64: eager" in str(explanation)
    for name in ("cpu", "triton", "cuda", "gpu"):
        reason = explanation.reasons[name]
        assert reason and f"  {name}: {reason}" in str(explanation)
        with pytest.raises(BackendError, match=re.escape(f"backend={name!r} cannot run conv_bn_act: {reason}")):
            conv_bn_act(*wide, groups=2, backend=name)
    assert "x is torch.float64" in explanation.reasons["cpu"] and "tensors are on cpu" in explanation.reasons["cuda"]
    forced = explain(bottleneck, torch.randn(1, 32, 4, 4), small_network().slice(1, 2), backend="eager")
    assert forced.chosen == "eager" and "backend='eager' was asked for" in str(forced)


def test_every_op_refuses_a_backend_it_cannot_have():
    packed = small_network()
    calls = {"conv_bn_act": lambda **kw: conv_bn_act(X, WEIGHT, groups=2, **kw), "squeeze_excite": lambda **kw: squeeze_excite(X, *se(), **kw),
             "se_gate": lambda **kw: se_gate(X.sum((2, 3)), *se(), 63, **kw), "network": lambda **kw: network(X[:, :3], packed, **kw),
             "bottleneck": lambda **kw: bottleneck(torch.randn(1, 32, 4, 4), packed.slice(1, 3), **kw)}
    for name, call in calls.items():
        for backend in ("gpu", "cuda", "triton"):
            with pytest.raises(BackendError, match=f"backend='{backend}' cannot run {name}: "):
                call(backend=backend)
        with pytest.raises(ValueError, match="backend 'tpu' is unknown; use one of 'gpu', 'cuda', 'triton', 'cpu', 'eager' or None"):
            call(backend="tpu")
        assert torch.isfinite(call(backend="eager")).all()
    with pytest.raises(ValueError, match="explain knows no op 'conv'; use one of bottleneck, conv_bn_act, network"):
        explain("conv", X)
    assert list(BACKENDS) == ["gpu", "cuda", "triton", "cpu", "eager"]


@pytest.mark.parametrize("call, error, message", [
    (lambda: conv_bn_act(X[0], WEIGHT), ValueError, "x has shape (12, 7, 9); expected 4 dimensions (N, C, H, W)"),
    (lambda: conv_bn_act(X, WEIGHT), ValueError, "x has 12 channels, but weight (20, 6, 3, 3) with groups=1 takes 6 * 1 = 6"),
    (lambda: conv_bn_act(X, WEIGHT, groups=3), ValueError, "groups=3 does not divide the 20 output channels"),
    (lambda: conv_bn_act(X, WEIGHT.bfloat16(), groups=2), TypeError, "weight is torch.bfloat16; expected torch.float32"),
    (lambda: conv_bn_act(X.int(), WEIGHT, groups=2), TypeError, "x is torch.int32; expected one of"),
    (lambda: conv_bn_act(X, WEIGHT, BIAS.bfloat16(), groups=2), TypeError, "bias is torch.bfloat16; expected torch.float32"),
    (lambda: conv_bn_act(X, WEIGHT, BIAS[1:], groups=2), ValueError, "bias has shape (19,); expected (20,)"),
    (lambda: conv_bn_act(X, WEIGHT, groups=2, stride=0), ValueError, "stride=0"),
    (lambda: conv_bn_act(X, WEIGHT, groups=2, residual=X), ValueError, "residual has shape (2, 12, 7, 9); expected (2, 20, 7, 9)"),
    (lambda: conv_bn_act(X, WEIGHT, groups=2, gate=torch.ones(2, 20)), ValueError, "gate has shape (2, 20); expected (2, 12)"),
    (lambda: conv_bn_act(X, WEIGHT, groups=2, activation="gelu"), ValueError, "activation 'gelu' is unknown; use one of 'none', 'relu'"),
    (lambda: conv_bn_act(X[:, :, :2], WEIGHT, groups=2, padding=0), ValueError, "does not fit into a map of 2x9; use padding=1"),
    (lambda: conv_bn_act(X, WEIGHT[:, :, :1], groups=2), ValueError, "the kernel is 1x3; give padding"),
    (lambda: conv_bn_act(X, WEIGHT.to("meta"), groups=2), ValueError, "different devices (x on cpu, weight on meta)"),
    (lambda: squeeze_excite(X, *se()[:3], se()[3][1:]), ValueError, "b2 has shape (11,); expected (12,)"),
    (lambda: squeeze_excite(X[:, :, :0], *se()), ValueError, "a map without pixels has no mean"),
    (lambda: se_gate(X.sum((2, 3)), *se(), 0), ValueError, "count=0"),
    (lambda: network(X, small_network()), ValueError, "x has 12 channels, but step 0 takes 3"),
    (lambda: network(X[:, :3].bfloat16(), small_network()), TypeError, "cast x, or pack with dtype=torch.bfloat16"),
    (lambda: network(X, [1, 2]), TypeError, "expected what pack_network returns"),
    (lambda: bottleneck(X[:, :3], small_network()), ValueError, "bottleneck takes block steps only, got ['conv', 'block'"),
])
def test_arguments_that_do_not_fit_get_one_clear_error(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_without_libraries_everything_runs_on_the_reference_and_gradients_are_exact(tmp_path):
    """float64 exists in the reference only, so this is where gradcheck goes through the ops' own autograd."""
    printed = run("""
        import sys, torch, regnet_kernels as rk
        assert not {"regnet", "timm", "torchvision"} & set(sys.modules), "regnet_kernels knows tensors and never a model"
        from torch.autograd import gradcheck
        from regnet_kernels import testing
        from regnet_kernels.testing import ConvShape, BlockShape, make_block, make_conv
        ops, new = torch.ops.regnet_kernels, lambda *shape: torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for activation in (1, 2):
            assert gradcheck(lambda *t: ops.conv_bn_act(*t, 2, 1, 2, activation, True),
                             (new(2, 4, 4, 3), new(6, 2, 3, 3), new(6), new(2, 6, 2, 2), new(2, 4)))
        se = new(2, 4), new(2), new(4, 2), new(4)
        assert gradcheck(ops.squeeze_excite, (new(2, 4, 3, 2), *se))
        assert gradcheck(lambda *t: ops.se_gate(*t, 6), (new(2, 4), *se))
        step = make_block(BlockShape(1, 3, 4, 5, 2, 2, 2, True, 4, 3), torch.float32, activation="silu")[1]
        head = rk.HeadStep(torch.randn(2, 5), torch.randn(2))
        packed = rk.pack_network([rk.ConvStep(torch.randn(3, 2, 1, 1), torch.randn(3)), step, head], torch.float64)
        blobs = packed.weights.requires_grad_(), packed.params.requires_grad_()
        assert gradcheck(lambda *t: ops.network(*t, packed.program), (new(1, 2, 4, 3), *blobs), fast_mode=True)
        report = testing.check_backend()
        assert rk.explain("conv_bn_act", torch.randn(1, 4, 3, 3), torch.randn(4, 4, 1, 1)).chosen == "eager"
        print(rk.env_report())
        try:
            rk.squeeze_excite(*[t.detach().float() for t in (new(2, 4, 3, 2), *se)], backend="cpu")
        except rk.BackendError as error:
            print(error)
    """, REGNET_KERNELS_EXTENSION_DIR=str(tmp_path), OMP_NUM_THREADS="1")
    assert f"cpu kernels:     absent: {tmp_path}/_cpu.so was not built" in printed
    assert f"backend='cpu' cannot run squeeze_excite: absent: {tmp_path}/_cpu.so was not built" in printed


def test_a_broken_library_is_reported_as_broken_with_its_error(tmp_path):
    (tmp_path / "_cpu.so").write_text("not a library")
    printed = run("""
        import torch, regnet_kernels as rk
        x, w = torch.randn(1, 4, 3, 3), torch.randn(4, 4, 1, 1)
        print(rk.env_report())
        print(rk.explain("conv_bn_act", x, w))
        try:
            rk.conv_bn_act(x, w, backend="cpu")
        except rk.BackendError as error:
            print("forced:", error)
        assert rk.conv_bn_act(x, w).shape == x.shape
    """, REGNET_KERNELS_EXTENSION_DIR=str(tmp_path))
    broken = f"{tmp_path}/_cpu.so exists but does not load: {tmp_path}/_cpu.so: "
    assert f"RuntimeWarning: regnet_kernels: {broken}" in printed  # once, at import
    assert f"cpu kernels:     broken: {broken}" in printed
    assert f"  cpu: broken: {broken}" in printed
    assert f"forced: backend='cpu' cannot run conv_bn_act: broken: {broken}" in printed
    assert "absent: " + str(tmp_path / "_cpu.so") not in printed


def test_an_instruction_set_that_cannot_run_is_an_error_that_lists_those_that_can():
    """Also without a forced backend: falling back to eager would hide the user's mistake."""
    printed = run("""
        import torch, regnet_kernels as rk
        x, w = torch.randn(1, 4, 3, 3), torch.randn(4, 4, 1, 1)
        for call in (lambda: rk.conv_bn_act(x, w), lambda: rk.conv_bn_act(x, w, backend="cpu"),
                     lambda: torch.ops.regnet_kernels.conv_bn_act(x, w, None, None, None, 1, 0, 1, 0, False)):
            try:
                call()
                raise SystemExit("it ran")
            except RuntimeError as error:
                print("refused:", str(error).splitlines()[0])
        print(rk.env_report())
    """, REGNET_KERNELS_ISA="sse9")
    refusals = [line for line in printed.splitlines() if line.startswith("refused:")]
    assert len(refusals) == 3
    assert all("sse9" in line and all(isa in line for isa in CPU_INFO.supported) for line in refusals), refusals
    assert "  error:" in printed


def test_the_public_surface_is_what_the_package_says():
    assert all(getattr(regnet_kernels, name).__doc__ for name in regnet_kernels.__all__)
