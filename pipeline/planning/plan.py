"""What a config will need: bytes by part for every stage, tokens, and the hours that they take at a throughput that is stated."""

from __future__ import annotations

from dataclasses import dataclass, replace

from data.loading import PAIR_FORMATS
from pipeline.memory import LISTS_AT_ONCE, READ_AT_ONCE
from pipeline.planning import memory
from pipeline.planning.rows import answers_of, rows_of
from pipeline.planning.shapes import Shape, shape_of

GB = 1e9
# Answers of a ranking in a format other than of pairs, where the file cannot be looked at: as many as most have.
_RANKED = 4
# Beside what the formulas name: what torch itself holds on a card, and blocks that its allocator cannot use again.
CUDA_CONTEXT, FRAGMENTATION = 0.6 * GB, 0.10


@dataclass(frozen=True)
class StagePlan:
    """A stage at its fullest moment.

    Attributes:
        parts: bytes by part.
        moments: bytes of each moment of the stage beyond what it holds throughout; only the fullest counts.
        tokens: read or drawn over the whole stage at most, as if every row had full length; None where the number of rows is not known
            before the data are read.
    """

    name: str
    parts: dict[str, float]
    moments: dict[str, float]
    tokens: dict[str, int | None]

    @property
    def peak(self) -> float:
        return sum(self.parts.values()) + max(self.moments.values())

    @property
    def fullest(self) -> str:
        return max(self.moments, key=self.moments.get)


@dataclass(frozen=True)
class Plan:
    shape: Shape
    numbers: memory.Numbers
    stages: tuple[StagePlan, ...]
    on_gpu: bool

    @property
    def peak(self) -> float:
        """Bytes of the fullest stage, with what a card keeps for itself."""
        return max(self.on_card(stage) for stage in self.stages)

    def on_card(self, stage: StagePlan) -> float:
        """Bytes of a stage, with what a card keeps for itself."""
        return stage.peak * (1 + FRAGMENTATION) + CUDA_CONTEXT if self.on_gpu else stage.peak


def make_plan(config, *, on_gpu: bool, bfloat16: bool) -> Plan:
    """The plan of a config.

    Args:
        on_gpu: whether the card's own needs are counted.
        bfloat16: what `model.dtype: auto` will be.

    Raises:
        UserError: the shape of the base is not known here.
    """
    shape = shape_of(config.model.name)
    half = config.model.dtype == "bfloat16" or (config.model.dtype == "auto" and bfloat16)
    numbers = memory.Numbers(
        weight=2 if half else memory.FLOAT32,
        quantization=config.model.quantization,
        recompute=config.model.gradient_checkpointing,
        on_card=on_gpu,
    )
    learner = _kto if config.learner == "kto" else _ppo
    stages = tuple(stage(config, shape, numbers) for stage in (_sft, _reward, learner, _evaluation))
    return Plan(shape, numbers, stages, on_gpu)


def _sft(config, shape: Shape, numbers: memory.Numbers) -> StagePlan:
    settings, lora, numbers = config.sft, config.lora, _with_optimizer(numbers, config.sft)
    layers = _adapted(config, shape)
    tokens = settings.micro_batch_size * settings.max_tokens
    trained = memory.adapter_parameters(shape, lora.rank, layers)
    return StagePlan(
        "sft",
        _held(shape, numbers, trained, roles=1, trained_roles=1),
        {
            "learning": memory.backward(shape, lora.rank, layers, tokens, numbers, length=settings.max_tokens)
            + memory.trainer_logits(shape, tokens, numbers),
        },
        {"learnt": _learnt(config, config.data.demonstrations, settings.epochs * settings.max_tokens)},
    )


