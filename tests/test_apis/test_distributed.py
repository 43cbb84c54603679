import pytest

from mmdfad.apis.distributed import _rank_variables
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
