"""What TRL's trainers do to a model behind one's back, undone."""

from __future__ import annotations

from torch import Tensor

from pipeline.adapters import SharedBase


def on_one_device(arguments):
    """The trainer would spread the model over every GPU that it sees (`nn.DataParallel`), past the adapters' roles."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def as_before(base: SharedBase, role: str, begun: dict[str, Tensor]) -> None:
    """Makes the adapter of `role` float32 and trainable again, with the numbers of `begun`.

    Over a quantized base the trainers turn adapters into bfloat16, in which most steps are too small to be a step.
    """
    for parameter in base.parameters(role):
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    base.load_state(role, begun)
