"""Benchmarks: whole models, single blocks and single kernels, ours beside eager PyTorch, oneDNN, torch.compile, ONNX Runtime and OpenVINO.

What all share: timing.py (how), machine.py (peak, bandwidths, where a row comes from), peers.py (who runs), accuracy.py, rows.py (CSV
files) and compare.py. Whole models, on photographs: images.py, sources.py, plan.py and run.py, results.py, tables.py, plot.py. Layer
shapes: shapes.py (as data), profile.py (our kernels' clock), ops.py, blocks.py, suite.py (a run that goes on where it stopped),
suite_tables.py.

    from regnet.bench.plan import Plan
    from regnet.bench.run import run
    results = run(Plan(models=("regnety_400mf",), batches=(1,)))
"""
