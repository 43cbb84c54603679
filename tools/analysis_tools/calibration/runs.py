"""Trains the teachers and students of the calibration."""

import subprocess
import sys
from pathlib import Path

from mmdfad.utils import DistillError

from .pairs import PAIRS, TEACHERS, Pair

TRAIN, DISTILL = Path('tools/train.py'), Path('tools/distill.py')


def teacher_checkpoint(name: str, work_dir: Path) -> str:
    """The weights of a teacher, which is trained if there are none."""
    teacher = TEACHERS[name]
    if teacher.checkpoint is not None:
        return teacher.checkpoint
    folder = work_dir / 'teachers' / name
    if not list(folder.glob('epoch_*.pth')):
        _call(TRAIN, teacher.config, '--work-dir', folder)
    return str(max(folder.glob('epoch_*.pth'), key=lambda path: int(path.stem.removeprefix('epoch_'))))


def run_pair(pair: Pair, work_dir: Path) -> None:
    """Distil a student and keep four checkpoints. A run that has ended is not repeated."""
    folder = work_dir / pair.name
    if (folder / f'iter_{pair.rounds}.pth').exists():
        return
    teacher = TEACHERS[pair.teacher]
    networks = ['--teacher', teacher.config, '--checkpoint', teacher_checkpoint(pair.teacher, work_dir)]
    settings = ['--student', pair.student, '--method', pair.method, '--rounds', pair.rounds, '--work-dir', folder]
    hook = 'default_hooks.checkpoint'
    keep = ['--cfg-options', f'{hook}.interval={pair.rounds // 4}', f'{hook}.max_keep_ckpts=-1']
    _call(DISTILL, *networks, *settings, *teacher.flags, '--no-validate', *keep)


def run_pairs(work_dir: Path, part: int, parts: int) -> None:
    """Run one part of all pairs. The parts of several processes do not share teachers."""
    names = list(TEACHERS)[part::parts]
    for pair in PAIRS:
        if pair.teacher in names:
            run_pair(pair, work_dir)


def _call(*command: object) -> None:
    if subprocess.run([sys.executable, *map(str, command)]).returncode:
        raise DistillError(f'{command[0]} has failed; see its error above')
