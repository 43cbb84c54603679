"""What a work directory knows of its run, beside checkpoints."""

import json
import uuid
from pathlib import Path

from mmengine.dist import is_main_process

from mmdfad.utils.atomic import atomic_write

FILE = 'run.json'


class RunRecord:
    """The run that a work directory belongs to, and the last round that it validated: the file ``run.json``.

    A run that resumes keeps its id, which is also in its checkpoints. So a damaged checkpoint is never replaced by one
    of another run in the same folder. And a validation that was interrupted is known, and made up for.

    Args:
        work_dir (str | Path): The work directory.
    """

    def __init__(self, work_dir: str | Path) -> None:
        self.path = Path(work_dir, FILE)
        self.id = uuid.uuid4().hex
        self.validated = 0

    def resume(self, run_id: str | None) -> None:
        """Continue the run with this id, as a checkpoint tells it. Those of earlier versions have none."""
        self.id = run_id or self.id
        found = read_record(self.path.parent)
        if found.get('id') == self.id:
            self.validated = found.get('validated', 0)

    def save(self) -> None:
        """Write the file. Only the first rank does."""
        if is_main_process():
            atomic_write(self.path, json.dumps(dict(id=self.id, validated=self.validated)).encode())

    def note_validation(self, rounds: int) -> None:
        """Remember that the validation after so many rounds is settled: done, or left out."""
        self.validated = rounds
        self.save()


def last_checkpoint(work_dir: str | Path) -> str:
    """What a message says about the last checkpoint in a work directory, which is good if there is one.

    Args:
        work_dir (str | Path): The work directory.
    """
    saved = Path(work_dir, 'last_checkpoint').exists()
    return f'The last checkpoint in {work_dir} is good' if saved else 'There is no checkpoint yet'


def read_record(work_dir: str | Path) -> dict:
    """``id`` and ``validated`` of the run in a work directory; empty if there is no file, or a damaged one.

    Args:
        work_dir (str | Path): The work directory.
    """
    try:
        found = json.loads(Path(work_dir, FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
