"""One optimizer for the student and one for the generator."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from mmengine.dist import all_reduce_params, get_world_size
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from torch import Tensor, nn

from mmdfad.models.distiller import PHASES
from mmdfad.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from mmdfad.utils import DistillError
from mmdfad.utils.model import unwrap

LEARNERS = tuple(PHASES.values())
# Optimizers of torch that have a fused implementation on CPUs. On GPUs torch chooses a fast one by itself.
FUSED_ON_CPU = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DistillOptimWrapperConstructor:
    """Builds the optimizers of student and generator, each by mmengine's own rules.

    So each may have its own ``type``, ``constructor``, ``paramwise_cfg``, ``clip_grad``, ``accumulative_counts``, ...::

        optim_wrapper = dict(
            constructor='mmdfad.DistillOptimWrapperConstructor',
            amp_dtype='auto',
            student=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9), paramwise_cfg=dict(norm_decay_mult=0.)),
            generator=dict(optimizer=dict(type='Adam', lr=1e-3)))

    ``amp_dtype`` is the type of the forward passes in the steps that update the student or the generator:
    ``'float32'``, ``'bfloat16'``, ``'float16'`` (with dynamic loss scaling, on accelerators), or ``'auto'`` for the
    fastest that the device computes in hardware (:func:`fastest_dtype`). It is given for both, or in the part of one.
    Without it the ``type`` decides, as in mmengine.

    SGD, Adam and AdamW are ``fused`` on CPUs, unless their config chooses an implementation. With many ranks, gradients
    are averaged over the ranks before each update.

    Args:
        optim_wrapper_cfg (dict): ``student`` and ``generator``, an optimizer wrapper config each, and ``amp_dtype``.
        paramwise_cfg (dict, optional): Must be None: it belongs to the part of one.

    Raises:
        DistillError: If one of the two is missing or something else is there.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        # mmpretrain's and mmseg's base schedules bring a type of their own.
        found = set(optim_wrapper_cfg) - {'type', 'amp_dtype'}
        if found != set(LEARNERS) or paramwise_cfg is not None:
            raise DistillError(
                f'optim_wrapper must have the keys {list(LEARNERS)} beside constructor, each with an optimizer, but '
                f'found {sorted(found | ({"paramwise_cfg"} if paramwise_cfg else set()))}'
            )
        common = dict(amp_dtype=optim_wrapper_cfg.get('amp_dtype'))
        self.cfgs = {name: {**common, **optim_wrapper_cfg[name]} for name in LEARNERS}

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        """Build for a distiller, wrapped or not. A generator that learns nothing gets no optimizer."""
        distiller = unwrap(model)
        modules = dict(student=distiller.student.model)
        if distiller.generator.learns:
            modules['generator'] = distiller.generator.learner
        wrappers = {}
        for name, module in modules.items():
            wrappers[name] = build_optim_wrapper(module, _complete(self.cfgs[name], name, distiller.device))
            if get_world_size() > 1:
                _average_before_steps(wrappers[name])
        return OptimWrapperDict(**wrappers)


def average_gradients(optim_wrapper: OptimWrapper) -> None:
    """Average the gradients of an optimizer over the ranks."""
    all_reduce_params([*pending_gradients(optim_wrapper).values()], op='mean')


def _average_before_steps(optim_wrapper: OptimWrapper) -> None:
    """Let an optimizer wrapper average the gradients over the ranks before each step.

    It does so before it clips and unscales them. ``DistributedDataParallel`` would need the forward pass to go through
    it, which generators that update themselves in their own way do not do.
    """
    step = optim_wrapper.step

    def averaged_step(wrapper: OptimWrapper, **kwargs) -> None:
        average_gradients(wrapper)
        step(**kwargs)

    # mmengine's schedulers count the calls of a method, and do not take a plain function.
    optim_wrapper.step = MethodType(averaged_step, optim_wrapper)


