"""What of the working folder is sent to a cluster: code, and nothing else."""

from __future__ import annotations

from hlvnn.sweep import shipping
from tests.cluster.recipes import Job, expected, plant


def test_code_is_sent_and_nothing_else(job: Job) -> None:
    plant(job.tree)
    assert sorted(map(str, shipping.sent_files(job.tree))) == expected()
    assert "hlvnn/data/grouped.py" in expected()  # which a .gitignore with data/ would keep back
    with shipping.staging(job.tree) as folder:
        found = [path for path in folder.rglob("*") if path.is_file()]
        assert sorted(str(path.relative_to(folder)) for path in found) == expected()
        assert not any("a secret" in path.read_text(encoding="utf-8") for path in found)
    assert not folder.exists()
