"""The tables and the plot of docs/feedback.md, from benchmarks/results/loop.json and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE, PLOT = ROOT / "docs" / "feedback.md", ROOT / "docs" / "feedback-loop.svg"
BEGIN, END = "<!-- loop -->", "<!-- end of loop -->"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 396, 56, 20, 16, 90
# Told apart by shape as well as by colour, which both light and dark pages show.
SERIES = (
    ("online", "20 updates, votes on candidates too", "#0b7285", "circle"),
    ("offline", "20 updates, votes on the start alone", "#d9480f", "square"),
    ("short", "10 updates", "#495057", "ring"),
    ("thumbs-offset", "20 updates, lone thumbs, reward model", "#7048e8", "triangle"),
    ("thumbs-kto", "lone thumbs, KTO", "#868e96", "diamond"),
)
# The same procedure as the arm that they are drawn with.
ALSO = {"again-0-20-updates": "offline", "again-1-20-updates": "offline", "again-2-20-updates": "online"}


def write(results: dict) -> None:
    """Replaces what stands between the marks, and the plot."""
    kinds = ROOT / "benchmarks" / "results" / "reward_votes.json"
    learned = of_kinds(json.loads(kinds.read_text(encoding="utf-8"))) if kinds.exists() else ""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{section(results)}\n{learned}\n{END}{after}", encoding="utf-8")
    PLOT.write_text(plot(results), encoding="utf-8")


def of_kinds(results: dict) -> str:
    """What `benchmarks/reward_votes.py` found."""
    lines = [
        "",
        "    python benchmarks/reward_votes.py    # the reward model alone, after votes of one kind on the same answers",
        "",
        "| learned from, beside the start's rankings | right on clean pairs of a candidate's answers | on the built-in held-out rankings |",
        "|---|---:|---:|",
    ]
    for name, found in results.items():
        lines.append(f"| {KINDS[name]} | {percent(found['on_policy'])} | {percent(found['held_out'])} |")
    return "\n".join([*lines, ""])


KINDS = {
    "none": "nothing",
    "pairs-60": "60 choices",
    "pairs-125": "125 choices",
    "pairs-250": "250 choices",
    "pairs-500": "500 choices",
    "thumbs-500": "500 thumbs, one a question",
    "thumbs-1000": "1,000 thumbs, on both answers of the 500 choices",
    "lazy-thumbs-500": "500 thumbs, half of them lazy, a threshold for each rater",
    "lazy-thumbs-500-one-threshold": "500 thumbs, half of them lazy, one threshold for all",
    "pairs-250-thumbs-250": "250 choices, and 250 thumbs on other questions",
}


def section(results: dict) -> str:
    """The tables."""
    start = results["start"]["cards"]
    lines = [
        f"Gold score of the start: {cell(start['ppo'].get('gold'))} (its SFT policy {cell(start['sft'].get('gold'))}, the base model "
        f"{cell(start['base'].get('gold'))}). Everything below is over the start, in points.",
        "",
        f"![Gold score over the start against the number of votes]({PLOT.name})",
        "",
        "| round | PPO updates | votes in all | new pairs | old reward model right on the new votes | clean accuracy of the new one | "
        "candidate − start | candidate − in service | promoted | in service − start | KL | minutes |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    lines += [_row(found["number"], found) for found in _of(results, "online")]
    others = [
        _other(name, found) for name, found in results.items() if not name.startswith(("start", "online", "again"))
    ]
    if others:
        lines += [
            "",
            "| what one round of 20 updates learned from | votes | pairs or thumbs | clean accuracy | candidate − start | promoted | KL | minutes |",
            "|---|---:|---:|---:|---:|---|---:|---:|",
            *others,
        ]
    anew = sorted((name, found) for name, found in results.items() if name.startswith("again"))
    again = [(name, found) for name, found in anew if not name.startswith("again-kto")]
    if again:
        lines += [
            "",
            "| PPO made anew | votes | candidate − start | − the round's own | − twenty updates without a vote | KL | minutes |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *(_again(name, found) for name, found in again),
        ]
    kto = [(name, found) for name, found in results.items() if name.startswith("thumbs") and name.endswith("-kto")]
    kto += [(name, found) for name, found in anew if name.startswith("again-kto")]
    if kto:
        lines += [
            "",
            "| KTO on lone thumbs | thumbs | candidate − SFT | candidate − start | KL | tokens an answer |",
            "|---|---:|---:|---:|---:|---:|",
            *(_kto(name, found, yaml.safe_load(results["start"]["config"])["kto"]) for name, found in kto),
        ]
    return "\n".join([*lines, "", *_power(results)])


def _kto(name: str, found: dict, settings: dict) -> str:
    """A row; `settings` are those that the arms have alike, and what was made anew has another rate, in its name, and one pass."""
    rate = name.removeprefix("again-kto-") if name.startswith("again") else f"{settings['learning_rate']}"
    passes = 1 if name.startswith("again") else settings["epochs"]
    ppo = found["candidate"]["ppo"]
    gains = f"{cell(ppo.get('gold_minus_sft'), sign=True)} | {cell(found['candidate_minus_start'], sign=True)}"
    return (
        f"| rate {rate}, {passes} {'pass' if passes == 1 else 'passes'} | {found['votes']} | {gains} | {_value(ppo.get('kl_to_reference'))} | "
        f"{_value(ppo.get('answer_tokens'))} |"
    )


def _again(name: str, found: dict) -> str:
    number = name.split("-")[1]
    of = f"round {number}" if int(number) else "the start"
    gains = [
        cell(found.get(over), sign=True) for over in ("candidate_minus_start", "minus_the_round", "minus_without_votes")
    ]
    kl = _value(found["candidate"]["ppo"].get("kl_to_reference"))
    return f"| {of}, {_words(name)} | {found['votes']} | {' | '.join(gains)} | {kl} | {found['minutes_round']:.0f} |"


def _power(results: dict) -> list[str]:
    """How small a gain the gate can see."""
    # A policy that is another one altogether, as the first by KTO, differs from the start as no candidate in doubt does.
    measured = [
        found["variances"] for name, found in results.items() if found.get("variances") and not name.endswith("-kto")
    ]
    if not measured:
        return []
    within, between = (sum(m[name] for m in measured) / len(measured) for name in ("within", "between"))
    lines = [
        "A gain that the gate can see, in points: 1.96 √((between + 2 within / k) / n), with the variance of the rubric among answers to one prompt "
        f"({within:.2f}) and of the true difference among prompts ({between:.2f}), means over the rounds by PPO above.",
        "",
        "| held-out prompts n | k = 2 answers a prompt | 4 | 8 |",
        "|---:|---:|---:|---:|",
    ]
    for n in (60, 150, 300):
        cells = " | ".join(f"{1.96 * ((between + 2 * within / k) / n) ** 0.5:.2f}" for k in (2, 4, 8))
        lines.append(f"| {n} | {cells} |")
    return lines


def _of(results: dict, arm: str) -> list[dict]:
    return sorted((f for n, f in results.items() if n.startswith(f"{arm}-")), key=lambda f: f["votes"])


def _row(label, found: dict) -> str:
    counts, candidate = found["counts"], found["candidate"]
    return (
        f"| {label} | {_updates(found)} | {found['votes']} | {counts['new_pairs']} | {percent(found['before'])} | "
        f"{percent(candidate['reward'].get('clean_accuracy'))} | {cell(found['candidate_minus_start'], sign=True)} | "
        f"{_gain(found['over_service'])} | {'yes' if found['promoted'] else 'no'} | {cell(found['service_minus_start'], sign=True)} | "
        f"{_value(candidate['ppo'].get('kl_to_reference'))} | {found['minutes_voting'] + found['minutes_round']:.0f} |"
    )


def _updates(found: dict) -> str:
    return next(s.partition("=")[2] for s in found["settings"] if s.startswith("ppo.updates="))


def _other(name: str, found: dict) -> str:
    counts, candidate = found["counts"], found["candidate"]
    learned = counts["new_pairs"] or counts.get("new_lone_thumbs", 0)
    return (
        f"| {_words(name)} | {found['votes']} | {learned} | "
        f"{percent(candidate['reward'].get('clean_accuracy'))} | {cell(found['candidate_minus_start'], sign=True)} | "
        f"{'yes' if found['promoted'] else 'no'} | {_value(candidate['ppo'].get('kl_to_reference'))} | "
        f"{found['minutes_voting'] + found['minutes_round']:.0f} |"
    )


WORDS = {
    "offline": "choices on the first assistant",
    "again-updates": "`ppo.updates: 20`",
    "again-from-service": "starting as the policy in service (`rounds.continue_policy: true`)",
    "lazy-open": "choices, half of them lazy, no cap",
    "lazy-capped": "choices, half of them lazy, `rounds.rater_share: 0.2`",
    "thumbs-offset": "lone thumbs: reward model",
    "thumbs-kto": "lone thumbs: KTO",
    "lazy-thumbs-offset": "lone thumbs, half of them lazy: reward model, a threshold for each rater",
    "lazy-thumbs-shared": "lone thumbs, half of them lazy: reward model, one threshold for all",
    "lazy-thumbs-kto": "lone thumbs, half of them lazy: KTO",
}


def _words(name: str) -> str:
    """A result's name without its number of votes, in words."""
    return WORDS["-".join(part for part in name.split("-") if not part.isdigit())]


