"""What the processes of test_tools/test_stop.py cannot show."""

import sys
from pathlib import Path

import pytest

from mmdfad.engine.hooks.preemption import resume_command


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        ('c.py', 'tools/train.py c.py --resume=auto'),
        ('--work-dir d c.py --resume old.pth', 'tools/train.py --work-dir d c.py --resume old.pth --resume=auto'),
        ('c.py --resume=auto', 'tools/train.py c.py --resume=auto'),
        ('c.py --cfg-options a=1', 'tools/train.py c.py --cfg-options a=1 --resume=auto'),
    ],
)
def test_resume_command(monkeypatch, arguments, expected):
    monkeypatch.delenv('TORCHELASTIC_RUN_ID', raising=False)
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', *arguments.split()])
    assert resume_command().split(' ', 1)[1] == expected
    # what it says is what the tool understands
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / 'tools')
    monkeypatch.setattr(sys, 'argv', resume_command().split()[1:])
    import train

    args = train.parse_args()
    assert (args.resume, args.config) == ('auto', 'c.py')


def test_resume_command_of_torchrun_and_of_other_programs(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', 'c.py'])
    for name, value in dict(TORCHELASTIC_RUN_ID='x', GROUP_WORLD_SIZE='2', LOCAL_WORLD_SIZE='8').items():
        monkeypatch.setenv(name, value)
    assert resume_command() == 'torchrun --nnodes=2 --nproc_per_node=8 tools/train.py c.py --resume=auto'
    monkeypatch.setattr(sys, 'argv', ['mine.py'])
    assert resume_command() == 'resume=True in the config'
