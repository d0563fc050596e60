"""The part of docs/gpu.md that `benchmarks/plan_counted.py` fills. It counts nothing itself."""

from __future__ import annotations

HEAD = """## The plan, held against tensors counted at full size

    python benchmarks/plan_counted.py

The code that trains, run without a card on weights that have a shape and no memory; every tensor is counted from the call that makes it
until nobody holds it. A test runs the same update with real weights: both counts agree to a thousandth. Rows have their full length, but
one of PPO's is a token shorter, so that padding is masked as in life. GB, without what a card keeps for itself, in either column. This is
no measurement on a card: it knows nothing of what kernels need inside (but for the 4-bit matrix that a product unpacks) and of blocks that
cannot be used again."""
FAMILIES = """The same with models of other families, all as `qwen3_0.6b_ultrafeedback` trains its own (`benchmarks/families.py` has their shapes,
from the published config.json of each). In PPO the plan counts a cache that keeps everything, also where layers with a window keep less."""
ROLES = """One base with four roles beside a model for each role, counted the same way, GB: two updates of 8 answers of 128 tokens to prompts of
128, all layers adapted, 8B with recomputing."""
PEER = """And the task of "Beside it at 8B" above, counted the same way, GB: random weights of Llama 3.1 8B's shape, 8 answers of 128 tokens an
update, two updates, all layers adapted, nothing recomputed. TRL's trainer runs as it is, with what torch asks of a device looked past."""
NAMES = {"135m": "135M", "8b": "8B"}
BITS = {"none": "bfloat16", "4bit": "4-bit"}


def counted_tables(found: dict) -> str:
    """Both tables, or that nothing was counted."""
    if not found:
        return "## The plan, held against tensors counted at full size\n\nNot counted."
    tables = plans(found["plans"], "config"), plans(found["families"], "family"), roles(found["roles"]), peer(found["peer"])
    return "\n\n".join(part for pair in zip((HEAD, FAMILIES, ROLES, PEER), tables, strict=True) for part in pair)


def plans(rows: list[dict], kind: str) -> str:
    lines = [f"| {kind} | stage | fullest moment | planned | counted | off by |", "|---|---|---|---:|---:|---:|"]
    for row in rows:
        moment = max(row["planned_moments"], key=row["planned_moments"].get)
        off = row["planned"] / row["counted"] - 1
        lines.append(
            f"| `{row[kind]}` | {row['stage']} | {moment} | {row['planned'] / 1e9:.2f} | {row['counted'] / 1e9:.2f} | {off:+.0%} |"
        )
    return "\n".join(lines)


def roles(rows: list[dict]) -> str:
    lines = ["|  | one base, four roles | a model each | ratio |", "|---|---:|---:|---:|"]
    for row in rows:
        one, separate = row["one"] / 1e9, row["separate"] / 1e9
        lines.append(f"| {NAMES[row['model']]}, {BITS[row['bits']]} | {one:.2f} | {separate:.2f} | **{one / separate:.2f}** |")
    return "\n".join(lines)


def peer(rows: list[dict]) -> str:
    theirs = next((row["counted"] for row in rows if row["side"].startswith("TRL")), None)
    lines = ["|  | counted | of TRL's |", "|---|---:|---:|"]
    for row in sorted(rows, key=lambda row: not row["side"].startswith("TRL")):
        ratio = f"**{row['counted'] / theirs:.2f}**" if theirs else "not counted"
        lines.append(f"| {row['side']} | {row['counted'] / 1e9:.2f} | {ratio} |")
    return "\n".join(lines)
