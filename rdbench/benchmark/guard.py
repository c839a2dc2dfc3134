"""What surrounds a stranger's code, so that whatever it does to what it was handed costs its own cell only."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from operator import attrgetter, is_
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch.overrides import _pop_mode, _push_mode
from torch.utils._device import DeviceContext

from rdbench.errors import BrokenMethod

MOST_PRINTED = 4000
"""Characters that a method may print in a process; the rest is not shown."""

_printed: Counter[str] = Counter()
_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
"""That methods have started and Python would wait for at its end."""


@contextmanager
def guarded_call(name: str) -> Iterator[None]:
    """Around a method's import, `fit`, `save`, `load` and `predict`: what it sets for the process is put back.

    What it prints goes to stderr, as much as `MOST_PRINTED` allows for each `name`. Raises BrokenMethod where it would
    end the program.
    """
    settings = process_settings()
    running = set(threading.enumerate())
    try:
        with _Bounded(name, sys.stderr) as printed, redirect_stdout(printed), redirect_stderr(printed):
            yield
    except SystemExit as end:
        raise BrokenMethod(f"the method would end the program: SystemExit({end.code!r})") from end
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:  # which nobody who catches exceptions would catch
        raise BrokenMethod(f"{type(error).__name__}: {error}") from error
    finally:
        restore_settings(settings)
        _threads.update(thread for thread in set(threading.enumerate()) - running if not thread.daemon)


def threads_left() -> bool:
    """Whether a thread that a method has started still runs and would keep the process from ending."""
    return any(thread.is_alive() for thread in _threads)


class Untouched:
    """Tensors that a method may read and not change. Use as a context around its calls, as often as wanted.

    What was changed in place is put back when the call ends, however it ends; BrokenMethod is raised if anything was.
    """

    def __init__(self, what: str, tensors: Iterable[Tensor]) -> None:
        self._what = what
        self._tensors = [(tensor, tensor.clone()) for tensor in tensors]

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with torch.no_grad():
            changed = _changed([(_bits(tensor), _bits(was)) for tensor, was in self._tensors])
            for (tensor, was), differs in zip(self._tensors, changed, strict=True):
                if differs:
                    tensor.copy_(was)
        if any(changed) and kind is None:
            raise BrokenMethod(f"the method changed {self._what} in place; work on a copy: tensor.clone()")


def _changed(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[bool]:
    """Of each pair whether the two differ."""
    if all(tensor.device.type == "cpu" for tensor, _ in pairs):
        return [not torch.equal(tensor, was) for tensor, was in pairs]
    differ: list[bool] = torch.stack([(tensor != was).any() for tensor, was in pairs]).tolist()
    return differ  # all in one: a GPU is waited for once


def _bits(tensor: Tensor) -> Tensor:
    """The tensor as integers, in which a NaN equals itself."""
    return tensor.view((torch.uint8, torch.int16, torch.int32, torch.int64)[tensor.element_size().bit_length() - 1])


class UntouchedNetwork(Untouched):
    """The same of a network: its tensors, and its layers with their modes, hooks and functions."""

    def __init__(self, what: str, network: nn.Module) -> None:
        super().__init__(what, network.state_dict().values())
        self._network = network
        self._held = [(tensor, tensor.detach()) for tensor in (*network.parameters(), *network.buffers())]
        self._layers: list[tuple[nn.Module, dict[str, object], dict[str, dict[object, object]]]] = []

    def __enter__(self) -> None:
        self._layers = [
            (layer, dict(vars(layer)), {name: dict(each) for name, each in vars(layer).items() if type(each) in DICTS})
            for layer in self._network.modules()
        ]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        changed = [self._put_back(*layer) for layer in self._layers]
        for tensor, was in self._held:  # `network.double()` and the like put other values into the same tensor
            if (tensor.data_ptr(), tensor.dtype, tensor.shape) != (was.data_ptr(), was.dtype, was.shape):
                tensor.data = was
                changed.append(True)
        super().__exit__(kind)
        if any(changed) and kind is None:
            raise BrokenMethod(f"the method changed {self._what} in place; work on a copy: copy.deepcopy")

    def _put_back(self, layer: nn.Module, were: dict[str, object], held: dict[str, dict[object, object]]) -> bool:
        """Whether anything of a layer was another."""
        now = vars(layer)
        changed = not _identical(now, were)
        if changed:
            now.clear()
            now.update(were)
        for name, content in held.items():
            each: dict[object, object] = now[name]
            if not _identical(each, content):
                each.clear()
                each.update(content)
                changed = True
        return changed


DICTS = (dict, OrderedDict)
"""What a module keeps its layers, tensors and hooks in."""


def _identical(one: Mapping[Any, object], other: Mapping[Any, object]) -> bool:
    """Whether both hold the very same objects in one order, which is the order that layers are run in."""
    return list(one) == list(other) and all(map(is_, one.values(), other.values()))


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # the method has removed it
        return ""


_HOOKS: tuple[dict[Any, Any], ...] = (
    nn.modules.module._global_forward_pre_hooks,
    nn.modules.module._global_forward_hooks,
)
"""torch's hooks on every module."""


