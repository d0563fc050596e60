"""Standard benchmarks by lm-evaluation-harness, for base, SFT and PPO: what a report is compared with elsewhere.

An optional extra: nothing else of a run needs it. Tasks come with that package (their data from the Hub) or from a directory of
one's own, whose YAML files name local rows and need no network.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data.errors import UserError
from pipeline.evaluation.cards import Card, Entry, is_finite, write_card
from pipeline.evaluation.gates import BENCHMARKS as NAME
from pipeline.evaluation.statistics import cluster_bootstrap, cluster_share, paired_difference, share_difference

POLICIES = ("base", "sft", "ppo")
INSTALL = "`pip install '.[benchmarks]'` brings it"
# Of lm-evaluation-harness, where a metric has no number for each question: ± so many of its standard errors.
_NORMAL = 1.959964


@dataclass(frozen=True)
class Result:
    """One metric of one task for one policy.

    Attributes:
        values: by question, where the metric has a number for each; else empty.
        value, stderr: as lm-evaluation-harness aggregates them; NaN where it has none.
    """

    task: str
    metric: str
    values: Mapping[Any, float]
    value: float
    stderr: float
    n: int


def require() -> None:
    """Raises UserError, in one line that says how to mend it, where lm-eval is not installed."""
    if find_spec("lm_eval") is None:
        raise UserError(f"--benchmarks: needs lm-eval, which is not installed here; {INSTALL}.")


def run(opened, tasks: Sequence[str], *, tasks_dir: Path | None = None, limit: int | None = None) -> Path:
    """Asks every finished policy of a run and writes `evaluation/benchmarks/card.json`. Returns the folder.

    Args:
        opened: the run; its lock is held meanwhile.
        tasks: names of tasks or groups.
        tasks_dir: YAML files of tasks of one's own, beside those that come with the package.
        limit: the first so many questions of each task.

    Raises:
        UserError: lm-eval is missing, a task does not exist, or its data cannot be had.
    """
    require()
    if tasks_dir is not None and not tasks_dir.is_dir():
        raise UserError(f"--tasks-dir: {tasks_dir} is no directory. Name the one that holds the tasks' YAML files.")
    with opened.lock():
        found = _ask_all(opened, tasks, tasks_dir, limit)
        target = opened.path / "evaluation" / NAME
        partial = target.with_name(f"{NAME}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_card(partial / "card.json", Card(NAME, tuple(entries(found))))
        made = {"lm_eval": _version(), "tasks": list(tasks), "limit": limit, "results": _plain(found)}
        (partial / "results.json").write_text(json.dumps(made, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    return target


def entries(found: Mapping[str, Sequence[Result]]) -> list[Entry]:
    """A card's entries: every metric of every policy, and what PPO gained or lost against SFT, question by question."""
    out = []
    for policy, results in found.items():
        for r in results:
            name = _name(policy, r)
            if r.values:
                mean = cluster_share if _right_or_wrong(r) else cluster_bootstrap
                value, low, high = mean(list(r.values.values()), list(r.values))
                out.append(Entry(name, value, len(r.values), low, high, note=f"{r.task}, interval over questions"))
            elif math.isfinite(r.stderr):
                ends = (r.value - _NORMAL * r.stderr, r.value + _NORMAL * r.stderr)
                out.append(Entry(name, r.value, r.n, *ends, note=f"{r.task}, ± 1.96 standard errors of lm-eval"))
            else:
                out.append(Entry(name, r.value, r.n, note=f"{r.task}, lm-eval gives no standard error"))
    known = {(p, r.task, r.metric): r for p, results in found.items() for r in results}
    for r in found.get("ppo", ()):
        before = known.get(("sft", r.task, r.metric))
        if before is not None and r.values and r.values.keys() == before.values.keys():
            asked = list(r.values)
            difference = share_difference if _right_or_wrong(r) and _right_or_wrong(before) else paired_difference
            change = difference([r.values[q] for q in asked], [before.values[q] for q in asked], asked)
            out.append(Entry(f"{_name('ppo', r)}_minus_sft", change.value, len(asked), change.low, change.high))
    return out


def _right_or_wrong(result: Result) -> bool:
    """A score of a question that is 1 or 0: the interval of their mean is that of a share."""
    return set(result.values.values()) <= {0.0, 1.0}


