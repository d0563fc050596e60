"""KTO with TRL: the policy learns from thumbs alone, without pairs and without a reward model (Ethayarajh et al. 2024).

It stands in the place of PPO (`learner: kto`): the policy starts from SFT, the reference is SFT, and what it leaves is watched, judged and
served as PPO's is. The reward model is still trained, for the figures beside it; it does not reach this policy.
"""

from __future__ import annotations

import math
import random

from data.errors import UserError
from data.loading import load as load_records
from data.records import Thumb
from pipeline.adapters import SharedBase
from pipeline.context import context_of, no_room_to_read
from pipeline.lengths import ONE_QUESTION
from pipeline.memory import is_out_of_memory
from pipeline.ppo.watch import Watch
from pipeline.roles import ADAPTER, open_base
from pipeline.stages.kto_watch import Learner, Watching
from pipeline.stages.samples import Samples
from pipeline.stages.trl import shared_arguments, train
from pipeline.stages.watching import THUMBS, open_watch, write_report
from pipeline.stopping import steps_finish
from pipeline.template import prompt_ids, response_ids
from reward.test_model import sides

# The name under which TRL's trainer looks for the policy; it adds a frozen copy of it, "ref", for the reference.
_POLICY, _REFERENCE = "default", "ref"


def run(ctx) -> dict[str, float]:
    """Leaves `adapter/`, one line a step in `log.jsonl`, answers of every look in `samples.jsonl`, and in `detectors.json` what the
    failure detectors saw. After an alarm the policy is the one that they went back to."""
    config, settings = ctx.config, ctx.config.kto
    file = ctx.inputs["prepare"] / THUMBS
    if not file.exists():
        raise UserError("learner: kto, but there are no thumbs. Name a file in data.thumbs, or use learner: ppo.")
    base = open_base(config)
    base.load(_POLICY, ctx.inputs["sft"] / ADAPTER, trainable=True)
    # What teaches the test model teaches no policy that it judges.
    thumbs, _ = sides(load_records(file, "thumbs"), config.reward.test_share)
    rows = examples(thumbs, base.tokenizer, config)
    longest = max((len(row["prompt_ids"]) + len(row["completion_ids"]) for row in rows), default=0)
    if problems := no_room_to_read(context_of(base.causal_lm.config), "reward.max_tokens", "prompt with its answer", longest):
        raise UserError(problems)
    ups = sum(row["label"] for row in rows)
    if ups in (0, len(rows)):
        raise UserError(f"kto: the thumbs ({len(rows)}) are all {'up' if ups else 'down'}; it needs both kinds.")
    watch = open_watch(ctx, base, role=_POLICY, name="KTO", reference=_REFERENCE)
    lines = _train(ctx, base, rows, weights(ups, len(rows) - ups), watch)
    base.causal_lm.eval()
    write_report(ctx, watch)
    base.save(_POLICY, ctx.out / ADAPTER)
    return {
        "loss": sum(line["loss"] for line in lines) / len(lines),
        "steps": float(len(lines)),
        "updates_kept": float(len(lines) if watch.alarm is None else watch.kept_update),
        "thumbs_up": float(ups),
        "thumbs_down": float(len(rows) - ups),
        "kl_at_start": lines[0]["kl"],
        "passes": float(settings.epochs),
    }


def weights(ups: int, downs: int) -> tuple[float, float]:
    """λ_D and λ_U that let 👍 and 👎 count alike in all, λ_D n_D = λ_U n_U, the larger of them 1 (Ethayarajh et al. 2024, eq. 8)."""
    return min(1.0, downs / ups), min(1.0, ups / downs)


def examples(thumbs: list[Thumb], tokenizer, config) -> list[dict]:
    """Token ids by the project's one rendering, shuffled; each batch also has its answers moved on by one question.

    Those mismatched pairs are what the KL term is estimated on (the paper's z₀). TRL makes them from text that it has tokenised with the
    model's own template; here an answer that was cut off has no end, as it had none when it was judged. A question may have several
    thumbs: where the one before is of the same, the nearest before that of another lends its answer, from outside the batch if all of
    it asks the same, as a last batch of one always does.

    Raises:
        UserError: all thumbs are of one question.
    """
    rows = [
        {
            "prompt_ids": prompt_ids(tokenizer, t.prompt, system_prompt=config.model.system_prompt),
            "completion_ids": response_ids(tokenizer, t.response, finished=t.finished),
            "label": t.up,
        }
        for t in thumbs
    ]
    random.Random(config.seed).shuffle(rows)
    size = config.kto.batch_size
    for number, row in enumerate(rows):
        first, place = number - number % size, number % size
        lender = _lender(rows[first : first + size], place) or _lender(rows, number)
        if lender is None:
            raise UserError(ONE_QUESTION.format(thumbs=len(rows)))
        row["KL_completion_ids"] = lender["completion_ids"]
    return rows


def _lender(rows: list[dict], place: int) -> dict | None:
    """The nearest row before, round and round, of another question."""
    before = (rows[place - back] for back in range(1, len(rows)))
    return next((other for other in before if other["prompt_ids"] != rows[place]["prompt_ids"]), None)


def _train(
    ctx, base: SharedBase, rows: list[dict], balance: tuple[float, float], watch: Watch
) -> list[dict[str, float]]:
    from trl import KTOTrainer

    class Prepared(KTOTrainer):
        """TRL's trainer on rows that are token ids already, with a reference that stays what it is."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for parameter in base.parameters(_REFERENCE):
                parameter.requires_grad_(False)

        def _prepare_dataset(self, dataset, *args, **kwargs):
            return dataset

    settings = ctx.config.kto
    steps = math.ceil(len(rows) / settings.batch_size) * settings.epochs
    arguments = _arguments(ctx, base, balance)
    watching = Watching(watch, Learner(base, _POLICY, settings, steps), Samples(ctx.out))
    with ctx.progress(steps, "KTO", unit="steps") as bar, steps_finish():
        try:
            lines = train(
                ctx, base, _POLICY, Prepared, arguments, rows, bar, stage="kto", line_of=_line, onlooker=watching
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"kto: out of memory with {settings.batch_size} thumbs a step. They cannot be read in smaller passes: the KL term is estimated "
                "among them. Lower kto.batch_size or reward.max_tokens, or set model.gradient_checkpointing."
            ) from None
    watching.roll_back()
    return lines


def _arguments(ctx, base: SharedBase, balance: tuple[float, float]):
    from trl import KTOConfig

    settings = ctx.config.kto
    return KTOConfig(
        **shared_arguments(ctx, base, settings),
        per_device_train_batch_size=settings.batch_size,
        beta=settings.beta,
        desirable_weight=balance[0],
        undesirable_weight=balance[1],
        # Nothing is cut: what is too long for the reward model was left out and counted.
        max_length=None,
        train_sampling_strategy="sequential",
    )


def _line(step: int, logs) -> dict[str, float]:
    """What the trainer says of a step beside the loss. A batch of one kind of thumb has no margin."""
    said = {"kl": logs["kl"], "margin": logs.get("rewards/margins", math.nan)}
    return {"update": step - 1, **{name: float(value) for name, value in said.items() if math.isfinite(value)}}
