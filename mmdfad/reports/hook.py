"""The report at the end of a run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

from mmengine.dist import get_world_size, is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdfad.engine.hooks import PreemptionHook
from mmdfad.engine.probe import must_probe
from mmdfad.registry import HOOKS
from mmdfad.utils import DistillError
from mmdfad.utils.export import add_to_student
from mmdfad.utils.model import unwrap
from mmdfad.utils.quiet import quiet

from .collect import Run
from .environment import describe_environment
from .inspection import Limits, inspect
from .logs import ENDED_EARLY, ENVIRONMENT, STOPPED, WRITTEN, read_logs
from .render import render_table
from .write import saved_weights, write_report

# Whoever interrupts a run may soon end it.
_HURRY = Limits(latency=1.0, validation=0.0, predict=False)


@HOOKS.register_module()
class ReportHook(Hook):
    """Writes ``report.html`` and ``report.json`` into the work directory when training ends, however it ends.

    It also logs a summary. The report is about the student of the last checkpoint, which is the exported one. An error
    in the report is a warning: the run does not fail. If the run was interrupted, the report takes less time than the
    arguments allow. See docs/report.md.

    Args:
        latency_seconds (float): Time for all measured latencies together. Defaults to 3.
        validation_seconds (float): If teacher and student can be validated on the run's real validation data in so much
            time, they are. Defaults to 20.
        predict (bool): Predict the agreement on real images, see docs/prediction.md. Defaults to True.
    """

    # After the last checkpoint, whose student it shows.
    priority = 'LOWEST'

    def __init__(self, latency_seconds: float = 3.0, validation_seconds: float = 20.0, predict: bool = True) -> None:
        if min(latency_seconds, validation_seconds) < 0:
            raise DistillError(
                'latency_seconds and validation_seconds of default_hooks.report must be 0 or more, but found '
                f'{latency_seconds} and {validation_seconds}'
            )
        self.limits = Limits(latency_seconds, validation_seconds, predict)

    def before_train(self, runner: Runner) -> None:
        """Log the machine and the versions, and see to a report if training ends with an error."""
        _log_environment(runner)
        exit_stack = getattr(runner.train_loop, 'exit_stack', None)
        if exit_stack is not None:  # the distiller refuses other loops
            exit_stack.enter_context(self._reporting_errors(runner))

    def after_train(self, runner: Runner) -> None:
        """Write the report of a run that has ended without an error."""
        interrupted = any(isinstance(hook, PreemptionHook) and hook.stopped for hook in runner.hooks)
        if runner.iter < runner.max_iters and not interrupted:
            runner.logger.warning(f'{ENDED_EARLY}after round {runner.iter} of {runner.max_iters}.')
        self._report(runner, must_probe(unwrap(runner.model)), _HURRY if interrupted else self.limits)

    @contextmanager
    def _reporting_errors(self, runner: Runner) -> Iterator[None]:
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            if is_main_process():
                text = str(error) or 'it was interrupted'
                name = '' if isinstance(error, DistillError) else f'{type(error).__name__}: '
                runner.logger.error(f'{STOPPED}{name}{text}')
                # The other ranks may be gone.
                look = not (unwrap(runner.model).teacher.shard and get_world_size() > 1)
                self._report(runner, look, _HURRY)
            raise

    def _report(self, runner: Runner, look: bool, limits: Limits) -> None:
        try:
            self._write(runner, look, limits)
        except Exception as error:
            runner.logger.warning(
                f'Could not write the report ({type(error).__name__}: {error}). Nothing else is missing. Try again '
                f'with\n  python tools/report.py {runner.work_dir}'
            )

    def _write(self, runner: Runner, look: bool, limits: Limits) -> None:
        if not (look or is_main_process()):
            return
        distiller, work_dir = unwrap(runner.model), Path(runner.work_dir)
        logs = read_logs(work_dir)
        last = runner.message_hub.get_info('last_ckpt')
        saved = last is not None and Path(last).is_file()
        weights = saved_weights(distiller, last) if saved else nullcontext(dict(iter=runner.iter))
        loader = getattr(runner.val_loop, 'dataloader', None)
        with quiet(), weights as meta:
            found = inspect(distiller, runner.cfg, logs, limits, loader) if look else None
        if is_main_process():
            run = Run(work_dir, runner.cfg, meta['iter'], runner.seed, distiller.teacher_record, logs)
            report = write_report(run, found)
            if found and found.prediction and saved:
                add_to_student(work_dir, meta['iter'], predicted_agreement=asdict(found.prediction))
            runner.logger.info(f'{WRITTEN}: {render_table(report, work_dir)}')


@master_only
def _log_environment(runner: Runner) -> None:
    runner.logger.info(f'{ENVIRONMENT}{json.dumps(describe_environment())}')
