import os

import pytest
import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from ranks import CONTEXT, free_port

from mmdfad.apis import distributed
from mmdfad.apis.distributed import _rank_variables, finish_distributed, init_distributed
from mmdfad.apis.work_dir import claimed_work_dir
from mmdfad.utils import DistillError

NAMES = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')


@pytest.fixture(autouse=True)
def _no_ranks(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_slurm_says_who_is_who(monkeypatch, tmp_path):
    (tmp_path / 'scontrol').write_text('#!/bin/sh\n[ "$*" = "show hostname n[1-2]" ] && printf "n1\\nn2\\n"\n')
    (tmp_path / 'scontrol').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/usr/bin:/bin')
    slurm = dict(SLURM_PROCID='5', SLURM_NTASKS='8', SLURM_LOCALID='1', SLURM_NODELIST='n[1-2]')
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert _rank_variables('slurm') == dict(zip(NAMES, ['5', '8', '1', 'n1', '29500'], strict=True))


def test_mpi_says_who_is_who(monkeypatch):
    for name, value in dict(RANK='5', SIZE='8', LOCAL_RANK='1').items():
        monkeypatch.setenv(f'OMPI_COMM_WORLD_{name}', value)
    monkeypatch.setenv('MASTER_ADDR', 'n1')
    monkeypatch.setenv('MASTER_PORT', '3')
    assert _rank_variables('mpi') == dict(zip(NAMES, ['5', '8', '1', 'n1', '3'], strict=True))


@pytest.mark.parametrize(('launcher', 'variable'), [('pytorch', 'RANK'), ('slurm', 'SLURM_NODELIST')])
def test_launchers_that_launched_nothing(monkeypatch, launcher, variable):
    monkeypatch.delenv('SLURM_NODELIST', raising=False)
    with pytest.raises(
        DistillError, match=rf'--launcher {launcher}, but the variable {variable} is not set; start with'
    ):
        _rank_variables(launcher)


def join_on_an_accelerator(rank: int, port: int, work_dir: str) -> None:
    """What a rank does before it builds its runner, on a machine that claims to have accelerators."""
    variables = dict(zip(NAMES, [rank, 2, rank, '127.0.0.1', port], strict=True))
    os.environ.update({name: str(value) for name, value in variables.items()})
    distributed.get_device = lambda: 'cuda'
    torch.cuda.set_device = lambda device: None
    cfg = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='gloo'), mp_cfg=dict())))
    init_distributed(cfg)
    with claimed_work_dir(work_dir):
        assert get_rank() == rank
        torch.distributed.barrier()
    finish_distributed()


def test_ranks_on_accelerators_join_before_they_touch_files(tmp_path):
    port = free_port()
    ranks = [CONTEXT.Process(target=join_on_an_accelerator, args=(rank, port, str(tmp_path))) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
