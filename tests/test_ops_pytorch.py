"""The ops as PyTorch's own: fake kernels, autograd, autocast, torch.compile, export, AOTInductor."""

import subprocess
import sys

import pytest
import torch
from regnet_kernels import ConvStep, bottleneck, conv_bn_act, network, pack_network, se_gate, squeeze_excite, testing
from regnet_kernels.testing import ConvShape, assert_close_to_oracle, make_block, make_conv, make_squeeze_excite
from test_ops import small_network

pytestmark = pytest.mark.kernels
OPS = torch.ops.regnet_kernels


def op_samples(grad=False):
    """(op, arguments) as the schemas take them; with grad, every floating tensor requires it."""
    (x, weight, bias), kwargs = make_conv(ConvShape(2, 12, 20, 7, 9, 3, 2, 2), torch.float32, residual=True, gate=True)
    packed = small_network()
    stem_and_block, block_and_head = packed.slice(0, 2), packed.slice(3, 5)
    _, w1, b1, w2, b2 = make_squeeze_excite(testing.SeShape(2, 12, 8, 7, 9), torch.float32)
    samples = [
        (OPS.conv_bn_act, (x, weight, bias, kwargs["residual"], kwargs["gate"], 2, 1, 2, 2, True)),
        (OPS.conv_bn_act, (x.contiguous(memory_format=torch.channels_last), weight, None, None, None, 1, 1, 2, 1, False)),
        (OPS.squeeze_excite, (x, w1, b1, w2, b2)),
        (OPS.se_gate, (x.sum((2, 3)), w1, b1, w2, b2, 63)),
        (OPS.network, (torch.randn(2, 3, 9, 7), packed.weights, packed.params, stem_and_block.program)),
        (OPS.network, (torch.randn(2, 48, 5, 3), packed.weights, packed.params, block_and_head.program)),
    ]
    if not grad:
        return samples
    return [(op, tuple(a.clone().requires_grad_() if isinstance(a, torch.Tensor) else a for a in args)) for op, args in samples]


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_opcheck(grad):
    for op, args in op_samples(grad):
        torch.library.opcheck(op, args)


