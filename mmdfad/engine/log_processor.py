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

        The values also have the seconds of the parts of the run, and ``lr``, the student's, as the stock tools for logs
        expect. The line has neither, nor the health of the run, of which there are warnings.
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
