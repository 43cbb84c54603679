"""Real runs in other processes, which do not have to import everything again."""

import multiprocessing
import os
import socket
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdfad.apis import find_resumable_checkpoint

# Processes are forked from one that has imported everything and computed nothing.
CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(
    ['conftest', 'mmdfad.apis', 'mmdfad.engine', 'mmdfad.models', 'mmpretrain.models', 'mmseg.models']
)


def free_port() -> int:
    """A port where ranks can meet."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


class Tell(Hook):
    """Sets an event when a run or a resumed run has done some rounds."""

    def __init__(self, event, rounds):
        self.event, self.rounds = event, rounds

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.rounds == 0:
            self.event.set()
        self.rounds -= 1


def train_rank(rank: int, world_size: int, meeting: str, config: str, tell=None) -> None:
    """Train as one rank of a run, and save the final state in the work directory."""
    torch.set_num_threads(1)
    cfg = Config.fromfile(config)
    if world_size > 1:
        os.environ.update(LOCAL_RANK=str(rank))
        torch.distributed.init_process_group('gloo', f'file://{meeting}', rank=rank, world_size=world_size)
        cfg.launcher = 'pytorch'
    if cfg.get('resume'):
        cfg.load_from = find_resumable_checkpoint(cfg.work_dir)
        cfg.resume = cfg.load_from is not None
    runner = Runner.from_cfg(cfg)
    if tell is not None:
        runner.register_hook(Tell(*tell))
    runner.train()
    optimizers = {name: wrapper.optimizer.state_dict() for name, wrapper in runner.optim_wrapper.items()}
    model = getattr(runner.model, 'module', runner.model)
    torch.save(dict(model=model.state_dict(), optimizers=optimizers), f'{cfg.work_dir}/rank_{rank}.pth')


def start(cfg: Config, world_size: int = 1, tell=None) -> list[multiprocessing.Process]:
    """Start the ranks of a run."""
    work_dir = Path(cfg.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    number = len(list(work_dir.glob('config_*.py')))
    config, meeting = work_dir / f'config_{number}.py', work_dir / f'meeting_{number}'
    cfg.dump(config)
    ranks = [
        CONTEXT.Process(target=train_rank, args=(rank, world_size, str(meeting), str(config), tell))
        for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    return ranks


def train(cfg: Config, world_size: int = 1) -> list[dict]:
    """Run to the end, and return the final state of each rank."""
    ranks = start(cfg, world_size)
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0] * world_size
    return [torch.load(f'{cfg.work_dir}/rank_{rank}.pth') for rank in range(world_size)]
