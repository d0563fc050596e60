"""What surrounds the measurements on a GPU: they are kept one by one, told as they are, and packed for machines without a registry."""

import json
import sys
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
    assert written == gpu_report.report(gpu_report.read("gpu.json"), gpu_report.read("plan_check.json"))


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
