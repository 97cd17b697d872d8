"""Choices of the CPU kernels: that they change the plan and not the result, their file, the search with a stub for a clock, `regnet tune`."""

import copy
import json
import multiprocessing
import warnings

import pytest
import regnet
import torch
from regnet.cli import main
from regnet.models import AnyNet, AnyNetConfig
from regnet_kernels import env_report, tuning
from regnet_kernels._extension import CPU, CPU_INFO
from regnet_kernels.tuning import cpu
from regnet_kernels.tuning.cpu import store, table, tuner
from regnet_kernels.tuning.cpu.layer import BLOCK, DIRECT, HEAD, PAIRS, PLAIN, WINOGRAD

pytestmark = pytest.mark.skipif(not CPU.loaded, reason="needs the CPU kernels, whose choices these are")
CONFIG = AnyNetConfig(stem_width=16, depths=(2, 2), widths=(24, 48), group_widths=(24, 24), strides=(1, 2), se_ratio=0.25, num_classes=10)
KNOWN = cpu.CpuIdentity("Some CPU, family 1", 4, "avx2", "0.1", "abc")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REGNET_KERNELS_CACHE_DIR", str(tmp_path))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    cpu.forget()
    yield tmp_path
    torch.set_num_threads(before)
    monkeypatch.undo()
    cpu.forget()


@pytest.fixture(scope="module")
def fused():
    torch.manual_seed(0)
    return regnet.optimize(AnyNet(CONFIG).eval())


@pytest.fixture
def x():
    return torch.randn(5, 3, 56, 56)


def other_choice(made: cpu.Made) -> cpu.Choice:
    cuts = [(*(max(1, number // 2) for number in cut[:2]), PLAIN + PAIRS - cut.pairs if cut.pairs else 0) for cut in made[3:]]
    return cpu.Choice(made.group + 1, DIRECT + WINOGRAD - made.winograd if made.layer.winograd else 0, *cuts)


@torch.inference_mode()
def test_choices_change_the_plan_and_not_the_result(fused, x):
    heuristics, expected = [made for made, _ in cpu.layers(fused.packed, x)], fused(x)
    assert {made.winograd for made in heuristics} == {DIRECT, WINOGRAD}
    with table.trials() as install:
        chosen = {made.layer: other_choice(made) for made in heuristics}
        install(chosen)
        for made, before in zip(table.made_for(fused.packed, x), heuristics):
            assert made.layer == before.layer and (made != before or made.layer.kind == HEAD)  # a head of 10 channels has one way
            assert made.winograd == (chosen[made.layer].winograd or before.winograd)
            assert made.layer.kind != BLOCK or made.group == min(before.group + 1, 5)
        found = fused(x)  # of this shape a plan was kept
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
        assert not torch.equal(found, expected)
    assert torch.equal(fused(x), expected)
    for rows in ([1], [0] * 26 + [-1], [0] * 17 + [3] + [0] * 9, [0] * 26 + [3]):
        with pytest.raises(ValueError, match="choice"):
            torch.ops.regnet_kernels._set_cpu_choices(rows)


def entry(index: int, choice=cpu.Choice(2, WINOGRAD, (96, 2, PAIRS))) -> store.Entries:
    return {cpu.Layer(0, BLOCK, 24, 24, 24, 3, 1, 1, 8, 6, 0, 1, 56, 56, index, 2): store.Entry(choice, 1.0, 2.0)}


def write_some(path, first: int) -> None:
    for index in range(first, first + 10):
        store.merge(path, KNOWN, entry(index))


def test_the_file_is_shared_by_writers_and_a_broken_one_set_aside(folder):
    path = folder / KNOWN.file_name
    writers = [multiprocessing.get_context("fork").Process(target=write_some, args=(path, 100 * writer)) for writer in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert store.read(path) == {key: value for writer in range(3) for index in range(10) for key, value in entry(100 * writer + index).items()}
    name, value = next(iter(json.loads(path.read_text())["entries"].items()))
    assert name == "float32 block 24,24,24,3,1,1,8,6,0,1,56,56,0,2"
    for broken in ({"choice": [0, 3] + [0] * 9}, {"choice": [0] * 8}, {"choice": [0.5] + [0] * 10}, {"ms": None}, {"choice": [-1] + [0] * 10},
                   {"choice": [0] * 10 + [3]}):
        path.write_text(json.dumps({"format": store.FORMAT, "entries": {name: value | broken}}))
        with pytest.warns(RuntimeWarning, match="set aside"):
            assert store.read(path) == {}


@torch.inference_mode()
def test_a_choice_says_whether_a_1x1_goes_by_pairs():
    """Of 128 channels by themselves, of 64 if told so; of 16, less than a run, never, nor where pairs do not run at all."""
    torch.manual_seed(1)
    config = AnyNetConfig(stem_width=16, depths=(1, 2, 2), widths=(16, 64, 128), group_widths=(16, 16, 16), strides=(1, 2, 2), se_ratio=0, num_classes=10)
    packed, x = regnet.optimize(AnyNet(config).eval()).packed, torch.randn(2, 3, 64, 64)

    def run():
        return [(made.a.pairs, made.c.pairs) for made in table.made_for(packed, x)][1:-1], torch.ops.regnet_kernels.network(x, packed.weights, packed.params, packed.program)

    heuristics, expected = run()
    if not CPU_INFO.pairs:
        assert heuristics == [(0, 0)] * 5
        return
    assert heuristics == [(0, 0), (0, 0), (PLAIN, PLAIN), (PLAIN, PAIRS), (PAIRS, PAIRS)]
    with table.trials() as install:
        for wanted in (PLAIN, PAIRS):
            install({made.layer: cpu.Choice(a=(0, 0, wanted), c=(0, 0, wanted)) for made in table.made_for(packed, x)})
            done, found = run()
            assert done == [tuple(wanted if can else 0 for can in pair) for pair in heuristics]
            assert 0 < (found - expected).abs().max() <= 1e-5 * expected.abs().max()

    layers = [made.layer for made, _ in cpu.layers(packed, x)]

    def clock(choices):  # chosen plainly is faster in a, by pairs in c
        chosen = {layer: choices.get(layer, cpu.Choice()) for layer in layers}
        return {layer: (1 - (one.a[2] == PLAIN) / 2, 1.0, 1 - (one.c[2] == PAIRS) / 2, 0.1) for layer, one in chosen.items()}

    found = {tuned.layer: tuned.choice for tuned in cpu.tune(packed, x, clock=clock).layers}
    assert [(found[layer].a[2], found[layer].c[2]) for layer in layers][1:-1] == [(0, 0), (0, 0), (0, PAIRS), (0, 0), (PLAIN, 0)]


def test_what_was_tuned_is_read_before_the_first_network_and_only_for_this_machine(fused, x, folder):
    made = [made for made, _ in cpu.layers(fused.packed, x)]
    new = {one.layer: store.Entry(other_choice(one), 1.0, 2.0) for one in made[:2]}
    here = cpu.identity()
    assert len({here.file_name, *(here._replace(**{name: value * 2}).file_name for name, value in here._asdict().items())}) == 1 + len(here)
    store.merge(store.cache_file(here._replace(kernels="of another build")), here, new)
    cpu.forget()
    fused(x)
    assert cpu.entries() == {} and "heuristics" in env_report()
    store.merge(store.cache_file(here), here, new)
    cpu.forget()
    fused(x)  # nothing else asks for it
    assert [row[:4] for row in table.made_for(fused.packed, x)] != [row[:4] for row in made]
    assert [tuned for _, tuned in cpu.layers(fused.packed, x)] == [True, True] + [False] * (len(made) - 2)
    assert "2 layers" in env_report()
    assert cpu.clear() == 2 and cpu.entries() == {}
    store.cache_file(here).write_text("no JSON")
    cpu.forget()
    with pytest.warns(RuntimeWarning, match="set aside"):
        fused(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused(x)


def stub_clock(choices) -> tuner.Seconds:
    """Direct is twice as fast as Winograd, and small blocks of a are better, down to 20 pixels; choices for c are worse than none."""
    times = {}
    for layer in LAYERS:
        choice = choices.get(layer, cpu.Choice())
        block = choice.a[0] or 1000  # more than any heuristic's
        times[layer] = (max(block, 20) / 1000, 0.5 if choice.winograd == DIRECT else 1.0, 2.0 if choice.c[0] else 1.0, 0.1)
    return times


LAYERS: list[cpu.Layer] = []


def test_the_search_finds_what_gains_keeps_it_and_goes_on_after_an_interruption(fused, x):
    LAYERS[:] = dict.fromkeys(made.layer for made, _ in cpu.layers(fused.packed, x))
    first = fused.packed.slice(0, 2)
    found = cpu.tune(first, x, clock=stub_clock)
    assert all(layer.measured for layer in found.layers) and found.failed == 0 and found.ms < found.heuristic_ms
    for layer in found.layers:
        assert layer.choice.a[0] and layer.choice.c[:2] == (0, 0) and (layer.choice.winograd == DIRECT) == bool(layer.layer.winograd)
    kept = copy.deepcopy(cpu.entries())

    calls = []

    def interrupted(choices):
        calls.append(choices)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return stub_clock(choices)

    with pytest.raises(KeyboardInterrupt):
        cpu.tune(fused.packed, x, clock=interrupted)
    assert cpu.entries() == kept and [tuned for _, tuned in cpu.layers(fused.packed, x)][:2] == [True, True]
    again = cpu.tune(fused.packed, x, clock=stub_clock)
    assert [layer.layer for layer in again.layers if not layer.measured] == [layer.layer for layer in found.layers]
    assert {layer: value for layer, value in cpu.entries().items() if layer in kept} == kept
    assert cpu.tune(fused.packed, x, clock=stub_clock).trials == 1  # all is known: the network is timed and nothing tried


def test_what_is_no_gain_or_no_steady_one_is_not_taken():
    assert tuner.gain([1.0] * 5, [0.97] * 5) == 0.97
    assert tuner.gain([1.0] * 5, [0.9, 0.9, 0.9, 0.9, 3.0]) == 0.9
    assert tuner.gain([1.0] * 5, [0.99] * 5) == tuner.gain([1.0] * 5, [0.9, 0.9, 0.9, 1.1, 1.1]) == tuner.gain([0.0] * 5, [0.0] * 5) == 1
    assert tuner.neighbours(cpu.Cut()) == [] and tuner.neighbours(cpu.Cut(10, 1, 10, 1)) == [(5, 1)]
    assert set(tuner.neighbours(cpu.Cut(25, 2, 100, 8))) == {(13, 2), (50, 2), (25, 4), (25, 1), (13, 1), (50, 4)}


def test_the_command_tunes_shows_and_forgets(folder, capsys, monkeypatch):
    monkeypatch.setattr(tuner, "ROUND_SECONDS", 0.001)
    arguments = ["tune", "--models", "regnetx_200mf", "--batches", "1,2", "--threads", "1", "--resolution", "32", "--json"]
    assert main(arguments) == 0
    done = json.loads(capsys.readouterr().out)
    assert [(row["batch"], row["measured"]) for row in done["rows"]] == [(1, done["rows"][0]["layers"]), (2, done["rows"][0]["layers"])]
    assert main(arguments) == 0
    assert [row["measured"] for row in json.loads(capsys.readouterr().out)["rows"]] == [0, 0]
    assert main(["tune", "--show"]) == 0
    assert "layers measured" in capsys.readouterr().out

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(cpu, "tune", stop)
    assert main(["tune", "--models", "regnetx_200mf"]) == 130
    assert "the same command goes on" in capsys.readouterr().out
    assert main(["tune", "--forget"]) == 0
    assert "layers forgotten" in capsys.readouterr().out and not list(folder.glob("*.json"))
    assert main(["tune"]) == 1 and "name the models" in capsys.readouterr().err


def test_where_nothing_can_be_kept_it_says_so(fused, x, folder, monkeypatch):
    (folder / "file").write_text("")
    monkeypatch.setenv("REGNET_KERNELS_CACHE_DIR", str(folder / "file"))
    cpu.forget()
    LAYERS[:] = dict.fromkeys(made.layer for made, _ in cpu.layers(fused.packed, x))
    with pytest.raises(tuning.TuningError, match="set REGNET_KERNELS_CACHE_DIR"):
        cpu.tune(fused.packed, x, clock=stub_clock)
    with pytest.raises(tuning.TuningError, match="no images"):
        cpu.tune(fused.packed, x[:0])