def _reward(config, shape: Shape, numbers: memory.Numbers) -> StagePlan:
    settings, lora, numbers = config.reward, config.lora, _with_optimizer(numbers, config.reward)
    layers = _adapted(config, shape)
    width = _ranking_width(config, settings.mismatched_negatives)
    tokens = settings.micro_lists * width
    trained = memory.adapter_parameters(shape, lora.rank, layers)
    return StagePlan(
        "reward",
        _held(shape, numbers, trained, roles=_reward_models(config), trained_roles=1),
        {
            "learning": memory.backward(shape, lora.rank, layers, tokens, numbers, length=width, mask_given=True)
            + _ranking_mask(settings.micro_lists, width, numbers),
            "measuring the scale": memory.forward(shape, READ_AT_ONCE * settings.max_tokens, numbers, length=settings.max_tokens),
        },
        {"learnt": _learnt(config, config.data.rankings, settings.epochs * width * _passes(settings))},
    )


def _ppo(config, shape: Shape, numbers: memory.Numbers) -> StagePlan:
    settings, lora, numbers = config.ppo, config.lora, _with_optimizer(numbers, config.ppo)
    layers = _adapted(config, shape)
    prompt, answer = config.data.max_prompt_tokens, settings.max_new_tokens
    length = prompt + answer
    trained = memory.adapter_parameters(shape, lora.rank, layers)
    rows, micro = settings.episodes, settings.micro_batch
    at_once = min(settings.rollout.batch or rows, rows)
    kept = rows * length * shape.hidden * numbers.weight
    moments = {
        "drawing": memory.cache(shape, at_once * length, numbers)
        + memory.sampling_logits(shape, at_once, numbers)
        + memory.forward(shape, at_once, numbers, length=length),
        "reading the prompts": memory.cache(shape, at_once * prompt, numbers)
        + memory.forward(shape, at_once * prompt, numbers, length=prompt),
        "learning": kept
        + memory.backward(shape, lora.rank, layers, micro * length, numbers, length=length)
        + memory.logits(shape, micro * answer, numbers, learning=True),
    }
    if config.judged_by and config.detectors.enabled and config.detectors.judge_every:
        looked_at = min(config.detectors.judge_prompts, READ_AT_ONCE)
        moments["reading for the judge"] = memory.forward(shape, looked_at * length, numbers, length=length)
    drawn = settings.updates * rows
    return StagePlan(
        "ppo",
        _held(shape, numbers, trained, roles=3 + config.reward.members + _asks_the_test_model(config), trained_roles=2),
        moments,
        {
            "drawn": drawn * answer,
            # The trunk, four roles, and two roles forward and backward in every epoch.
            "read": drawn * length * (1 + 2 + config.reward.members),
            "learnt": drawn * length * 2 * settings.epochs,
        },
    )


def _kto(config, shape: Shape, numbers: memory.Numbers) -> StagePlan:
    """In PPO's place. A thumb is read by policy and reference, and again with another question's answer for the KL term."""
    settings, lora, bounds = config.kto, config.lora, config.detectors
    layers = _adapted(config, shape)
    trained = memory.adapter_parameters(shape, lora.rank, layers)
    # The KL term is estimated within a batch, so a batch is one pass.
    tokens = settings.batch_size * config.reward.max_tokens
    moments = {
        "learning": memory.backward(shape, lora.rank, layers, tokens, numbers, length=config.reward.max_tokens)
        + memory.trainer_logits(shape, tokens, numbers),
    }
    if bounds.enabled:
        length = config.data.max_prompt_tokens + settings.max_new_tokens
        rows = min(bounds.judge_prompts, READ_AT_ONCE)
        moments["drawing for the detectors"] = (
            memory.cache(shape, rows * length, numbers)
            + memory.sampling_logits(shape, rows, numbers)
            + memory.forward(shape, rows, numbers, length=length)
        )
        moments["reading for the detectors"] = memory.forward(shape, rows * length, numbers, length=length)
    learnt = _learnt(config, config.data.thumbs or "", settings.epochs * config.reward.max_tokens)
    return StagePlan(
        "kto",
        _held(shape, numbers, trained, roles=2 + _asks_the_test_model(config), trained_roles=1),
        moments,
        {"read": None if learnt is None else 3 * learnt, "learnt": learnt, "drawn": _looks(config)},
    )


