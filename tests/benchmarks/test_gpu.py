"""What surrounds the measurements on a GPU: they are kept one by one, told as they are, and packed for machines without a registry."""

import json
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu  # noqa: E402
import gpu_report  # noqa: E402
import gpu_work  # noqa: E402
import pack  # noqa: E402


def test_the_page_is_what_the_results_say():
    written = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert written == gpu_report.report(*map(gpu_report.read, gpu_report.SOURCES))


def test_what_was_not_measured_says_so_and_what_was_is_a_ratio():
    empty = gpu_report.measured({})
    assert "No card has been at hand yet." in empty and empty.count(gpu_report.NOT) > 20
    updates = [
        {"wall_s": s, "peak_gb": 9.0, "gpu_peak_gb": p, "score": 1.0} for s, p in ((9.0, 1.0), (2.0, 4.0), (2.0, 4.0))
    ]
    half = [{**u, "wall_s": u["wall_s"] / 2, "gpu_peak_gb": u["gpu_peak_gb"] / 4} for u in updates]
    found = {
        "machine": {"card": "X", "versions": {"torch": "1"}},
        "ceilings": [{"bf16_flops": 8e14, "copy_bytes": 4e12}],
        "memory": [{"model": "8b", "bits": "4bit", "way": w, "peak_bytes": b} for w, b in (("shared", 1e10), ("separate", 4e10))],
        "speed": [
            {
                "model": "8b", "bits": "none", "drawn_per_second": 1000.0, "read_bytes_per_second": 1e12,
                "learnt_per_second": 2000.0, "flops_per_second": 2e14,
            }
        ],
        "peer": [{"side": gpu_report.PEER, "updates": updates}, {"side": "all layers, bfloat16", "updates": half}],
    }  # fmt: skip
    told = gpu_report.measured(found)
    assert "| 8B, 4-bit | 10.00 | 40.00 | **0.25** |" in told
    assert "| 8B, bfloat16 | 1,000 | 25.0% | 2,000 | 25.0% |" in told
    # The first update, which warms up, does not count.
    assert "| all layers, bfloat16 | 1.00 | 1.00 | **0.50** | **0.25** | 1.00 |" in told


def test_the_plan_the_peer_at_8b_and_the_seeds_are_told_as_they_are():
    laps = [{"wall_s": 9.0, "peak_gb": 1.0, "gpu_peak_gb": 100.0, "score": 0.0}] * 3
    ours = [{**lap, "wall_s": 3.0, "gpu_peak_gb": 20.0} for lap in laps]
    entry = {"value": 0.5, "n": 9, "ci_low": 0.4, "ci_high": 0.6}
    told = gpu_report.measured(
        {
            "plan": [
                {
                    "stage": "ppo", "model": "8b", "bits": "4bit", "pass": 4, "prompt": 256, "answer": 256, "planned_bytes": 11e9,
                    "peak_bytes": 10e9, "planned_card_bytes": 12e9, "card_bytes": 15e9,
                }
            ],
            "peer8b": [{"side": gpu_report.PEER, "updates": laps}, {"side": "one base, 4-bit", "updates": ours}],
            "recipe": [{"seconds": 60.0, "rows": "given", "steps": {}, "seed": 0, "metrics": {"ppo.gold_minus_sft": entry}}],
            "seeds": [{"runs": [{"seed": 1, "metrics": {"ppo.gold_minus_sft": {**entry, "value": 0.7, "ci_low": None}}}]}],
            "checks": [{"said": "== 30 passed, 1 failed in 9s ==", "failures": ["FAILED tests/x.py::y"]}],
            "failed": {"speed model=8b": "Traceback\n  CUDA out of memory\n"},
        }
    )  # fmt: skip
    assert "| ppo, 8B, 4-bit, 4 a pass, 256 + 256 tokens | 11.00 | 10.00 | +10% | 12.00 | 15.00 | -20% |" in told
    assert "| one base, 4-bit | 3.00 | 20.00 | **0.33** | **0.20** |" in told
    assert "| `ppo.gold_minus_sft` | 0.500 (0.400 to 0.600) | 0.700 | 0.600 |" in told
    assert "30 passed, 1 failed in 9s." in told and "- FAILED tests/x.py::y" in told
    assert "- speed model=8b: CUDA out of memory" in told


