"""The machine and the versions that a run had."""

import platform
from pathlib import Path

import torch

from mmdfad.utils.provenance import versions


def describe_environment() -> dict:
    """The machine and the versions of this process.

    Returns:
        dict: ``machine`` with ``cpu`` (name), ``cores`` (logical), ``threads`` (of torch), ``gpu`` (name or None) and
        ``system``; and ``versions`` by package, None where it is not installed.
    """
    return dict(
        machine=dict(
            cpu=_cpu_name(),
            cores=torch.multiprocessing.cpu_count(),
            threads=torch.get_num_threads(),
            gpu=_gpu_names(),
            system=f'{platform.system()} {platform.machine()}, Python {platform.python_version()}',
        ),
        versions=versions(),
    )


def _cpu_name() -> str:
    info = Path('/proc/cpuinfo')
    lines = info.read_text(errors='replace').splitlines() if info.is_file() else []
    names = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(names, '') or platform.processor() or platform.machine()


def _gpu_names() -> str | None:
    if not torch.cuda.is_available():
        return None
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ', '.join(
        f'{names.count(name)} x {name}' if names.count(name) > 1 else name for name in dict.fromkeys(names)
    )
