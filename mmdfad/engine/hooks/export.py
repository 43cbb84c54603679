"""The product of a run: a plain student."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdfad.registry import HOOKS
from mmdfad.utils.export import student_config, student_files, write_student
from mmdfad.utils.model import unwrap
from mmdfad.utils.provenance import provenance


@HOOKS.register_module()
class ExportStudentHook(Hook):
    """Writes ``student.py`` and ``student.pth`` into the work directory with each checkpoint.

    They are a plain mmpretrain or mmseg model that the stock tools load. With an EMA hook it is the averaged student.
    """

    # After every hook that changes the checkpoint, such as EMAHook.
    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        """Check at once that no file of somebody else is in the way.

        Raises:
            DistillError: If there is one.
        """
        student_files(runner.work_dir)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Export the student that is about to be saved.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What it is about to save.
        """
        distiller = unwrap(runner.model)
        dataset_meta = distiller.teacher.meta_in(runner.cfg)  # the student has the teacher's classes
        about = dict(dataset_meta=dataset_meta, mmdfad=provenance(runner.cfg, distiller.teacher_record))
        checkpoint['meta']['student'] = about
        state = distiller.student_state(checkpoint['state_dict'])
        meta = dict(about, iter=checkpoint['meta']['iter'])
        config_file, _ = write_student(runner.work_dir, student_config(runner.cfg, distiller.student.cfg), state, meta)
        runner.logger.info(f'Exported the student to {config_file.with_suffix(".{py,pth}")}')