def test_what_failed_is_kept_until_it_is_measured_and_takes_nothing_with_it(tmp_path):
    out, variant = tmp_path / "gpu.json", {"model": "8b"}
    gpu.keep(out, "ceilings", {}, {"bf16_flops": 1.0, "machine": {"card": "X"}})
    gpu.keep(out, "speed", variant, {"failed": "no memory"})
    kept = json.loads(out.read_text())
    assert kept["failed"] == {"speed model=8b": "no memory"} and kept["ceilings"] == [{"bf16_flops": 1.0}]
    assert kept["machine"] == {"card": "X"} and not gpu.known(out, "speed", variant)
    gpu.keep(out, "speed", variant, {"drawn_per_second": 2.0, "machine": {"card": "X"}})
    kept = json.loads(out.read_text())
    assert "failed" not in kept and kept["speed"] == [{"model": "8b", "drawn_per_second": 2.0}]


def test_what_takes_too_long_is_ended_with_all_that_it_began(tmp_path):
    """A grandchild that goes on would hold the card's memory beside the next variant."""
    mark = tmp_path / "alive"
    grandchild = f"import time, pathlib; time.sleep(3); pathlib.Path({str(mark)!r}).touch()"
    child = f"import subprocess, sys, time; print('begun', flush=True); subprocess.Popen([sys.executable, '-c', {grandchild!r}]); time.sleep(60)"
    began = time.monotonic()
    out, err = gpu.ended([sys.executable, "-c", child], 1.5)
    assert time.monotonic() - began < 20 and not out.startswith("FOUND") and "more than" in err
    time.sleep(max(0.0, began + 5 - time.monotonic()))
    assert not mark.exists()


