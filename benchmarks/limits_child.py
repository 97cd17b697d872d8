"""One measurement of limits.py in a process of its own: `python benchmarks/limits_child.py '{"what": ..., ...}'` prints JSON.

Each peer imports what it needs to run a model and nothing else: ONNX Runtime and OpenVINO do without torch.
"""

import json
import sys
import time
from pathlib import Path

CALLS = 6  # at least; a steady state needs no more


def resident() -> float:
    """MiB that are resident now."""
    return _status("VmRSS:")


def peak() -> float:
    """MiB that were resident at most since the process began."""
    return _status("VmHWM:")


def _status(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def memory(peer: str, model: str, threads: int, batch: int, onnx: str) -> dict:
    """Peak and steady memory of a process that gets one model of one peer ready and runs it."""
    run, base = {"onnxruntime": _onnxruntime, "openvino": _openvino}.get(peer, _torch)(peer, model, threads, batch, onnx)
    for _ in range(CALLS):
        run()
    return {"peak_mib": peak(), "steady_mib": resident(), "import_mib": base}


def _torch(peer: str, name: str, threads: int, batch: int, onnx: str):
    import torch

    base = resident()
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    from regnet.models import create_model

    model, x = create_model(name).eval(), torch.zeros(batch, 3, 224, 224)
    if peer.startswith("ours"):
        import regnet

        model = regnet.optimize(model, inplace=peer == "ours")  # by name `model` the original is gone in either case
    elif peer != "eager":
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    if peer == "compile":
        import torch._inductor.config as inductor

        inductor.freezing = True
        model = torch.compile(model, dynamic=False)
    return (lambda: model(x)), base


def _onnxruntime(peer: str, name: str, threads: int, batch: int, onnx: str):
    import numpy
    import onnxruntime

    base, options = resident(), onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    options.add_free_dimension_override_by_name("batch", batch)
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: numpy.zeros((batch, 3, 224, 224), numpy.float32)}
    return (lambda: session.run(None, feed)), base


def _openvino(peer: str, name: str, threads: int, batch: int, onnx: str):
    import numpy
    import openvino

    base, core = resident(), openvino.Core()
    model = core.read_model(onnx)
    model.reshape([batch, 3, 224, 224])
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    del model
    x = numpy.zeros((batch, 3, 224, 224), numpy.float32)
    return (lambda: request.infer({0: x}, share_inputs=True, share_outputs=True)), base


def export(model: str, onnx: str) -> dict:
    """The model as an ONNX file with a free batch size."""
    import warnings

    import torch

    from regnet.models import create_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(create_model(model).eval(), (torch.zeros(2, 3, 224, 224),), onnx, dynamo=False, input_names=["image"],
                          output_names=["logits"], dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}})  # fmt: skip
    return {}


def optimize(model: str, threads: int, inplace: bool) -> dict:
    """Seconds of the first `optimize` of a process, and MiB that it took on top of the model at most."""
    import torch

    import regnet

    torch.set_num_threads(threads)
    source = regnet.create_model(model).eval()
    regnet.optimize  # its import belongs to `import regnet`
    before = resident()
    start = time.perf_counter()
    regnet.optimize(source, inplace=inplace)
    return {"seconds": time.perf_counter() - start, "extra_mib": max(0.0, peak() - before)}


def first_call(model: str, threads: int, batch: int) -> dict:
    """Milliseconds of the first calls after `optimize`."""
    import torch

    import regnet

    torch.set_num_threads(threads)
    fused = regnet.optimize(regnet.create_model(model).eval())
    x, times = torch.randn(batch, 3, 224, 224), []
    with torch.inference_mode():
        for _ in range(CALLS):
            start = time.perf_counter()
            fused(x)
            times.append(1e3 * (time.perf_counter() - start))
    return {"first_ms": times[0], "second_ms": times[1], "calls_ms": times}


def overhead(model: str, threads: int, grad_mode: str) -> dict:
    """Microseconds of a forward pass of a network with as many steps as `model`, 8 channels wide, on an image of 1x1; and of its
    phases, which are what the kernels do. Medians of many calls."""
    from dataclasses import replace
    from statistics import median

    import torch

    import regnet
    from regnet.models import AnyNet, model_config

    torch.set_num_threads(threads)
    config = model_config(model)
    stages = len(config.depths)
    thin = replace(config, stem_width=8, widths=(8,) * stages, group_widths=(8,) * stages, bottleneck_ratios=(1.0,) * stages, num_classes=8)
    fused, x = regnet.optimize(AnyNet(thin).eval()), torch.zeros(1, 3, 1, 1)
    packed = fused.packed
    arguments = (x, packed.weights, packed.params, packed.program)
    with {"inference": torch.inference_mode, "no_grad": torch.no_grad, "grad": torch.enable_grad}[grad_mode]():
        forward, op = (_median_us(call) for call in (lambda: fused(x), lambda: torch.ops.regnet_kernels.network(*arguments)))
    phases = torch.ops.regnet_kernels._profile_network(*arguments, 1000)[:, 3:].sum(0)
    kernels = 1e6 * median(phases.tolist())
    return {"steps": len(packed), "forward_us": forward, "op_us": op, "kernels_us": kernels, "overhead_us": forward - kernels}


def _median_us(call, count: int = 1500) -> float:
    times = []
    for turn in range(count + 100):
        start = time.perf_counter()
        call()
        if turn >= 100:
            times.append(time.perf_counter() - start)
    return 1e6 * sorted(times)[count // 2]


def threads(model: str, batch: int, rounds: int) -> dict:
    """Milliseconds a batch on one thread and on two, by turns."""
    import torch

    import regnet
    from regnet.bench.timing import interleave

    fused, x = regnet.optimize(regnet.create_model(model).eval(), inplace=True), torch.randn(batch, 3, 224, 224)

    def on(count):
        def call():
            torch.set_num_threads(count)
            fused(x)

        return call

    with torch.inference_mode():
        found = interleave({"1": on(1), "2": on(2)}, rounds=rounds)
    one, two = found["1"], found["2"]
    return {"one_ms": one.median_ms, "two_ms": two.median_ms, "speedup": one.median_ms / two.median_ms, "best_speedup": one.best_ms / two.best_ms}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps({"memory": memory, "export": export, "optimize": optimize, "first-call": first_call, "overhead": overhead,
                      "threads": threads}[given.pop("what")](**given)))  # fmt: skip
