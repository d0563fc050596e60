"""A GPU for machines that have none: real tensors on the CPU that say they are on "cuda", and a rule book that says what CUDA refuses.

`Pretend` sees every call of torch that Python makes. A tensor knows where it pretends to be from the call that made it: a factory
without `device=` makes one "on the CPU", `.to("cuda")` moves it, every other result is where its inputs are. A call that meets
tensors of both places fails as it would on a card. What torch makes inside C++ has no place and is let pass.
"""

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

CUDA = torch.device("cuda", 0)
FACTORIES = {
    *(torch.tensor, torch.arange, torch.zeros, torch.ones, torch.full, torch.empty, torch.eye, torch.rand, torch.randn, torch.randint),
    *(torch.as_tensor, torch.randperm, torch.linspace),
}  # fmt: skip
# These take an index or a source from the CPU, and bring it over themselves.
FETCHING = {"__getitem__", "__setitem__", "copy_", "index_put_", "index_put", "_has_compatible_shallow_copy_type"}


class WrongPlace(RuntimeError):
    """What a card would answer with: expected all tensors to be on the same device."""


class Pretend(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.places = WeakIdKeyDictionary()

    def put(self, module: nn.Module) -> None:
        """All of a module's tensors onto the card."""
        for tensor in (*module.parameters(), *module.buffers()):
            self.places[tensor] = CUDA

    def put_down(self, tensors) -> None:
        """Tensors as a file gives them: on the CPU."""
        for tensor in tensors:
            self.places[tensor] = torch.device("cpu")

    def place(self, tensor):
        if tensor in self.places:
            return self.places[tensor]
        # A parameter that nobody moved is where modules are made.
        return torch.device("cpu") if isinstance(tensor, nn.Parameter) else None

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        tensors = list(_tensors((args, kwargs)))
        if name == "__get__" and getattr(function, "__self__", None) is torch.Tensor.device:
            return self.place(args[0]) or torch.device("cpu")
        if name == "__get__" and getattr(function, "__self__", None) is torch.Tensor.is_cuda:
            return self.place(args[0]) == CUDA
        if name in ("to", "cpu", "cuda"):
            return self._moved(name, args, kwargs)
        if name == "__set__" and getattr(function, "__self__", None) is torch.Tensor.data:
            function(*args, **kwargs)
            self.places[args[0]] = self.place(args[1]) or self.place(args[0])
            return None
        where = self._met(name, args, tensors)
        target = kwargs.get("device")
        if function in FACTORIES:
            where = _at(target) if target is not None else (where if tensors else torch.device("cpu"))
            kwargs.pop("device", None)
        elif target is not None:
            where = _at(target)
            kwargs.pop("device")
        if name == "numpy" and where == CUDA:
            raise WrongPlace("numpy() of a tensor on the card")
        return self._mark(function(*args, **kwargs), where)

    def _moved(self, name, args, kwargs):
        tensor, before = args[0], self.place(args[0])
        given = [*args[1:], *(kwargs.get(key) for key in ("device", "dtype", "other"))]
        target = {"cpu": "cpu", "cuda": CUDA}.get(name)
        dtype = tensor.dtype
        for value in given:
            if isinstance(value, (str, torch.device)):
                target = value
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, torch.Tensor):
                target, dtype = self.place(value), value.dtype
        where = _at(target) if target is not None else before
        result = tensor.to(dtype, copy=kwargs.get("copy", False))
        # The same memory under another name is no move: what is told apart must be two tensors.
        return self._mark(result.clone() if result is tensor and where != before else result, where)

    def _met(self, name, args, tensors):
        counted = tensors[:1] if name in FETCHING else tensors
        places = {self.place(t) for t in counted if t.dim() > 0} - {None}
        if len(places) > 1:
            shapes = ", ".join(f"{tuple(t.shape)} on {self.place(t)}" for t in counted)
            raise WrongPlace(f"{name}: tensors in two places: {shapes}")
        if places:
            return places.pop()
        return next((self.place(t) for t in counted if self.place(t)), None)

    def _mark(self, result, where):
        if where is not None:
            for tensor in _tensors(result):
                self.places[tensor] = where
        return result


def generators(monkeypatch):
    """`torch.Generator(device="cuda")` gives the CPU's, and notes what was asked for."""
    asked, real = [], torch.Generator

    class Generator(real):
        def __new__(cls, device="cpu"):
            asked.append(torch.device(device).type)
            return real()

    monkeypatch.setattr(torch, "Generator", Generator)
    return asked


def _at(device) -> torch.device:
    """A card without a number is the first one."""
    return CUDA if torch.device(device).type == "cuda" else torch.device(device)


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