def test_each_variant_is_kept_by_itself_and_replaces_its_own_alone(tmp_path):
    out = tmp_path / "gpu.json"
    for way, peak in (("shared", 1), ("separate", 2), ("shared", 3)):
        gpu.keep(out, "memory", {"model": "8b", "way": way}, {"peak_bytes": peak})
    kept = json.loads(out.read_text())
    assert sorted((r["way"], r["peak_bytes"]) for r in kept["memory"]) == [("separate", 2), ("shared", 3)]
    assert gpu.known(out, "memory", {"model": "8b", "way": "shared"}) and not gpu.known(out, "speed", {})
    assert kept["machine"]["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("bits", ["none", "4bit"])
def test_four_models_do_what_one_base_does(bits):
    """The same trainer over either: as many adapters, answers of full length, and weights of their own."""
    shape = gpu_work.SHAPES["tiny"]
    for separate in (False, True):
        torch.manual_seed(0)
        base = gpu_work.with_roles(
            lambda: gpu_work.random_base(shape, bits, torch.device("cpu"), recompute=False), separate=separate
        )
        ppo = gpu_work.trainer(base, rows=2, micro=1, prompt=5, answer=4, vocabulary=shape.vocabulary)
        with gpu_work.answers_without_end():
            figures, _ = ppo.update()
        assert figures["response_tokens"] == 4.0 and figures["kl"] == pytest.approx(0.0, abs=0.2 if separate else 0.0)
    held = {b.causal_lm.get_input_embeddings().weight.data_ptr() for b in base.bases.values()}
    assert len(held) == 4


def test_a_way_to_draw_that_hangs_or_fails_is_kept_and_the_rest_goes_on(monkeypatch):
    import gpu_parts

    from pipeline.rollouts.continuous import ContinuousEngine

    def hangs_or_refuses(self, *args, **kwargs):
        if self._record:
            self.refused = "no such model"
            return []
        threading.Event().wait(30)

    monkeypatch.setattr(ContinuousEngine, "sample", hangs_or_refuses)
    monkeypatch.setattr(gpu_parts, "WAY_LIMIT", 0.5)
    base = gpu_work.with_roles(
        lambda: gpu_work.random_base(gpu_work.SHAPES["tiny"], "none", torch.device("cpu"), recompute=False), separate=False
    )
    began = time.monotonic()
    found, failed = gpu_parts._other_ways(base, [[5, 6, 7], [8, 9]], 4, 1, continuous=True)
    assert not found and time.monotonic() - began < 20 and base.tokenizer.eos_token_id == 2
    assert failed == {"continuous": "TimeoutError: more than 0.5 s", "continuous, recorded": "RuntimeError: no such model"}
    monkeypatch.setattr(gpu_parts, "WAY_LIMIT", 60.0)
    found, failed = gpu_parts._other_ways(base, [[5, 6, 7], [8, 9]], 4, 1)
    assert found["fixed cache"] > 0 and not failed
    rates, words = {"loop": 2000.0, "continuous": 1000.0}, {"fixed cache": "Error: no\nmore"}
    told = gpu_report.ways({"speed": [{"model": "8b", "bits": "none", "ways": rates, "ways_failed": words}]})
    assert "| 8B, bfloat16 | 2,000 | – | 1,000 | – | – | – |" in told and told.endswith("- 8B, bfloat16, fixed cache: Error: no")


def test_counted_operations_are_those_that_torch_counts():
    """One forward pass of the bare layers, by torch's own counter, against the count's forward share."""
    from torch.utils.flop_counter import FlopCounterMode

    shape = gpu_work.SHAPES["tiny"]
    base = gpu_work.random_base(shape, "none", torch.device("cpu"), recompute=False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        base.causal_lm.get_decoder()(torch.randint(0, 260, (2, 32)))
    linear = 2 * 32 * shape.layers * 2 * shape.linear_parameters
    assert linear <= counter.get_total_flops() <= linear * 1.2
    update = gpu_work.update_flops(shape, 2, 16, 16, epochs=1, recompute=False)
    head = 2 * 16 * 2 * shape.vocabulary * shape.hidden
    attention = 2 * 32 * shape.layers * 2 * shape.query * 32
    # Four readings and two roles forward and backward, each twice a forward pass; the vocabulary five times.
    assert update == pytest.approx(8 * (linear + attention) + 5 * head)


def test_bytes_read_while_drawing_grow_with_what_was_drawn():
    shape = gpu_work.SHAPES["8b"]
    one, two = (gpu_work.decode_bytes(shape, "none", 1, 0, n) for n in (1, 2))
    # The second token reads all weights again, and the first one's keys and values: 128 KB in bfloat16.
    assert two - 2 * one == 2 * 1024 * 32 * 2
    assert gpu_work.decode_bytes(shape, "4bit", 1, 0, 1) < one / 2.5


def test_the_pack_takes_what_is_missing_and_slims_what_is_fat(tmp_path):
    lock = "# a\ntorch==2\nTRL==1.16.0\npytest==9\nannotated-types==0.8\n"
    assert pack.wanted(lock, ["Torch", "annotated_types"]) == ["TRL==1.16.0", pack.EMBEDDED]
    wheel = tmp_path / "bitsandbytes-1-py3-none-any.whl"
    names = [
        "bitsandbytes/a.py",
        "bitsandbytes/libbitsandbytes_cuda130.so",
        "bitsandbytes/libbitsandbytes_cuda118.so",
        "bitsandbytes/libbitsandbytes_cpu.so",
    ]
    with zipfile.ZipFile(wheel, "w") as file:
        for name in names:
            file.writestr(name, "x")
        file.writestr("b-1.dist-info/RECORD", "".join(f"{n},sha256=x,1\n" for n in names) + "b-1.dist-info/RECORD,,\n")
    pack.slim(wheel, "libbitsandbytes_cuda130.so")
    with zipfile.ZipFile(wheel) as file:
        left = set(file.namelist()) - {"b-1.dist-info/RECORD"}
        listed = {line.split(",")[0] for line in file.read("b-1.dist-info/RECORD").decode().splitlines()}
    assert left == {names[0], names[1], names[3]} == listed - {"b-1.dist-info/RECORD"}
    with pytest.raises(SystemExit, match="no libbitsandbytes_cuda999"):
        pack.slim(wheel, "libbitsandbytes_cuda999.so")


def test_pieces_join_to_what_was_cut(tmp_path):
    import subprocess

    (tmp_path / "wheels").mkdir()
    file = tmp_path / "wheels" / "big.bin"
    content = bytes(range(256)) * 40
    file.write_bytes(content)
    pack.cut(file, 1000)
    assert not file.exists() and len(list((tmp_path / "wheels").iterdir())) == 11
    # The joining half of the script; there is nothing here to install.
    joining = pack.UNPACK.partition("for folder in")[0]
    (tmp_path / "unpack.sh").write_text(joining)
    subprocess.run(["sh", str(tmp_path / "unpack.sh")], check=True)
    assert file.read_bytes() == content
