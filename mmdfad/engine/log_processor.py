"""Log lines that count rounds."""

import re

from mmengine.runner import LogProcessor, Runner

from mmdfad.registry import LOG_PROCESSORS

_HEALTH = re.compile(r'health/\w+: \S+ *')


@LOG_PROCESSORS.register_module()
class DistillLogProcessor(LogProcessor):
    """mmengine's log processor, by iteration, which calls the training iterations rounds.

    Args:
        window_size (int): Rounds that logged values are averaged over. Defaults to 10.
        kwargs: The other arguments of mmengine's LogProcessor.
    """

    def __init__(self, window_size: int = 10, **kwargs) -> None:
        super().__init__(window_size=window_size, by_epoch=False, **kwargs)

    def get_log_after_iter(self, runner: Runner, batch_idx: int, mode: str) -> tuple[dict, str]:
        """See mmengine.

        The logged values also include the seconds of each part of the run, and the student's learning rate as ``lr``,
        which the stock tools for logs read. The line leaves these out. It leaves out the health metrics, too, because
        the health hook warns of problems.
        """
        loop = runner.train_loop if mode == 'train' and hasattr(runner.train_loop, 'round_log') else None
        if loop is not None:
            loop.round_log.flush()
        tag, line = super().get_log_after_iter(runner, batch_idx, mode)
        if loop is not None:
            tag.update(loop.stopwatch.scalars())
            if 'student.lr' in tag:
                tag['lr'] = tag['student.lr']
            line = _HEALTH.sub('', line)
        return tag, line.replace('Iter(train)', 'Round(train)', 1)
