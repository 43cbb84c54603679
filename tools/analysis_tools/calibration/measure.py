"""How often students really agree with their teachers, and how often on probe images."""

from collections.abc import Iterator
from pathlib import Path

from mmengine.runner import Runner

from mmdfad.apis import read_run
from mmdfad.apis.checkpoints import load_student_weights
from mmdfad.apis.config import add_agreement, plain_student_config
from mmdfad.models.probes import Probes

# Those of each teacher. Their images take longer to make than everything else.
_PROBES: dict[tuple, Probes] = {}


def measure(config: str | Path) -> Iterator[dict]:
    """Measure each checkpoint of a run.

    Args:
        config (str | Path): The config of a distillation. Its work directory has the path without ``.py``.

    Yields:
        dict: ``run``, ``teacher``, ``checkpoint``, ``truth`` (the agreement on real test images) and ``probes`` (the
        agreement on each set of probe images).
    """
    run = read_run(str(config))
    work_dir = Path(config).with_suffix('')
    both = add_agreement(run, plain_student_config(run))
    both.update(work_dir=str(work_dir / 'calibration'), log_level='ERROR')
    runner = Runner.from_cfg(both)
    distiller = runner.model
    teacher = Path(distiller.teacher.checkpoint)
    key = (str(teacher), distiller.generator.image_size)
    if key not in _PROBES:
        _PROBES[key] = Probes(distiller.teacher, distiller.generator.image_size)
    distiller.probes = _PROBES[key]
    for checkpoint in sorted(work_dir.glob('iter_*.pth'), key=lambda path: int(path.stem.removeprefix('iter_'))):
        load_student_weights(distiller.student.model, str(checkpoint))
        truth = runner.test()['agreement']
        yield dict(
            run=work_dir.name,
            teacher=f'{teacher.parent.name}/{teacher.name}',
            checkpoint=checkpoint.stem,
            truth=round(truth, 4),
            probes={name: round(pairs.agreement, 4) for name, pairs in distiller.probe_pairs().items()},
        )
