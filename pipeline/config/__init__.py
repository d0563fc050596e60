"""Every knob, typed, one line each with its unit; and the loader that finds all mistakes of a file at once."""

from pipeline.config.data import DataConfig
from pipeline.config.detectors import DetectorsConfig
from pipeline.config.judging import EvaluationConfig, Gate, JudgeConfig
from pipeline.config.model import LoraConfig, ModelConfig
from pipeline.config.reading import check_files, dump, load_config, source_problems
from pipeline.config.training import KtoConfig, PpoConfig, RewardConfig, RolloutConfig, SftConfig
from pipeline.config.using import ChatConfig, RoundsConfig
from pipeline.config.whole import GATED, RUN_NAME, STAGE_NAMES, Config, defaults

__all__ = [
    "GATED",
    "RUN_NAME",
    "STAGE_NAMES",
    "ChatConfig",
    "Config",
    "DataConfig",
    "DetectorsConfig",
    "EvaluationConfig",
    "Gate",
    "JudgeConfig",
    "KtoConfig",
    "LoraConfig",
    "ModelConfig",
    "PpoConfig",
    "RewardConfig",
    "RolloutConfig",
    "RoundsConfig",
    "SftConfig",
    "check_files",
    "defaults",
    "dump",
    "load_config",
    "source_problems",
]