def cell(entry: dict | None, *, sign: bool = False) -> str:
    if entry is None or entry["value"] is None:
        return "–"
    form = "{:+.2f}" if sign else "{:.2f}"
    value = form.format(entry["value"])
    if entry.get("ci_low") is None:
        return value
    return f"{value} ({form.format(entry['ci_low'])} to {form.format(entry['ci_high'])})"


def percent(entry: dict | None) -> str:
    if entry is None or entry["value"] is None:
        return "–"
    ends = "" if entry.get("ci_low") is None else f" ({entry['ci_low']:.0%} to {entry['ci_high']:.0%})"
    return f"{entry['value']:.0%}{ends}"


def _gain(found: dict | None) -> str:
    return "–" if found is None else f"{found['value']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"


def _value(entry: dict | None) -> str:
    return "–" if entry is None or entry["value"] is None else f"{entry['value']:.1f}"


# -- the plot ----------------------------------------------------------------------------------------------------------------


def points(results: dict) -> dict[str, list[tuple[float, float, float, float]]]:
    """(votes, gain over the start, low, high) by series."""
    found: dict[str, list] = {name: [] for name, *_ in SERIES}
    for name, result in results.items():
        gain = result.get("candidate_minus_start")
        arm, _, rest = name.partition("-")
        series = ALSO.get(name, f"thumbs-{rest.rpartition('-')[2]}" if arm == "thumbs" else arm)
        if arm == "online" and int(rest) <= 2:
            series = "short"
        if gain and series in found:
            found[series].append((result["votes"], gain["value"], gain["ci_low"], gain["ci_high"]))
    return {name: sorted(rows) for name, rows in found.items() if rows}


