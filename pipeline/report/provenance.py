"""How a run was made: settings, versions, times, and the hashes of its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.evaluation.cards import is_finite
from pipeline.report.facts import Facts
from pipeline.report.wording import duration


def seconds_of(manifest: Mapping[str, Any] | None) -> float | None:
    return (manifest or {}).get("environment", {}).get("seconds")


def run_facts(facts: Facts) -> list[tuple[str, str]]:
    """How the run was made: (name, value). What differs between stages is listed with all its values."""
    environments = [m.get("environment", {}) for m in (*facts.manifests.values(), *facts.evaluations.values())]
    config = facts.config
    out = [("Run", facts.run)]
    for name, path in (
        ("Seed", "seed"),
        ("Model", "model.name"),
        ("Number format asked for", "model.dtype"),
        ("Quantization", "model.quantization"),
    ):
        value = config
        for part in path.split("."):
            value = getattr(value, part, None)
        if value is not None:
            out.append((name, str(value)))
    for name, key in (("Number format", "dtype"), ("Device", "device"), ("Commit", "commit")):
        seen = dict.fromkeys(str(e[key]) for e in environments if e.get(key))
        if seen:
            out.append((name, ", ".join(seen)))
    started = sorted(str(e["started_utc"]) for e in environments if e.get("started_utc"))
    if started:
        out.append(("Started (UTC)", started[0]))
    spent = [e["seconds"] for e in environments if is_finite(e.get("seconds"))]
    if spent:
        out.append(("Time in stages and evaluations", duration(sum(spent))))
    peaks = [e["peak_memory_bytes"] for e in environments if is_finite(e.get("peak_memory_bytes"))]
    if peaks:
        out.append(("Peak memory", f"{max(peaks) / 1e9:.2f} GB"))
    versions: dict[str, dict[str, None]] = {}
    for environment in environments:
        for package, version in (environment.get("versions") or {}).items():
            versions.setdefault(package, {})[str(version)] = None
    if versions:
        out.append(("Versions", ", ".join(f"{name} {' / '.join(seen)}" for name, seen in versions.items())))
    evaluation = config.evaluation
    told = [
        f"{getattr(evaluation, key)} {said}"
        for key, said in (("samples_per_prompt", "answers a prompt (base: 1)"), ("max_new_tokens", "tokens at most"))
        if getattr(evaluation, key, None) is not None
    ]
    if getattr(evaluation, "temperature", None) is not None:
        told.append(f"temperature {evaluation.temperature}")
    if told:
        out.append(("Evaluation", ", ".join(told)))
    return out


def data_hashes(facts: Facts) -> list[tuple[str, str]]:
    """(file, sha256) of every data file that a manifest names: inputs read, and what `prepare` made of them."""
    found: dict[str, str] = {}
    for manifest in facts.manifests.values():
        files = manifest.get("files") or {}
        pairs = files.items() if isinstance(files, dict) else ((f.get("path"), f.get("sha256")) for f in files)
        found |= {str(name): str(digest) for name, digest in pairs if digest}
    for artifact in facts.manifests.get("prepare", {}).get("artifacts", ()):
        found[f"prepare/{artifact['path']}"] = artifact["sha256"]
    return list(found.items())
