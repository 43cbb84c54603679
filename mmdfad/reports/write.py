"""From a run that has ended to ``report.html`` and ``report.json``."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmdfad.models.base_distiller import BaseDistiller
from mmdfad.utils import DistillError
from mmdfad.utils.atomic import atomic_write
from mmdfad.utils.checkpoint import read_checkpoint
from mmdfad.utils.state_dict import explain_mismatch

from .collect import Run, collect, plain
from .inspection import Inspection
from .render import render_page


def write_report(run: Run, found: Inspection | None) -> dict[str, Any]:
    """Write ``report.html`` and ``report.json`` into the work directory of a run, each atomically.

    Args:
        run (Run): The run.
        found (Inspection, optional): What its networks show. None leaves that part out.

    Returns:
        dict[str, Any]: The content of ``report.json``.
    """
    report = plain(collect(run, found))
    atomic_write(run.work_dir / 'report.json', json.dumps(report, indent=1, allow_nan=False).encode())
    atomic_write(run.work_dir / 'report.html', render_page(report, found).encode())
    return report


@contextmanager
def saved_weights(distiller: BaseDistiller, checkpoint: str | Path) -> Iterator[dict]:
    """Give student and generator the weights of a training checkpoint, and restore their own afterwards.

    These are the weights of the exported student: with an EMA hook, averaged ones.

    Args:
        distiller (BaseDistiller): The distiller, changed in place.
        checkpoint (str | Path): The checkpoint.

    Yields:
        dict: The checkpoint's ``meta``.

    Raises:
        DistillError: If it is not a checkpoint of this distiller.
    """
    content = read_checkpoint(str(checkpoint), f'checkpoint {checkpoint}')
    own = {key: value.clone() for key, value in distiller.state_dict().items()}
    problem = explain_mismatch(own, content.get('state_dict', {}))
    if problem:
        raise DistillError(f'checkpoint {checkpoint} does not fit the student and generator of the config:\n{problem}')
    distiller.load_state_dict(content['state_dict'], strict=False)  # some models drop names while they load
    try:
        yield content['meta']
    finally:
        distiller.load_state_dict(own, strict=False)