def plot(results: dict) -> str:
    """Gain over the start against votes, with 95 % intervals."""
    shown = points(results)
    rows = [row for own in shown.values() for row in own]
    right = max((x for x, *_ in rows), default=1) * 1.04
    cards = results["start"]["cards"]
    sft = cards["sft"]["gold"]["value"] - cards["ppo"]["gold"]["value"]
    # What lies far below SFT is written at the foot instead: its scale would hide all else.
    floor = sft - 0.25
    low, high = min([0.0, sft, *(max(a, floor) for *_, a, _ in rows)]) - 0.05, max([0.2, *(b for *_, b in rows)]) + 0.05
    x_at = lambda x: LEFT + 16 + x / right * (WIDTH - LEFT - RIGHT - 16)  # noqa: E731
    y_at = lambda y: HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)  # noqa: E731
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">',
        "<title>Gold score over the start against the number of votes, with 95 % intervals</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    step = 0.2 if high - low > 0.8 else 0.1
    tick = -(-low // step) * step
    while tick <= high:
        y = y_at(tick)
        strong = abs(tick) < 1e-9
        out.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{"#495057" if strong else "#dee2e6"}"/>'
        )
        out.append(
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#343a40">{"0" if strong else f"{tick:+.1f}"}</text>'
        )
        tick += step
    for x in (0, 500, 1000, 1500, 2000, 2500):
        if x <= right:
            out.append(
                f'<text x="{x_at(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" fill="#343a40">{x:,}</text>'
            )
    out.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - BOTTOM + 36}" text-anchor="middle" fill="#343a40">votes</text>'
    )
    out.append(f'<text x="14" y="{(TOP + HEIGHT - BOTTOM) / 2}" text-anchor="middle" fill="#343a40" '
               f'transform="rotate(-90 14 {(TOP + HEIGHT - BOTTOM) / 2})">gold score over the start, points</text>')  # fmt: skip
    # Where the policy stands that every PPO starts from.
    y = y_at(sft)
    out.append(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#868e96" stroke-dasharray="5 4"/>'
    )
    out.append(f'<text x="{WIDTH - RIGHT}" y="{y - 5:.1f}" text-anchor="end" fill="#495057">the SFT policy</text>')
    legend = 0
    for number, (name, words, colour, shape) in enumerate(SERIES):
        own = shown.get(name)
        if not own:
            continue
        # Side by side where several series have the same number of votes.
        shift = (number - 2) * 4
        deep = [(x_at(x) + shift, y) for x, y, _, b in own if b < low]
        at = [(x_at(x) + shift, y_at(y), y_at(max(a, low)), y_at(b)) for x, y, a, b in own if b >= low]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, *_ in at)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-opacity="0.6"/>')
        for x, y, a, b in at:
            out.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{a:.1f}" y2="{b:.1f}" stroke="{colour}" stroke-width="1.5"/>'
            )
            out.append(_mark(shape, x, y, colour))
        for x, y in deep:
            out.append(
                f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM - 6}" text-anchor="middle" fill="{colour}">↓ {y:+.2f}</text>'
            )
        place = LEFT + (legend % 2) * 340, HEIGHT - 38 + (legend // 2) * 16
        out.append(_mark(shape, place[0] + 6, place[1] - 4, colour))
        out.append(f'<text x="{place[0] + 18}" y="{place[1]}" fill="#343a40">{words}</text>')
        legend += 1
    return "\n".join([*out, "</svg>", ""])


def _mark(shape: str, x: float, y: float, colour: str) -> str:
    around = {
        "square": [(-4, -4), (4, -4), (4, 4), (-4, 4)],
        "triangle": [(0, -5.5), (5, 4), (-5, 4)],
        "diamond": [(0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)],
    }
    if shape == "ring":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#ffffff" stroke="{colour}" stroke-width="2"/>'
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>'
    corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in around[shape])
    return f'<polygon points="{corners}" fill="{colour}"/>'
