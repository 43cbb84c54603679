"""mmengine's Runner, which keeps the user's files, and says less on the terminal."""

import logging
from itertools import chain, count
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import nn

from mmdfad.models.distiller import AdversarialDistiller
from mmdfad.models.generators import Generator
from mmdfad.models.objectives import Objectives
from mmdfad.registry import RUNNERS
from mmdfad.utils.generated import is_replaceable, write_config
from mmdfad.utils.model import unwrap

# How messages begin that say nothing new to who started the run: they are for its log file.
_FOR_THE_FILE = (
    '\n------------------------------------------------------------\nSystem environment:',
    'Config:\n',
    'Hooks will be executed in the following order:',
    'Environment: {',
    'Distributed training is not used, all SyncBatchNorm',
    'Loads checkpoint by local backend',
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
)


@RUNNERS.register_module()
class SafeRunner(Runner):
    """mmengine's Runner. It never writes its config over a file that mmdfad did not write."""

    @master_only
    def dump_config(self) -> None:
        """Write the config into the work directory, under the name of its file or, if that is taken, of the run."""
        source = Path(self.cfg.filename or self.timestamp)
        names = chain([source.stem, self.timestamp], (f'{self.timestamp}_{i}' for i in count(1)))
        paths = (Path(self.work_dir, f'{name}.py') for name in names if name != 'student')  # the exported one
        path = next(path for path in paths if path.resolve() != source.resolve() and is_replaceable(path))
        write_config(path, self.cfg.pretty_text)


@RUNNERS.register_module()
class DistillRunner(SafeRunner):
    """mmengine's Runner. Machine, config and hooks go to the log file only, and the terminal has a summary instead."""

    def build_logger(self, log_level: str | int = 'INFO', log_file: str | None = None, **kwargs) -> MMLogger:
        """See mmengine."""
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(lambda record: not record.getMessage().startswith(_FOR_THE_FILE))
        return logger

    def dump_config(self) -> None:
        """Write the config, and log a summary of it."""
        super().dump_config()
        distiller = unwrap(self.model)
        if isinstance(distiller, AdversarialDistiller):
            for line in summary(distiller, self.cfg, f'{self.log_dir}/{self.timestamp}.log'):
                self.logger.info(line)


def summary(distiller: AdversarialDistiller, cfg: Config, log_file: str) -> list[str]:
    """What a distillation is made of, in a few lines.

    Args:
        distiller (AdversarialDistiller): The distiller.
        cfg (Config): The config of the run.
        log_file (str): Its log.
    """
    start = distiller.start
    learns = f', which learns by {_names(distiller.generation)}' if distiller.generator.learns else ''
    return [
        f'Teacher: {distiller.teacher.checkpoint or "random weights"}',
        f'Images: {_chain(distiller.generator)}{learns}',
        f'Start of the student: {"its own weights" if start is None else type(start).__name__}',
        f'Imitation: {_names(distiller.imitation)}',
        f'{cfg.train_cfg.max_iters} rounds with batches of {cfg.train_dataloader.batch_size}',
        f'Config, machine and hooks are in {log_file}',
    ]


def _names(objectives: Objectives) -> str:
    return ', '.join(type(objective).__name__ for objective in objectives) or 'nothing'


def _chain(generator: Generator) -> str:
    """The types of a generator and of those inside it."""
    inner = [child for child in generator.children() if isinstance(child, Generator)]
    inner += [c for child in generator.children() if isinstance(child, nn.ModuleList) for c in child]
    names = [_chain(part) for part in inner if isinstance(part, Generator)]
    return type(generator).__name__ + (f' of {" and ".join(names)}' if names else '')
