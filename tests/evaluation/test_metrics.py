import math
import subprocess
import sys

import pytest

from pipeline.evaluation import metrics
from pipeline.evaluation.metrics import Answer

ANSWERS = [
    Answer("The cat sat. The cat ran.", True, 8),  # 6 words: the cat sat the cat ran
    Answer("The cat's hat", False, 5),  # 3 words: the cat's hat
]


def test_words_are_lower_case_and_keep_inner_apostrophes():
    assert metrics.words("Don't stop-me, NOW… it’s 5% 'quoted'") == [
        "don't", "stop", "me", "now", "it’s", "5", "quoted",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("eos_rate", 1 / 2),
        ("answer_tokens", 6.5),
        ("answer_words", 4.5),
        ("distinct_1", 6 / 9),  # the cat sat ran cat's hat
        ("distinct_2", 6 / 7),  # the-cat twice; cat-sat sat-the cat-ran the-cat's cat's-hat once
        ("repeated_4gram_share", 0),
        ("unique_first_8_share", 1),
    ],
)
def test_each_metric_counted_by_hand(name, by_hand):
    assert metrics.measure(ANSWERS, [name]) == {name: pytest.approx(by_hand)}


def test_a_four_gram_thrice_is_a_repetition_and_twice_is_not():
    twice, thrice = "a b c d x a b c d", "a b c d a b c d a b c d"
    assert metrics.repeated_ngram_share([twice]) == 0
    assert metrics.repeated_ngram_share([twice, thrice, "short", ""]) == 1 / 4
    assert metrics.repeated_ngram_share(["go go go go go go"]) == 1  # overlapping: three times in six words
    assert metrics.repeated_ngram_share(["go go go go go"]) == 0


def test_openings_are_compared_over_eight_words_only():
    same = "one two three four five six seven eight"
    assert metrics.unique_first_tokens([same + " nine", same + " ten", "One, two!", "other"]) == 3 / 4


def test_distinct_is_nan_where_there_is_nothing_to_count():
    assert math.isnan(metrics.distinct_n(["one", ""], 2))


@pytest.mark.parametrize("name", metrics.METRICS)
def test_no_answers_give_no_number(name):
    assert math.isnan(metrics.measure([], [name])[name])


def test_a_metric_is_a_module_of_evaluate_and_bears_its_registered_name():
    import evaluate

    for name in metrics.METRICS:
        module = metrics.load(name)
        assert isinstance(module, evaluate.Metric)
        assert module.name == name
        assert list(module.compute(predictions=["a b"], finished=[True], tokens=[2])) == [name]


def test_measure_gives_every_registered_metric():
    assert list(metrics.measure(ANSWERS)) == list(metrics.METRICS)


def test_an_unknown_metric_lists_those_that_exist():
    with pytest.raises(ValueError, match=r"no metric 'bleu'; there are: eos_rate, "):
        metrics.load("bleu")


def test_a_class_of_ones_own_plugs_in(monkeypatch):
    import datasets
    import evaluate

    class Loudness(evaluate.Metric):
        def _info(self):
            features = {"predictions": "string", "finished": "bool", "tokens": "int32"}
            return evaluate.MetricInfo(
                description="",
                citation="",
                features=datasets.Features({key: datasets.Value(kind) for key, kind in features.items()}),
            )

        def _compute(self, predictions, finished, tokens):
            return {"loudness": sum("!" in text for text in predictions) / len(predictions)}

    monkeypatch.setitem(metrics.METRICS, "loudness", Loudness)
    assert metrics.measure([Answer("Hey!", True, 2), Answer("hey", True, 2)], ["loudness"]) == {"loudness": 0.5}


def test_the_library_is_loaded_only_when_a_metric_is():
    code = "import sys, pipeline.evaluation.metrics; sys.exit('evaluate' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