def read_results(raw: Mapping[str, Any]) -> list[Result]:
    """What `lm_eval.simple_evaluate` returned, a metric at a time."""
    out = []
    for task, samples in raw["samples"].items():
        aggregated = raw["results"][task]
        for key in aggregated:
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            rows = [s for s in samples if s.get("filter", "none") == chosen and metric in s]
            values = {s["doc_id"]: float(s[metric]) for s in rows if isinstance(s[metric], (bool, int, float))}
            if len(values) < len(rows) or not all(map(math.isfinite, values.values())):
                values = {}
            error = aggregated.get(f"{metric}_stderr,{chosen}")
            out.append(
                Result(
                    task,
                    metric if chosen == "none" else f"{metric}_{chosen}",
                    values,
                    float(aggregated[key]) if is_finite(aggregated[key]) else math.nan,
                    float(error) if is_finite(error) else math.nan,
                    len(rows),
                )
            )
    return out


def _ask_all(opened, tasks: Sequence[str], tasks_dir: Path | None, limit: int | None) -> dict[str, list[Result]]:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from pipeline.adapters import BASE
    from pipeline.roles import ADAPTER, open_base

    # It explains at length that the model was handed over and not loaded by name.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    config = opened.config
    base = open_base(config)
    folders = {p: opened.path / "stages" / p / ADAPTER for p in POLICIES}
    present = [p for p in POLICIES if p == "base" or folders[p].exists()]
    manager = TaskManager(include_path=str(tasks_dir) if tasks_dir else None)
    _refuse_unknown(tasks, manager.all_tasks, tasks_dir)
    for policy in present:
        if policy != "base":
            base.load(policy, folders[policy], trainable=False)
    # It reads with the model as it is, so whichever role acts is the one that is asked.
    reader = HFLM(pretrained=base.causal_lm, tokenizer=base.tokenizer, batch_size=config.evaluation.batch_size)
    found = {}
    for policy in present:
        with base.acting_as(BASE if policy == "base" else policy):
            try:
                raw = lm_eval.simple_evaluate(
                    model=reader,
                    tasks=list(tasks),
                    task_manager=manager,
                    limit=limit,
                    apply_chat_template=True,
                    system_instruction=config.model.system_prompt,
                    bootstrap_iters=0,
                    log_samples=True,
                    random_seed=config.seed,
                    numpy_random_seed=config.seed,
                    torch_random_seed=config.seed,
                    fewshot_random_seed=config.seed,
                )
            except (OSError, ValueError, KeyError, ImportError) as error:
                said = " ".join(str(error).split())[:200] or type(error).__name__
                raise UserError(
                    f"--benchmarks {','.join(tasks)}: lm-eval could not run them ({said}). Tasks that come with it fetch their data "
                    "from the Hub; local ones need --tasks-dir."
                ) from None
        found[policy] = read_results(raw)
    return found


def _refuse_unknown(tasks: Iterable[str], known: Sequence[str], tasks_dir: Path | None) -> None:
    from difflib import get_close_matches

    problems = []
    for task in tasks:
        if task in known:
            continue
        near = get_close_matches(task, known, n=1)
        guess = f"; did you mean '{near[0]}'?" if near else "."
        where = f" in lm-eval {_version()} or {tasks_dir}" if tasks_dir else f" in lm-eval {_version()}"
        problems.append(f"--benchmarks: no task '{task}'{where}{guess}")
    if problems:
        raise UserError(problems)


def _name(policy: str, result: Result) -> str:
    return re.sub(r"\W", "_", f"{policy}_{result.task}_{result.metric}")


def _plain(found: Mapping[str, Sequence[Result]]) -> dict[str, list[dict[str, Any]]]:
    def number(x: float) -> float | None:
        return x if math.isfinite(x) else None

    return {
        policy: [
            {
                "task": r.task,
                "metric": r.metric,
                "value": number(r.value),
                "stderr": number(r.stderr),
                "n": r.n,
                "by_question": {str(q): x for q, x in r.values.items()},
            }
            for r in results
        ]
        for policy, results in found.items()
    }


def _version() -> str:
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        return "of unknown version"
