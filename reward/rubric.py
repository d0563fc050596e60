"""The gold score: a written-down rubric that stands in for people in the built-in, synthetic run.

It never reaches PPO. The built-in rankings are made from it with 20 % of their comparisons flipped; the reward model learns
from those, PPO from the reward model, and the evaluation asks the rubric what a clean rater would have said.

Six parts, each in [0, 1], weighted and summed to at most 6. Each is capped, so that no word and no trick wins the whole:

| part      | 1 means                                                                  | 0 means                           |
|-----------|--------------------------------------------------------------------------|-----------------------------------|
| finished  | the answer ended by itself and closes a sentence                         | cut off, or ends in mid-air       |
| concise   | 6 to 20 words                                                            | 2 words or fewer, 40 or more      |
| relevant  | it names what the question is about, in its first or second sentence     | no content word of the question   |
| direct    | starts with the answer                                                   | preamble, echo, talk about itself |
| varied    | no word pair comes back                                                  | a third of the word pairs repeat  |
| plain     | one paragraph of prose                                                   | lists, headings, markup, quotes   |

An answer of fewer than four words shows nothing of the last three and earns none of them.

What is left open on purpose: fluent nonsense about the topic scores as well as sense. A 135M model cannot be judged on truth
by rules, and a policy under pressure will find such a hole; the report shows every part so that a reader can see it happen.
"""

from __future__ import annotations

import re
from collections import Counter

PART_WEIGHTS = {"finished": 1.5, "concise": 1.5, "relevant": 1.0, "direct": 0.75, "varied": 0.75, "plain": 0.5}
# What earns a part its full share, for those who read the scores.
PART_MEANINGS = {
    "finished": "ended by itself and closes a sentence",
    "concise": "6 to 20 words",
    "relevant": "names what the question is about",
    "direct": "starts with the answer",
    "varied": "no word pair comes back",
    "plain": "one paragraph of prose",
}
MAXIMUM = sum(PART_WEIGHTS.values())
_FEWEST_WORDS = 4

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_END = re.compile(r"[.!?][\"')\]]*$")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_PREAMBLE = re.compile(
    r"^(sure|certainly|of course|great|good question|what a|absolutely|thank|hello|hi\b|let's|let us|let me|here is|here's|here are|"
    r"an? (good|great|wise|simple|interesting|classic) (question|example)|as an?|i\b|i'm|i'd|my\b|well,|okay|ok,|imagine|to answer|the question|"
    r"in this|this is a|when it comes to|one of the|another|there (is|are|was|were)\b|it is|it's)"
)
_MARKUP = re.compile(r"(^|\n)\s*([-*•#>]|\d+[.)])|\*\*|`|\n|:\s*$|[\"“”]")
# Words that carry no topic. A content word is anything else of three letters or more.
_STOP_WORDS = """
a about all an and any are as at be because been being but by can come could did do does each for from get give
gives good had has have he help her him his how i idea if in into is it its just know like long look make makes
many matter me mean mistake more most much my need needs new not of on one or other our out own people quick
real said see she short should simple so some someone such take takes tell than that the their them then there
these they thing this those time tip to too try up us use used very want was way we well were what when where
which while who why will with work works would year you your easiest common fact example everyday best better
child start buy keep last longer home goes visit week day hard
"""
_STOP = frozenset(_STOP_WORDS.split())


def rubric_parts(prompt: str, answer: str, finished: bool) -> dict[str, float]:
    """Each part of the score, in [0, 1].

    Args:
        prompt: the user's last question.
        answer: the answer's text.
        finished: whether the model ended the answer itself.
    """
    text = answer.strip()
    words = _WORD.findall(text.lower().replace("’", "'"))
    if not words:
        return dict.fromkeys(PART_WEIGHTS, 0.0)
    shown = float(len(words) >= _FEWEST_WORDS)
    return {
        "finished": float(finished and bool(_END.search(text))),
        "concise": _trapezoid(len(words), 2, 6, 20, 40),
        "relevant": _relevance(prompt, text),
        "direct": shown * _directness(prompt, text),
        "varied": shown * _variety(words),
        "plain": shown * (1.0 - min(1.0, len(_MARKUP.findall(text)) / 2)),
    }


def gold(parts: dict[str, float]) -> float:
    """Weighted sum of the parts, in [0, MAXIMUM]."""
    return sum(PART_WEIGHTS[name] * value for name, value in parts.items())


def gold_score(prompt: str, answer: str, finished: bool) -> float:
    return gold(rubric_parts(prompt, answer, finished))


def _trapezoid(x: float, zero_low: float, one_low: float, one_high: float, zero_high: float) -> float:
    """1 on [one_low, one_high], falling linearly to 0 at the outer ends."""
    rise = (x - zero_low) / (one_low - zero_low)
    fall = (zero_high - x) / (zero_high - one_high)
    return max(0.0, min(1.0, rise, fall))


def content_stems(text: str) -> list[str]:
    """Content words in order, reduced to a stem so that 'penguin' names 'penguins' and 'painted' names 'painting'."""
    return [_stem(w) for w in _WORD.findall(text.lower().replace("’", "'")) if w not in _STOP and len(w) > 2]


def _stem(word: str) -> str:
    for ending in ("'s", "ing", "ies", "es", "ed", "s", "y", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _relevance(prompt: str, text: str) -> float:
    """Share of the question's content words that the first two sentences name; the first half of them counts in full."""
    asked = set(content_stems(prompt))
    if not asked:
        return 1.0
    said = set(content_stems(" ".join(_SENTENCE.split(text)[:2])))
    return min(1.0, len(asked & said) / len(asked) / 0.5)


def _directness(prompt: str, text: str) -> float:
    """0 for a preamble, for a question back, and for an opening that repeats the question word for word."""
    opening = text.lower().replace("’", "'").lstrip("\"'“*# ")
    first = _SENTENCE.split(text)[0]
    asked, begun = _WORD.findall(prompt.lower()), _WORD.findall(first.lower())
    echo = len(begun) >= 4 and begun[:4] == asked[:4]
    return 0.0 if _PREAMBLE.match(opening) or first.endswith("?") or echo else 1.0


def _variety(words: list[str]) -> float:
    """1 − 3 × the share of word pairs that occurred before, not below 0."""
    pairs = Counter(zip(words, words[1:], strict=False))
    total = sum(pairs.values())
    if not total:
        return 1.0
    return max(0.0, 1.0 - 3.0 * (total - len(pairs)) / total)