@pytest.mark.parametrize("dtype", testing.DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 12, 7, 9), (0, 12, 7, 9), (1, 12, 1, 1), (3, 12, 1, 5)], ids=str)
def test_fake_kernels_give_the_exact_strides(shape, dtype):
    x, weight = torch.randn(shape).to(dtype), torch.randn(20, 12, 3, 3).to(dtype)
    _, *se = make_squeeze_excite(testing.SeShape(1, 12, 8, 1, 1), torch.float32)
    block = make_block(testing.BlockShape(1, 12, 16, 12, 8, 4, 1, False, 1, 1), dtype)[1]
    packed = pack_network([block], torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    calls = [lambda: conv_bn_act(x, weight, pool=True), lambda: (squeeze_excite(x, *se),), lambda: (bottleneck(x, packed),)]
    for call in calls:
        with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
            fakes = call()
        for fake, real in zip(fakes, call()):
            assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


def test_gradients_are_those_of_the_eager_reference():
    for op, args in op_samples(grad=True):
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        wide = [a.detach().double().requires_grad_() if isinstance(a, torch.Tensor) else a for a in args]
        reference = {"conv_bn_act": "conv_bn_act", "squeeze_excite": "squeeze_excite", "network": "network"}
        module = __import__("regnet_kernels.ops." + reference.get(op._qualified_op_name.split("::")[1], "squeeze_excite"), fromlist=["_"])
        function = module.gate_reference if op is OPS.se_gate else module.reference
        got, exact, eager = gradients(op, args), gradients(function, wide), gradients(function, args)
        assert len(got) == len(tensors)
        for one, tensor in zip(zip(got, exact, eager), tensors):
            assert one[0].shape == tensor.shape
            assert_close_to_oracle(*one, what=f"gradient of {op}", factor=4)


def gradients(function, args):
    outputs = function(*args)
    outputs = [out for out in (outputs if isinstance(outputs, tuple) else (outputs,)) if out.numel()]
    weights = [torch.linspace(-1, 1, out.numel()).reshape(out.shape).to(out.dtype) for out in outputs]
    return torch.autograd.grad(outputs, [a for a in args if isinstance(a, torch.Tensor)], weights)


def test_second_derivatives_raise_and_name_the_way_out():
    for op, args in op_samples(grad=True):
        out = op(*args)
        out = out[0] if isinstance(out, tuple) else out
        (grad,) = torch.autograd.grad(out.pow(2).sum(), args[0], create_graph=True)
        with pytest.raises(RuntimeError, match="differentiable once.*backend='eager'"):
            grad.pow(2).sum().backward()


def test_autocast_on_the_cpu():
    (x, weight, bias), kwargs = make_conv(ConvShape(2, 12, 20, 7, 9), torch.float32, residual=True, gate=True)
    _, *se = make_squeeze_excite(testing.SeShape(2, 12, 8, 7, 9), torch.float32)
    image, packed, packed_bf16 = torch.randn(1, 3, 9, 9), small_network(), small_network(torch.bfloat16)
    low = [tensor.bfloat16() for tensor in (x, weight, kwargs["residual"])]
    expected = conv_bn_act(*low[:2], bias, activation="relu", residual=low[2], gate=kwargs["gate"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(conv_bn_act(x, weight, bias, **kwargs), expected)
        direct = OPS.conv_bn_act(x, weight, bias, kwargs["residual"], kwargs["gate"], 1, 1, 1, 1, False)
        assert torch.equal(direct[0], expected)
        assert conv_bn_act(x, weight, bias, **kwargs, backend="eager").dtype == torch.bfloat16
        assert squeeze_excite(x, *se).dtype == torch.float32 and squeeze_excite(x.bfloat16(), *se).dtype == torch.bfloat16
        assert OPS.squeeze_excite(x, *[w.bfloat16() for w in se]).dtype == torch.float32
        assert se_gate(x.sum((2, 3)), *se, 63).dtype == torch.float32
        assert network(image, packed).dtype == torch.float32 and network(image.bfloat16(), packed).dtype == torch.float32
        assert network(image, packed_bf16).dtype == torch.bfloat16
        assert OPS.network(image, packed_bf16.weights, packed_bf16.params, packed_bf16.program).dtype == torch.bfloat16


class Everything(torch.nn.Module):
    """A network of packed stem and blocks, then each of the other ops."""

    def __init__(self):
        super().__init__()
        packed = small_network()
        self.stem, self.blocks = packed.slice(0, 1), packed.slice(1, 4)
        (_, weight, bias), _ = make_conv(ConvShape(1, 104, 24, 5, 5, 3, 1, 2), torch.float32)
        _, *se = make_squeeze_excite(testing.SeShape(1, 24, 6, 5, 5), torch.float32)
        for name, tensor in dict(weight=weight, bias=bias, w1=se[0], b1=se[1], w2=se[2], b2=se[3]).items():
            self.register_parameter(name, torch.nn.Parameter(tensor))
        for name in ("stem", "blocks"):  # as buffers, so that export and AOTInductor carry them
            self.register_buffer(name + "_weights", getattr(self, name).weights)
            self.register_buffer(name + "_params", getattr(self, name).params)

    def forward(self, x):
        x = OPS.network(x, self.stem_weights, self.stem_params, self.stem.program)
        x = OPS.network(x, self.blocks_weights, self.blocks_params, self.blocks.program)
        y, sums = conv_bn_act(x, self.weight, self.bias, groups=2, activation="silu", pool=True)
        y = squeeze_excite(y, self.w1, self.b1, self.w2, self.b2)
        gate = se_gate(sums, self.w1, self.b1, self.w2, self.b2, y.shape[2] * y.shape[3])
        return y.mean((2, 3)) * gate


@pytest.mark.compiles
def test_compile_fullgraph_with_inductor_and_dynamic_shapes():
    model = Everything()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for n, side in ((2, 24), (3, 32)):
            x = torch.randn(n, 3, side, side + 8)
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.compiles
def test_compile_fullgraph_with_gradients():
    """AOTAutograd traces the recomputing backward; Inductor would spend a minute on compiling the reference's convs."""
    model = Everything()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for n, side in ((2, 24), (3, 32)):
        x = torch.randn(n, 3, side, side + 8, requires_grad=True)
        leaves = [x, model.weight, model.w1]
        expected, actual = model(x), compiled(x)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
        want, got = (torch.autograd.grad(out.pow(2).sum(), leaves) for out in (expected, actual))
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


@pytest.mark.compiles
def test_compile_of_the_public_functions_takes_packed_networks():
    packed = small_network()
    compiled = torch.compile(lambda x: bottleneck(network(x, packed.slice(0, 2)), packed.slice(2, 3)), fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 24, 16)
    torch.testing.assert_close(compiled(x), network(x, packed.slice(0, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.compiles
def test_export_with_dynamic_batch_and_an_aotinductor_package_in_a_fresh_process(tmp_path):
    model = Everything().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        program = torch.export.export(model, (torch.randn(2, 3, 24, 32),), dynamic_shapes=({0: batch},))
        targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        assert {f"regnet_kernels.{op}.default" for op in ("network", "conv_bn_act", "squeeze_excite", "se_gate")} <= targets
        x = torch.randn(5, 3, 24, 32)
        expected = model(x)
        torch.testing.assert_close(program.module()(x), expected, rtol=1e-4, atol=1e-5)
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    torch.save({"x": x, "expected": expected}, tmp_path / "sample.pt")
    script = f"""
import torch, regnet_kernels
sample = torch.load({str(tmp_path / "sample.pt")!r}, weights_only=True)
model = torch._inductor.aoti_load_package({package!r})
for n in (5, 1):
    torch.testing.assert_close(model(sample["x"][:n]), sample["expected"][:n], rtol=1e-4, atol=1e-5)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, timeout=300)


def test_conv_step_keeps_the_stem_in_float32():
    """Rounding the stem's weights to bfloat16 would cost accuracy on the very pixels; only its output is rounded."""
    new = testing.make._Normal(0, "cpu")
    step = ConvStep(new(32, 3, 3, 3, fan_in=27), new(32), 2, 1, 1, "relu")
    x = torch.randn(2, 3, 15, 17).bfloat16()
    y = network(x, pack_network([step], torch.bfloat16))
    exact = conv_bn_act(x.double(), step.weight.double(), step.bias.double(), stride=2, activation="relu", backend="eager")
    assert testing.relative_error(y, exact) <= testing.FLOOR[torch.bfloat16]
