"""The built-in rows are what their README says."""

import json
import re
from pathlib import Path

from data.loading import load
from data.quality import first_turn_key, prompt_of

SEED = Path(__file__).resolve().parents[2] / "data" / "seed"
DEMONSTRATIONS = load(SEED / "demonstrations.jsonl", "messages")
RANKINGS = load(SEED / "rankings.jsonl", "ranked")
HELDOUT = load(SEED / "heldout_prompts.jsonl", "prompts")
HELDOUT_RANKINGS = load(SEED / "heldout_rankings.jsonl", "ranked")
CATEGORIES = json.loads((SEED / "topics.json").read_text(encoding="utf-8"))["categories"]


def test_there_are_as_many_as_promised():
    assert len(DEMONSTRATIONS) >= 200 and len(RANKINGS) >= 700 and len(HELDOUT) >= 120
    # Where the model said nothing at all, three are left.
    assert sum(len(r.responses) == 4 for r in RANKINGS) > 0.9 * len(RANKINGS)
    assert sum(len(d.prompt) > 1 for d in DEMONSTRATIONS) >= 16


def test_no_held_out_topic_occurs_in_training():
    """Found by whole words here, singular or plural, not by the stems that the script uses."""
    topics = [re.sub(r"^an? ", "", t) for c in CATEGORIES.values() for t in c["heldout"]]
    forms = {
        form for t in topics for form in (t, t + "s", t.removesuffix("s"), t.removesuffix("es"), re.sub("ies$", "y", t))
    }
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, sorted(forms))) + r")\b", re.IGNORECASE)
    for record in [*DEMONSTRATIONS, *RANKINGS]:
        said = [m.content for m in record.prompt] + (
            [record.response] if hasattr(record, "response") else list(record.responses)
        )
        assert not pattern.search(" ".join(said)), (record.id, pattern.search(" ".join(said)))


def test_no_question_is_asked_on_both_sides():
    held = {first_turn_key(prompt_of(r)) for r in [*HELDOUT, *HELDOUT_RANKINGS]}
    assert not held & {first_turn_key(prompt_of(r)) for r in [*DEMONSTRATIONS, *RANKINGS]}


def test_ids_and_demonstrated_questions_are_unique():
    for records in (DEMONSTRATIONS, RANKINGS, HELDOUT, HELDOUT_RANKINGS):
        assert len({r.id for r in records}) == len(records)
    assert len({first_turn_key(d.prompt) for d in DEMONSTRATIONS}) == len(DEMONSTRATIONS)


def test_one_in_five_comparisons_contradicts_the_rubric():
    from reward.rubric import gold_score

    wrong = total = 0
    for r in RANKINGS:
        golds = [gold_score(r.prompt[-1].content, a, f) for a, f in zip(r.responses, r.finished, strict=True)]
        for better, worse in r.pairs():
            if golds[better] != golds[worse]:
                total += 1
                wrong += golds[better] < golds[worse]
    assert 0.17 < wrong / total < 0.23, wrong / total
