"""Compress a LeNet-5 without data: train a teacher on real digits, distil a student from noise, test both."""

import argparse
import shutil
import time
from pathlib import Path

import mmengine
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmdfad.utils import DistillError, readable_errors
from mmdfad.utils.table import format_table

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seed', type=int, default=0, help='seed of teacher, student and noise')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'), help='folder for all results')
    return parser.parse_args()


def build_runner(cfg: Config, work_dir: Path, seed: int) -> Runner:
    """Build a runner that logs its progress, but not its environment."""
    cfg.work_dir, cfg.randomness, cfg.log_level = str(work_dir), dict(seed=seed), 'WARNING'
    runner = Runner.from_cfg(cfg)
    for part in (runner.logger, *runner.logger.handlers):
        part.setLevel('INFO')
    return runner


def train_teacher(work_dir: Path, seed: int) -> tuple[Runner, str]:
    """Train the teacher with plain mmpretrain on the 4,000 training digits."""
    runner = build_runner(Config.fromfile(CONFIGS / 'teachers/lenet5_mnist5k.py'), work_dir, seed)
    runner.train()
    return runner, (work_dir / 'last_checkpoint').read_text()


def distil(work_dir: Path, seed: int, teacher_checkpoint: str) -> Runner:
    """Distil a student from noise alone. The test digits only serve to measure its progress."""
    cfg = Config.fromfile(CONFIGS / 'dfad/dfad_lenet5-lenet5half_1xb128_mnist5k.py')
    cfg.model.teacher.checkpoint = teacher_checkpoint
    cfg.model.val_agreement = True
    cfg.test_evaluator = [cfg.test_evaluator, dict(type='mmdfad.AgreementMetric')]
    runner = build_runner(cfg, work_dir, seed)
    runner.train()
    return runner


def test_exported(folder: Path, work_dir: Path) -> float:
    """Load and test the exported student with mmpretrain itself, and return its top-1 accuracy."""
    from mmpretrain import get_model

    model = get_model(str(folder / 'student.py'), pretrained=str(folder / 'student.pth'))
    cfg = Config.fromfile(folder / 'student.py')
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        test_dataloader=cfg.test_dataloader,
        test_evaluator=cfg.test_evaluator,
        test_cfg=cfg.test_cfg,
        default_scope=cfg.default_scope,
        log_level='WARNING',
        experiment_name='exported_student',
    )
    return top1(runner.test())


def top1(metrics: dict) -> float:
    """Accuracy as a fraction of 1. mmpretrain gives it in percent."""
    return round(metrics['accuracy/top1'] / 100, 4)


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def run(seed: int, work_dir: Path) -> dict:
    """Run the whole demo, and return the report."""
    start = time.perf_counter()
    print(f'\n=== 1/3  Train a teacher on 4,000 real digits (seed {seed})', flush=True)
    teacher_runner, checkpoint = train_teacher(work_dir / 'teacher', seed)
    teacher_top1 = top1(teacher_runner.test())
    teacher_done = time.perf_counter()

    print('\n=== 2/3  Distil a student of a quarter of its size from noise', flush=True)
    runner = distil(work_dir / 'distill', seed, checkpoint)
    distill_done = time.perf_counter()

    print('\n=== 3/3  Test both on 1,000 real digits that neither has seen', flush=True)
    metrics = runner.test()
    student_top1 = test_exported(work_dir / 'distill', work_dir / 'exported')
    if student_top1 != top1(metrics):
        raise DistillError(f'the exported student has top-1 {student_top1}, the one in training {top1(metrics)}')
    grid = Path(runner.log_dir, 'vis_data/vis_image', f'synthetic_{runner.max_iters}.png')
    shutil.copy(grid, work_dir / 'synthetic.png')
    return dict(
        teacher=dict(top1=teacher_top1, params=count(teacher_runner.model)),
        student=dict(top1=student_top1, params=count(runner.model.student)),
        agreement=round(metrics['agreement'], 4),
        seconds=dict(
            teacher=round(teacher_done - start, 1),
            distill=round(distill_done - teacher_done, 1),
            total=round(time.perf_counter() - start, 1),
        ),
        seed=seed,
    )


def main() -> None:
    args = parse_args()
    with readable_errors():
        report = run(args.seed, args.work_dir)
        mmengine.dump(report, args.work_dir / 'report.json', indent=2)
    rows = [[name, f'{report[name]["params"]:,}', f'{report[name]["top1"]:.3f}'] for name in ('teacher', 'student')]
    seconds = report['seconds']
    print(format_table(['', 'parameters', 'top-1'], rows))
    print(
        f'  agreement on the test digits {report["agreement"]:.3f}; teacher {seconds["teacher"]} s, '
        f'distillation {seconds["distill"]} s, total {seconds["total"]} s\n'
        f'  student: {args.work_dir}/distill/student.{{py,pth}}   images: {args.work_dir}/synthetic.png'
    )


if __name__ == '__main__':
    main()
