"""How much of a run validation may take."""

from logging import Logger

from mmengine.dist import broadcast_object_list

from mmdfad.utils import DistillError

from .stopwatch import Stopwatch


class ValidationShare:
    """Leaves out validations, if all of them would take more than a share of the time so far.

    Args:
        share (float): The share. With 1 none is left out.
        stopwatch (Stopwatch): That of the run.

    Raises:
        DistillError: If the share is not between 0 and 1.
    """

    def __init__(self, share: float, stopwatch: Stopwatch) -> None:
        if not 0 <= share <= 1:
            raise DistillError(f'train_cfg.val_share must be between 0 and 1, but found {share!r}')
        self.share = share
        self.stopwatch = stopwatch
        self._before = 0.0
        self._longest = 0.0
        self._told = False

    def allows_one_more(self, logger: Logger) -> bool:
        """Whether a validation leaves enough of the time to training. The first one always does.

        Ranks measure different times, so the first of them decides for all.
        """
        seconds = self.stopwatch.read()
        spent = seconds.get('validation', 0.0)
        self._longest, self._before = max(self._longest, spent - self._before), spent
        enough = spent + self._longest <= self.share * (seconds['total'] + self._longest)
        decision = [enough or self.share == 1 or not spent]
        broadcast_object_list(decision)
        if not decision[0] and not self._told:
            self._told = True
            logger.info(
                f'Leaving out validations that would take more than {self.share:.0%} of the time '
                '(train_cfg.val_share), except for the last one'
            )
        return decision[0]
