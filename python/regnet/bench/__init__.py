"""Benchmarks of whole models: ours beside eager PyTorch, torch.compile, ONNX Runtime and OpenVINO, on real photographs.

images.py (input), sources.py (models), peers.py (who runs), timing.py (how), machine.py (the floor), accuracy.py (parity of
logits), plan.py and run.py (the run), results.py, tables.py and plot.py (what comes out).

    from regnet.bench.plan import Plan
    from regnet.bench.run import run
    results = run(Plan(models=("regnety_400mf",), batches=(1,)))
"""
