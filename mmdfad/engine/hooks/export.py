"""The product of a run: a plain student."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdfad.registry import HOOKS
from mmdfad.utils.export import student_config, write_student
from mmdfad.utils.model import unwrap


@HOOKS.register_module()
class ExportStudentHook(Hook):
    """Keeps ``student.py`` and ``student.pth`` in the work directory in step with the latest checkpoint.

    They are a plain mmpretrain or mmseg model that the stock tools load; with an EMA hook, the averaged student.
    """

    # After every hook that changes what is saved, such as EMAHook.
    priority = 'LOWEST'

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Export the student that is about to be saved.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What it is about to save.
        """
        distiller = unwrap(runner.model)
        teacher, student = distiller.teacher_player, distiller.student_player
        dataset_meta = teacher.meta_in(runner.cfg)  # the student speaks of the teacher's classes
        checkpoint['meta']['student'] = dict(dataset_meta=dataset_meta)
        state = distiller.plain_student_state(checkpoint['state_dict'])
        meta = dict(dataset_meta=dataset_meta, iter=checkpoint['meta']['iter'])
        config_file, _ = write_student(runner.work_dir, student_config(runner.cfg, student.cfg), state, meta)
        runner.logger.info(f'Exported the student to {config_file.with_suffix(".{py,pth}")}')
