"""The reward model: rankings of answers become an adapter, a scalar head and a scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from data.errors import UserError
from data.loading import load as load_records
from data.numbers import many
from data.records import Ranking, Thumb
from pipeline import checkpoint
from pipeline.adapters import SharedBase
from pipeline.context import context_of, no_room_to_read
from pipeline.memory import MicroBatch, release
from pipeline.roles import (
    ADAPTER,
    MEMBER,
    TEST_MODEL,
    TEST_REWARD,
    RewardModel,
    member_folder,
    member_role,
    open_base,
    raw_scores,
)
from pipeline.stopping import asked, steps_finish, stop_if_asked
from pipeline.template import prompt_ids, response_ids
from reward.model import ScalarHead
from reward.scale import Scale
from reward.test_model import sides
from reward.thumbs import EncodedThumbs, rater_offsets
from reward.train import EncodedRanking, total_steps, train

# Far from the seeds that a user counts up through, so that no member of one run is a member of another.
MEMBER_SEED_STEP = 7919


def run(ctx) -> dict[str, float]:
    """Starts from the SFT adapter, as InstructGPT's did from its SFT model. Leaves `adapter/`, the head and the scale; with
    `reward.test_share` the same of the test model in a folder of its own."""
    config, settings = ctx.config, ctx.config.reward
    base = open_base(config)
    share = settings.test_share
    rankings = sides(load_records(ctx.inputs["prepare"] / "rankings.train.jsonl", "ranked"), share)
    own_thumbs, kept_thumbs = (encode_thumbs(base, thumbs, config) for thumbs in sides(_thumbs(ctx), share))
    encoded, unused = _encoded(base, rankings[0], config, "reward model")
    # Before anything is trained: whoever sets too small a share is told at once.
    kept, kept_unused = _encoded(base, rankings[1], config, "test model") if share else ([], {})
    steps = total_steps(len(encoded) + len(own_thumbs), settings)
    places = [_Place(member_role(i), f"{MEMBER}{i}", i, i * steps) for i in range(settings.members)]
    members = [_member(ctx, base, encoded, own_thumbs, place) for place in places]
    for index, member in enumerate(members):
        member.save(member_folder(ctx.out, index))
    tested = {}
    if share:
        place = _Place(TEST_REWARD, TEST_MODEL, settings.members, settings.members * steps)
        _member(ctx, base, kept, kept_thumbs, place).save(ctx.out / TEST_MODEL)
        tested = {"test_model_rankings": float(len(kept)), "test_model_pairs": float(sum(len(r.pairs) for r in kept))}
        unused = {reason: count + kept_unused[reason] for reason, count in unused.items()}
    return {
        "rankings": float(len(encoded)),
        "pairs": float(sum(len(r.pairs) for r in encoded)),
        "all_tied": float(unused["tied"]),
        "too_long": float(unused["too_long"]),
        **tested,
        **({"thumbs": float(sum(len(t.ups) for t in own_thumbs))} if own_thumbs else {}),
        "members": float(len(members)),
        "raw_mean": members[0].scale.mean,
        "raw_std": members[0].scale.std,
    }


@dataclass(frozen=True)
class _Place:
    """Where a reward model stands.

    Attributes:
        role: of its adapter.
        folder: of its checkpoints.
        index: among those that are trained one after the other, which its chance goes by.
        before: steps of the others before it, from which the log counts on.
    """

    role: str
    folder: str
    index: int
    before: int


def _encoded(base, rankings: Sequence[Ranking], config, name: str) -> tuple[list[EncodedRanking], dict[str, int]]:
    share = config.reward.test_share
    encoded, unused = encode_rankings(base, rankings, config)
    longest = max((len(r.prompt) + max(map(len, r.answers)) for r in encoded), default=0)
    if problems := no_room_to_read(context_of(base.causal_lm.config), "reward.max_tokens", "prompt with its answer", longest):
        raise UserError(problems)
    if encoded:
        return encoded, unused
    whose = f" for the {name}" if share else ""
    raise UserError(
        f"reward: none of {many(len(rankings), 'ranking')}{whose} can be used ({unused['tied']} all tied, {unused['too_long']} longer than "
        f"reward.max_tokens {config.reward.max_tokens})." + (f" reward.test_share is {share:g}." if share else "")
    )


def _thumbs(ctx) -> list[Thumb]:
    """Lone thumbs, where they are to be learned from."""
    if not ctx.config.reward.thumbs_weight:
        return []
    file = ctx.inputs["prepare"] / "thumbs.train.jsonl"
    if not file.exists():
        raise UserError(
            f"reward.thumbs_weight: {ctx.config.reward.thumbs_weight:g}, but there are no thumbs. Name a file in data.thumbs."
        )
    return load_records(file, "thumbs")


def _member(
    ctx, base: SharedBase, encoded: list[EncodedRanking], thumbs: list[EncodedThumbs], place: _Place
) -> RewardModel:
    """One reward model, with a head and an order of the rankings of its own: what an ensemble differs in (Coste et al. 2023)."""
    config, settings = ctx.config, ctx.config.reward
    role, index, checkpoints = place.role, place.index, ctx.checkpoints / place.folder
    seed = config.seed + index * MEMBER_SEED_STEP
    steps = total_steps(len(encoded) + len(thumbs), settings)
    found = checkpoint.newest(checkpoints)
    torch.manual_seed(seed)
    if settings.start_from_sft:
        base.load(role, ctx.inputs["sft"] / ADAPTER, trainable=True)
    else:
        base.add(role, trainable=True)
    head = ScalarHead(base.hidden_size).to(base.device)
    label = "reward model" if settings.members == 1 else f"reward model {index + 1}/{settings.members}"
    if role == TEST_REWARD:
        label = "test model"
    micro = MicroBatch(settings.micro_lists, "reward.micro_lists", "reward.max_tokens")
    with ctx.progress(steps, label, unit="steps") as bar, steps_finish():
        lines = list(found[1]["lines"]) if found else []
        for line in lines:
            ctx.log(line)
        bar.advance(len(lines))

        def on_step(figures: dict[str, float], state) -> None:
            lines.append({"member": index, **figures, "step": place.before + figures["step"]})
            ctx.log(lines[-1])
            done = len(lines)
            if done % 10 == 0:
                release()
            bar.advance(1, loss=figures["loss"], accuracy=figures["accuracy"])
            due = settings.checkpoint_every and done % settings.checkpoint_every == 0
            # The last step is kept too: a later member may be the one that is interrupted.
            if due or done == steps or asked():
                checkpoint.save(checkpoints, done, state(), {"lines": lines})
            stop_if_asked()

        try:
            train(
                lambda lists: base.encode_lists(lists, role),
                head,
                base.parameters(role),
                encoded,
                settings,
                seed=seed,
                thumbs=thumbs,
                most=context_of(base.causal_lm.config),
                resume=(found[0], len(lines)) if found else None,
                on_step=on_step,
                in_parts=micro.attempt,
            )
        except FloatingPointError as error:
            raise UserError(str(error)) from None
    reference = [r.prompt + answer for r in encoded[: settings.scale_lists] for answer in r.answers]
    with ctx.progress(len(reference), "reward scale", unit="answers") as bar:
        raw = raw_scores(lambda sequences: base.encode(sequences, role), head, reference, on_batch=bar.advance)
    try:
        scale = Scale.of(raw)
        return RewardModel(base, head, scale, role, seen=scale(raw).tolist())
    except ValueError as error:
        raise UserError(str(error)) from None


def encode_thumbs(base: SharedBase, thumbs: Sequence[Thumb], config) -> list[EncodedThumbs]:
    """Thumbs as token ids, prompt by prompt, with the offset of each rater."""
    offsets = rater_offsets(((t.rater, t.up) for t in thumbs), prior=config.reward.thumbs_rater_prior)
    by_prompt: dict[tuple, list[Thumb]] = {}
    for thumb in thumbs:
        by_prompt.setdefault(thumb.prompt, []).append(thumb)
    encoded = []
    for prompt, own in by_prompt.items():
        ids = prompt_ids(base.tokenizer, prompt, system_prompt=config.model.system_prompt)
        answers = tuple(tuple(response_ids(base.tokenizer, t.response, finished=t.finished)) for t in own)
        ups = tuple(t.up for t in own)
        encoded.append(EncodedThumbs(tuple(ids), answers, ups, tuple(offsets[t.rater] for t in own)))
    return encoded


def encode_rankings(
    base: SharedBase, rankings: Sequence[Ranking], config
) -> tuple[list[EncodedRanking], dict[str, int]]:
    """Rankings as token ids, and how many had to be left out, by reason."""
    tokenizer = base.tokenizer
    encoded, unused = [], {"tied": 0, "too_long": 0}
    for ranking in rankings:
        prompt = prompt_ids(
            tokenizer,
            ranking.prompt,
            system_prompt=config.model.system_prompt,
            max_tokens=config.data.max_prompt_tokens,
        )
        answers = tuple(
            tuple(response_ids(tokenizer, answer, finished=finished))
            for answer, finished in zip(ranking.responses, ranking.finished, strict=True)
        )
        pairs = tuple(ranking.pairs())
        if not pairs:
            unused["tied"] += 1
        elif len(prompt) + max(map(len, answers)) > config.reward.max_tokens:
            unused["too_long"] += 1
        else:
            encoded.append(EncodedRanking(tuple(prompt), answers, pairs, best=ranking.ranks.index(min(ranking.ranks))))
    return encoded, unused
