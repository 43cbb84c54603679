"""Runs on many ranks."""

import os
import subprocess

import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import init_dist
from mmengine.utils.dl_utils import set_multi_processing

from mmdfad.utils import DistillError

from .config import is_distillation


def init_distributed(cfg: Config) -> None:
    """Prepare a config for many ranks, and initialise the process group; the Runner finds it done.

    Until then each process takes itself for the first of one, and all would write the same files. Accelerators use the
    backend in ``env_cfg.dist_cfg``, CPUs gloo: mmengine fails there when it chooses a device.

    Args:
        cfg (Config): The config with its ``launcher``, changed in place.

    Raises:
        DistillError: If the launcher has not set the variables that identify this rank.
    """
    if cfg.launcher == 'none':
        return
    if is_distillation(cfg) and cfg.get('model_wrapper_cfg') is None:
        cfg.model_wrapper_cfg = dict(type='mmdfad.DistributedDistiller')
    on_cpu = get_device() == 'cpu'
    if on_cpu:  # mmengine's default wrapper gets the number of a device, which torch refuses on CPUs
        cfg.setdefault('model_wrapper_cfg', dict(type='MMDistributedDataParallel', device_ids=None))
    if dist.is_initialized():
        return
    os.environ.update(_rank_variables(cfg.launcher))
    if on_cpu:
        dist.init_process_group('gloo')
    else:
        env = cfg.get('env_cfg') or {}
        set_multi_processing(**env.get('mp_cfg', {}), distributed=True)  # in the Runner's order
        init_dist(cfg.launcher, **env.get('dist_cfg', {}))


def finish_distributed() -> None:
    """Let all ranks of a run end together.

    Threads of a process group that is still open when Python exits can abort the process.
    """
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _rank_variables(launcher: str) -> dict[str, str]:
    """The environment variables that torch needs, from those that the launcher sets."""
    try:
        if launcher == 'slurm':
            first = os.environ.get('MASTER_ADDR') or subprocess.check_output(
                ['scontrol', 'show', 'hostname', os.environ['SLURM_NODELIST']], text=True
            )
            names = dict(RANK='SLURM_PROCID', WORLD_SIZE='SLURM_NTASKS', LOCAL_RANK='SLURM_LOCALID')
            extra = dict(MASTER_ADDR=first.split()[0], MASTER_PORT=os.environ.get('MASTER_PORT', '29500'))
        elif launcher == 'mpi':
            names = {
                k: f'OMPI_COMM_WORLD_{v}'
                for k, v in dict(RANK='RANK', WORLD_SIZE='SIZE', LOCAL_RANK='LOCAL_RANK').items()
            }
            extra = dict(MASTER_ADDR=os.environ['MASTER_ADDR'], MASTER_PORT=os.environ.get('MASTER_PORT', '29500'))
        else:
            names = {name: name for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')}
            extra = {}
        return {ours: os.environ[theirs] for ours, theirs in names.items()} | extra
    except KeyError as error:
        raise DistillError(
            f'--launcher {launcher}, but the variable {error.args[0]} is not set; start with tools/dist_train.sh, '
            'tools/slurm_train.sh or torchrun'
        ) from error
