"""Tensors without numbers, counted: what a computation of any size would hold at its fullest moment, on a machine that could not hold it.

Under `Counted` weights live on torch's "meta" device: they have a shape and a number format and no memory. Every call of torch that meets one of
them gives such tensors back; ids, masks and whatever is made of them alone stay real, so that everything which depends on data (how wide a
batch is, who has ended) goes its own way. Each tensor's storage is counted from the call that makes it until nobody holds it any more, so the
peak is that of the program's own tensors: what an allocator with no waste would need, without what kernels take and give back inside.

Where a number is asked of a tensor that has none it is 1 (or True), and the token drawn is always the same.
"""

from __future__ import annotations

import weakref
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
import torch.optim.adam as adam
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
META, CPU = torch.device("meta"), torch.device("cpu")
TOKEN = 100
# What a program reads back is small: figures, log-probabilities of tokens. Anything larger that is sent to the CPU stays without numbers.
READ_BACK = 1 << 20


class Counted(TorchDispatchMode):
    """Counts while it is entered; `held` is what is alive now, `peak` the most there was."""

    def __init__(self):
        super().__init__()
        self.held = self.peak = 0
        self.peaks: dict[str, int] = {}
        self._moment = "learning"
        self._alive: dict[int, weakref.ref] = {}
        self._around = ExitStack()
        self._inside = _inside()

    def __enter__(self):
        self._around.enter_context(_plain_inference())
        self._around.enter_context(_patched())
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._around.close()

    @contextmanager
    def moment(self, name: str):
        """What is held meanwhile counts as that moment's in `peaks`."""
        before, self._moment = self._moment, name
        try:
            yield
        finally:
            self._moment = before

    def begin(self) -> int:
        """From here on a new peak. Returns what is held now."""
        self.peak = self.held
        self.peaks.clear()
        return self.held

    def count_module(self, module: torch.nn.Module) -> None:
        """What was made before counting began, or under another device."""
        self.count([*module.parameters(), *module.buffers()])

    def count(self, tensors) -> None:
        for tensor in _tensors(tensors):
            self._hold(tensor.untyped_storage())

    def _hold(self, storage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive or not size:
            return

        def gone(_, key=key, size=size) -> None:
            if self._alive.pop(key, None) is not None:
                self.held -= size

        self._alive[key] = weakref.ref(storage, gone)
        self.held += size
        self._note(0)

    def _note(self, inside: int) -> None:
        """A high-water mark, with `inside` bytes that a call takes and gives back."""
        self.peak = max(self.peak, self.held + inside)
        self.peaks[self._moment] = max(self.peaks.get(self._moment, 0), self.held + inside)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if not any(map(_hollow, _tensors((args, kwargs)))):
            if func is aten._to_copy.default:
                # Real tensors that follow the weights keep their numbers: whether a batch has padding is read off its mask.
                kwargs["device"] = CPU
            result = func(*args, **kwargs)
        else:
            result = self._without_numbers(func, args, kwargs)
        self.count(result)
        if func in self._inside:
            self._note(self._inside[func](*args, **kwargs))
        return result

    def _without_numbers(self, func, args, kwargs):
        if func in (aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default):
            return torch.ones((), dtype=args[0].dtype).item()
        if func in (aten.multinomial.default, aten.argmax.default):
            return torch.full(func(*args, **_here(kwargs)).shape, TOKEN)
        if func is aten._to_copy.default and torch.device(kwargs.get("device") or META).type == "cpu":
            source, dtype = args[0], kwargs.get("dtype") or args[0].dtype
            return torch.ones(source.shape, dtype=dtype) if source.numel() <= READ_BACK else torch.empty_like(source, dtype=dtype)
        if func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._unsafe_index.Tensor):
            args = (args[0], _places(args[1]), *args[2:])
        target = args[0] if func._schema.is_mutable and args else None
        result = func(*_without(args), **_without(_here(kwargs)))
        # What is written into a real tensor is lost; the tensor is as large as before.
        return target if isinstance(target, torch.Tensor) and not _hollow(target) else result


def on_cpu(model: torch.nn.Module) -> None:
    """A model that says it is on the CPU: what is made for it, ids and masks, is real."""
    model.__class__ = type(type(model).__name__, (type(model),), {"device": CPU})


@contextmanager
def trained_where_it_is():
    """What the library's trainers ask of a device, looked past: nothing has to be moved, and the fused optimizer takes any."""
    with (
        mock.patch.object(torch.nn.Module, "to", lambda self, *_, **__: self),
        mock.patch.object(adam, "_device_dtype_check_for_fused", lambda *_, **__: None),
    ):
        yield


@contextmanager
def _plain_inference():
    """Inference mode as `no_grad`: within it a call that is made of others is not taken apart before it is seen."""
    known = torch.inference_mode

    def enter(self) -> None:
        self._plain = torch.no_grad()
        self._plain.__enter__()

    def leave(self, *error) -> None:
        self._plain.__exit__(*error)

    with mock.patch.object(known, "__enter__", enter), mock.patch.object(known, "__exit__", leave):
        yield


def _inside() -> dict:
    """Bytes that a call takes beside its result: a product with a 4-bit matrix makes the whole matrix first where there are many rows
    (bitsandbytes 0.50, backends/cuda/ops.py), and the float32 maxima of its blocks."""
    try:
        import bitsandbytes  # noqa: F401  registers its calls
    except ImportError:
        return {}

    def whole(states, packed, shape, *_, **__) -> int:
        return shape[0] * shape[1] * states.element_size() + shape[0] * shape[1] // 64 * 4

    return {torch.ops.bitsandbytes.gemm_4bit.default: whole}


@contextmanager
def _patched():
    """Attention as a card computes it with a mask, blockwise, without the square of the length (Rabe & Staats 2021); and numbers to read."""
    attention, tolist, numpy = torch.nn.functional.scaled_dot_product_attention, torch.Tensor.tolist, torch.Tensor.numpy

    def attend(query, *args, **kwargs):
        return (_blockwise if _hollow(query) else attention)(query, *args, **kwargs)

    with (
        mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", attend),
        # Asked for a device that knows no such thing.
        mock.patch.object(torch, "is_autocast_enabled", lambda *_: False),
        mock.patch.object(torch.Tensor, "tolist", lambda self: tolist(_with_numbers(self))),
        mock.patch.object(torch.Tensor, "numpy", lambda self, **kwargs: numpy(_with_numbers(self), **kwargs)),
    ):
        yield


def _with_numbers(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu() if _hollow(tensor) else tensor


def _blockwise(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    if attn_mask is None and query.dtype != torch.float32:
        # The kernel without a mask shares keys among queries by itself.
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    bias = None
    if attn_mask is not None:
        added = attn_mask if attn_mask.dtype != torch.bool else query.new_zeros(attn_mask.shape)
        bias = added.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    needed = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, needed, dropout_p, is_causal, scale=scale
    )[0]


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _hollow(value) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "meta"


def _without(value):
    if isinstance(value, torch.Tensor):
        return value if _hollow(value) else value.to(META)
    if isinstance(value, (list, tuple)):
        return type(value)(map(_without, value))
    if isinstance(value, dict):
        return {key: _without(inner) for key, inner in value.items()}
    return value


def _here(kwargs: dict) -> dict:
    return {key: META if key == "device" and value is not None else value for key, value in kwargs.items() if key != "generator"}


def _places(indices):
    """Truth values as the places where they are true: how many there are is a number."""
    found = []
    for index in indices:
        if index is not None and index.dtype == torch.bool and not _hollow(index):
            found.extend(index.nonzero(as_tuple=True))
        else:
            found.append(index)
    return found
