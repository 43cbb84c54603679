"""The labels of teacher and student, side by side."""

from collections import Counter
from collections.abc import Sequence

from torch import Tensor


class LabelPairs(Counter):
    """Counts images, or pixels, by their labels: ``(teacher's, student's)``."""

    def add(self, teacher: Tensor, student: Tensor) -> None:
        """Count the labels of teacher and student, of the same shape."""
        count = 1 + int(max(teacher.max(), student.max()))
        # One number for each pair: counting these is many times faster than counting pairs.
        found, numbers = (count * teacher.flatten() + student.flatten()).unique(return_counts=True)
        self.update({divmod(k, count): n for k, n in zip(found.tolist(), numbers.tolist(), strict=True)})

    @property
    def agreement(self) -> float:
        """float: Share of images, or pixels, with the same label."""
        return sum(number for (teacher, student), number in self.items() if teacher == student) / max(self.total(), 1)

    def by_class(self, names: Sequence[str]) -> list[dict]:
        """Agreement for each label that the teacher gives, the class that costs most first.

        Args:
            names (Sequence[str]): Names of the classes.

        Returns:
            list[dict]: ``name``; ``share`` of all images or pixels; ``agreement``; ``lost``, the share of all that the
            student labels differently; ``instead``, the label that it then gives most often, or None.
        """
        total, rows = self.total(), []
        for label in {teacher for teacher, _ in self}:
            row = Counter({student: number for (teacher, student), number in self.items() if teacher == label})
            seen, same = row.total(), row.pop(label, 0)
            rows.append(
                dict(
                    name=names[label],
                    share=seen / total,
                    agreement=same / seen,
                    lost=(seen - same) / total,
                    instead=names[row.most_common(1)[0][0]] if row else None,
                )
            )
        return sorted(rows, key=lambda row: (-row['lost'], -row['share']))
