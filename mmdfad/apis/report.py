"""The report of a run that has ended."""

from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS, DefaultScope

from mmdfad.models.base_distiller import BaseDistiller
from mmdfad.registry import HOOKS
from mmdfad.reports.collect import Run
from mmdfad.reports.commands import run_config
from mmdfad.reports.inspection import inspect
from mmdfad.reports.logs import read_logs, require_run
from mmdfad.reports.render import render_table
from mmdfad.reports.write import saved_weights, write_report
from mmdfad.utils import DistillError
from mmdfad.utils.quiet import quiet

from .checkpoints import find_resumable_checkpoint
from .config import is_distillation, read_run


def make_report(work_dir: str | Path, cfg_options: dict | None = None) -> str:
    """Write ``report.html`` and ``report.json`` of a run, from its last checkpoint and its logs.

    Args:
        work_dir (str | Path): The run's work directory.
        cfg_options (dict, optional): Settings by dotted key, which override those of the run: paths that have changed.

    Returns:
        str: The summary, for a terminal.

    Raises:
        DistillError: If there is no run or no checkpoint, or if the teacher cannot be built.
    """
    work_dir = Path(work_dir)
    logs = read_logs(work_dir)
    require_run(work_dir, logs)
    cfg = read_run(str(logs.sessions[-1].folder / 'vis_data/config.py'), cfg_options)
    if not is_distillation(cfg):
        raise DistillError(f'{run_config(work_dir)} is not the config of a distillation: it has no model.student')
    checkpoint = find_resumable_checkpoint(work_dir)
    if checkpoint is None:
        raise DistillError(f'found no whole checkpoint (iter_*.pth) in {work_dir}, so there is no student to report on')
    hook = dict(cfg.get('default_hooks', {}).get('report') or dict(type='mmdfad.ReportHook'))
    hook.pop('priority', None)  # which the Runner takes out, too
    with quiet():
        distiller = _build(cfg)
        with saved_weights(distiller, checkpoint) as meta:
            found = inspect(distiller, cfg, logs, HOOKS.build(hook).limits)
    run = Run(work_dir, cfg, meta['iter'], meta.get('seed'), meta.get('teacher') or distiller.teacher_record, logs)
    return render_table(write_report(run, found), work_dir)


def _build(cfg: Config) -> BaseDistiller:
    """The distiller of a run, on the device that it would train on."""
    model = dict(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        return MODELS.build(model).to(get_device())