def pending_gradients(optim_wrapper: OptimWrapper) -> dict[int, Tensor]:
    """The gradients of the parameters that have one, by their number in the optimizer."""
    return {i: p.grad for i, p in enumerate(_parameters(optim_wrapper)) if p.grad is not None}


def match_layouts(optim_wrapper: OptimWrapper) -> None:
    """Give an optimizer's state the memory format of its weights. Fused updates on CPUs do not compare the two."""
    for parameter, state in optim_wrapper.optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def restore_gradients(optim_wrapper: OptimWrapper, gradients: dict[int, Tensor]) -> None:
    """Undo :func:`pending_gradients` in another process."""
    for i, parameter in enumerate(_parameters(optim_wrapper)):
        parameter.grad = gradients[i].to(parameter) if i in gradients else None


def _parameters(optim_wrapper: OptimWrapper) -> list[nn.Parameter]:
    return [p for group in optim_wrapper.param_groups for p in group['params']]


def _complete(cfg: dict, name: str, device: torch.device) -> dict:
    """An optimizer wrapper config with the type that its ``amp_dtype`` asks for, and a fused optimizer."""
    cfg = dict(cfg)
    dtype = cfg.pop('amp_dtype')
    if 'optimizer' in cfg:
        cfg['optimizer'] = _fused(cfg['optimizer'], device)
    if dtype is None:
        return cfg
    if 'type' in cfg:
        raise DistillError(f'give either optim_wrapper.{name}.type={cfg["type"]!r} or amp_dtype={dtype!r}, not both')
    return {**cfg, **amp_settings(dtype, device)}


def _fused(optimizer: dict, device: torch.device) -> dict:
    kind = optimizer.get('type')
    kind = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
    chosen = {'foreach', 'differentiable'} & set(optimizer)  # these exclude it
    fused = device.type == 'cpu' and kind in FUSED_ON_CPU and not chosen
    return {'fused': True, **optimizer} if fused else optimizer


def amp_settings(dtype: str, device: torch.device) -> dict:
    """Type and settings of the optimizer wrapper for a computing type.

    Args:
        dtype (str): ``'float32'``, ``'bfloat16'``, ``'float16'`` or ``'auto'``.
        device (torch.device): Where it is to run.

    Raises:
        DistillError: If there is no such type, or the device does not support it.
    """
    if dtype == 'auto':
        dtype = fastest_dtype(device)
        print_log(f'Computing in {dtype}, the fastest type of this {device.type} (amp_dtype="auto")', 'current')
    settings = dict(
        float32=dict(type='OptimWrapper'),
        bfloat16=dict(type='mmdfad.BFloat16OptimWrapper'),
        float16=dict(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic'),
    )
    if dtype not in settings:
        raise DistillError(f'amp_dtype must be one of auto, {", ".join(settings)}, but found {dtype!r}')
    if dtype == 'float16' and device.type == 'cpu':
        raise DistillError("float16 needs an accelerator; on CPUs set amp_dtype to 'bfloat16' or 'float32'")
    return settings[dtype]


def fastest_dtype(device: torch.device) -> str:
    """The floating-point type that a device is fastest in: bf16, fp16 if it has no bf16, fp32 if it has neither.

    Args:
        device (torch.device): A CPU, a GPU, or another accelerator.
    """
    if device.type == 'cpu':
        found = getattr(torch.cpu, 'get_capabilities', dict)()  # since torch 2.10
        return 'bfloat16' if any(found.get(name) for name in ('avx512_bf16', 'amx_bf16', 'bf16')) else 'float32'
    if device.type == 'cuda':
        return 'bfloat16' if torch.cuda.is_bf16_supported(including_emulation=False) else 'float16'
    return 'float16'


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Autocast to bf16 on any device. bf16 has the range of fp32, so gradients need no scaling.

    mmengine's ``AmpOptimWrapper`` works on accelerators only, and always scales.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """See mmengine."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield
