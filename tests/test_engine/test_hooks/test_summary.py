import re

import pytest
from conftest import both_tasks, keep_hooks, run


@both_tasks
def test_sizes_of_teacher_and_student(tiny_cfg, tmp_path):
    keep_hooks(tiny_cfg, 'acceleration', 'summary')
    runner = run(tiny_cfg, train_cfg__max_iters=1)
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    height, width = runner.model.generator.image_size
    assert f'Compressed at {height}x{width} pixels' in log
    rows = {name: re.search(rf'^ +{name} .*', log, re.MULTILINE)[0].split() for name in ('teacher', 'student', 'ratio')}
    # The exact teacher is counted, not the one with folded batch norms.
    sizes = [
        sum(p.numel() for p in network.logits.parameters()) for network in (runner.model.teacher, runner.model.student)
    ]
    assert [int(rows[name][1].replace(',', '')) for name in ('teacher', 'student')] == sizes
    assert float(rows['ratio'][1].rstrip('x')) == pytest.approx(sizes[0] / sizes[1], abs=0.01)
    flops = [float(rows[name][2].replace(',', '')) for name in ('teacher', 'student')]
    assert flops[0] > 2 * flops[1] > 0