def _hooks() -> list[dict[Any, Any]]:
    return [dict(hooks) for hooks in _HOOKS]


def _set_hooks(were: list[dict[Any, Any]]) -> None:
    for hooks, content in zip(_HOOKS, were, strict=True):
        hooks.clear()
        hooks.update(content)


def _umask() -> int:
    mask = os.umask(0o077)  # it cannot be read without being set
    os.umask(mask)
    return mask


def _autocast() -> list[tuple[str, bool, torch.dtype]]:
    return [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")]


def _set_autocast(were: list[tuple[str, bool, torch.dtype]]) -> None:
    for kind, enabled, dtype in were:
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)


_FLOAT32: list[Any] = []
"""Where torch keeps how float32 is computed, since 2.9, beside older settings that fail where the two disagree."""
if hasattr(torch.backends, "fp32_precision"):
    _FLOAT32 = [
        torch.backends,
        *attrgetter("cudnn", "cudnn.conv", "cudnn.rnn", "cuda.matmul")(torch.backends),
        *attrgetter("mkldnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")(torch.backends),
    ]


def _float32() -> list[Any]:
    """As by the older settings, None where the newer ones say what they have no word for; then by the newer ones."""
    found: list[Any] = []
    for read in (partial(getattr, torch.backends.cudnn, "allow_tf32"), torch.get_float32_matmul_precision):
        try:
            found.append(read())
        except RuntimeError:
            found.append(None)
    return found + [backend.fp32_precision for backend in _FLOAT32]


def _set_float32(were: list[Any]) -> None:
    convolutions, products, *newer = were
    if convolutions is not None:
        torch.backends.cudnn.allow_tf32 = convolutions
    if products is not None:
        torch.set_float32_matmul_precision(products)
    for backend, was in zip(_FLOAT32, newer, strict=True):  # after the older ones, which set these too
        backend.fp32_precision = was


def _flushes_denormals() -> bool:
    return not torch.full((1,), 1e-40, dtype=torch.float32, device="cpu").mul(0.5).item()


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in _SIGNALS]


def _set_handlers(were: list[Any]) -> None:
    for number, handler in zip(_SIGNALS, were, strict=True):
        signal.signal(number, handler)


def _pop_modes(depth: int) -> None:
    """Leave the modes that were entered since, but for the default device's, which torch itself takes away."""
    modes = [_pop_mode() for _ in range(torch._C._len_torch_function_stack() - depth)]  # type: ignore[no-untyped-call]
    for mode in reversed(modes):
        if isinstance(mode, DeviceContext):
            _push_mode(mode)  # type: ignore[no-untyped-call]


SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "torch's modes of functions": (torch._C._len_torch_function_stack, _pop_modes),  # first: they change what follows
    "the working directory": (_working_directory, os.chdir),
    "the mask of new files' modes": (_umask, os.umask),
    "the handlers of signals": (_handlers, _set_handlers),
    "an alarm": (lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0, lambda _: signal.alarm(0)),
    "torch's autocast": (_autocast, _set_autocast),
    "torch's denormals": (_flushes_denormals, torch.set_flush_denormal),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    # Set to none, as it is before a method has set one: with any set, torch wraps every function.
    "torch's default device": (torch.get_default_device, lambda _: torch.set_default_device(None)),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "torch's hooks on all modules": (_hooks, _set_hooks),
    "how torch computes float32": (_float32, _set_float32),
    **{
        f"{backend.__name__}.{name}": (partial(getattr, backend, name), partial(setattr, backend, name))
        for backend, name in (
            (torch.backends.mkldnn, "enabled"),
            (torch.backends.cudnn, "enabled"),
            (torch.backends.cudnn, "benchmark"),
            (torch.backends.cudnn, "deterministic"),
        )
    },
}
"""What holds for the whole process and a method could change: how it is read, and set."""


def process_settings() -> dict[str, object]:
    """What holds for the whole process and a method could change, by name."""
    return {name: read() for name, (read, _) in SETTINGS.items()}


def restore_settings(were: dict[str, object]) -> None:
    """Put back what :func:`process_settings` gave."""
    for name, (read, put) in SETTINGS.items():
        if read() != were[name]:
            put(were[name])


class _Bounded(io.TextIOBase):
    """Passes the first `MOST_PRINTED` characters of a method's prints on; what closes it closes nothing else."""

    def __init__(self, name: str, to: TextIO) -> None:
        self._name = name
        self._to = to

    def write(self, text: str) -> int:
        before = _printed[self._name]
        _printed[self._name] += len(text)
        if before < MOST_PRINTED:
            self._to.write(text[: MOST_PRINTED - before])
            if _printed[self._name] >= MOST_PRINTED:
                self._to.write(f"\n{self._name} has printed {MOST_PRINTED} characters; more is not shown\n")
        return len(text)