def _looks(config) -> int | None:
    """Tokens that KTO's looks draw at most; None where the number of thumbs is not known before they are read."""
    settings, bounds = config.kto, config.detectors
    thumbs = _learnt(config, config.data.thumbs or "", 1)
    if thumbs is None or not bounds.enabled:
        return None
    steps = -(-thumbs // settings.batch_size) * settings.epochs
    looks = 1 + -(-steps // (bounds.judge_every or bounds.window))
    return looks * bounds.judge_prompts * settings.max_new_tokens


def _evaluation(config, shape: Shape, numbers: memory.Numbers) -> StagePlan:
    settings = config.evaluation
    rows, prompt = settings.batch_size, config.data.max_prompt_tokens
    trained = memory.adapter_parameters(shape, config.lora.rank, _adapted(config, shape))
    width = _ranking_width(config, 0)
    longest = max(prompt + settings.max_new_tokens, config.sft.max_tokens)
    return StagePlan(
        "evaluate",
        _held(shape, numbers, trained, roles=2 + _reward_models(config), trained_roles=0),
        {
            "drawing": memory.cache(shape, rows * (prompt + settings.max_new_tokens), numbers)
            + memory.sampling_logits(shape, rows, numbers)
            + memory.forward(shape, rows, numbers, length=prompt + settings.max_new_tokens),
            "reading the prompts": memory.cache(shape, rows * prompt, numbers)
            + memory.forward(shape, rows * prompt, numbers, length=prompt),
            "reading answers": memory.forward(shape, READ_AT_ONCE * longest, numbers, length=longest),
            "reading rankings": memory.forward(shape, LISTS_AT_ONCE * width, numbers, length=width)
            + _ranking_mask(LISTS_AT_ONCE, width, numbers),
        },
        {"drawn": None},
    )


def _with_optimizer(numbers: memory.Numbers, settings) -> memory.Numbers:
    """Each stage has an optimizer of its own."""
    return replace(numbers, eight_bit_optimizer=settings.optimizer != "adamw")


def _ranking_width(config, borrowed: int) -> int:
    """Tokens of a ranking, which is one row: its prompt, and its answers side by side, each as long as it may be."""
    data = config.data
    seen = answers_of(data.rankings) if data.rankings_format == "ranked" else None
    answers = (2 if data.rankings_format in PAIR_FORMATS else seen or _RANKED) + borrowed
    prompt = min(config.data.max_prompt_tokens, config.reward.max_tokens)
    return prompt + answers * (config.reward.max_tokens - prompt)


def _learnt(config, source: str, tokens_a_row: float) -> int | None:
    rows = rows_of(source, config.data.limit)
    return None if rows is None else round(rows * (1 - config.data.test_share) * tokens_a_row)


def _passes(settings) -> float:
    """Reward models that learn from a ranking: every member, or the test model from its own share."""
    return settings.members * (1 - settings.test_share) + settings.test_share


def _ranking_mask(lists: int, width: int, numbers: memory.Numbers) -> float:
    """Bytes of who may look at whom, in truth values and as what is added to the scores."""
    return lists * width * width * (numbers.weight + 3)


def _held(shape: Shape, numbers: memory.Numbers, adapter: int, *, roles: int, trained_roles: int) -> dict[str, float]:
    return {
        "weights": memory.weights(shape, numbers),
        "adapters": float(roles * adapter * memory.FLOAT32),
        "optimizer": memory.optimizer(trained_roles * adapter, numbers),
    }


def _asks_the_test_model(config) -> bool:
    """Whether the stage that trains the policy opens the test model, for the detectors' judge."""
    return config.judged_by == "test_model" and config.detectors.enabled and config.detectors.judge_every > 0


def _reward_models(config) -> int:
    """Those that lie in memory: the members, and the test model."""
    return config.reward.members + bool(config.reward.test_share)


def _adapted(config, shape: Shape) -> int:
    return min(config.lora.last_layers or shape.layers, shape.layers)
