"""The report's words for what gates ask and for the parts of the rubric."""

from pathlib import Path

import pytest
import yaml

from pipeline.evaluation.gates import ENDS
from pipeline.report.meanings import MEANINGS
from reward.rubric import PART_MEANINGS, PART_WEIGHTS, rubric_parts


@pytest.mark.parametrize("config", sorted(Path("configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_gate_of_a_shipped_config_is_told_in_words(config):
    for gate in yaml.safe_load(config.read_text(encoding="utf-8")).get("gates") or {}:
        metric = gate.split(".")[1]
        assert metric not in ENDS and metric in MEANINGS, gate


def test_what_earns_a_part_its_points_does():
    """An answer made to the words of each part has its full share, and one that breaks them has not."""
    assert PART_MEANINGS.keys() == PART_WEIGHTS.keys()
    question = "Why do cats sleep?"
    good = rubric_parts(question, "Cats sleep to save strength for the hunt at night.", True)
    assert good == dict.fromkeys(PART_MEANINGS, 1.0)
    bad = {
        "finished": ("Cats sleep to save strength for the", True),
        "concise": ("Cats sleep " + " ".join(f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(40)) + ".", True),
        "relevant": ("They save strength for the hunt at night.", True),
        "direct": ("Great question, cats save strength for the hunt.", True),
        "varied": ("Cats sleep, cats sleep, cats sleep, cats sleep.", True),
        "plain": ("- Cats sleep.\n- They save strength at night.", True),
    }
    for part, (answer, finished) in bad.items():
        assert rubric_parts(question, answer, finished)[part] < 1, part
