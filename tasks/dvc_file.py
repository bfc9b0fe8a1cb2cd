"""Keeps dvc.yaml true: the code that each stage depends on is what its module imports.

`python -m stereotalker.tasks.dvc_file` writes it; a test compares. Data, weights and parameters are written by hand.
"""

from __future__ import annotations

import io
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from stereotalker.params import ROOT
from stereotalker.store.code import stage_files


def updated(text: str) -> str:
    """The text of a dvc.yaml with the code dependencies of every stage as they are now. Comments stay."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 120, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    described = yaml.load(text)
    for name, stage in described["stages"].items():
        kept = [dep for dep in stage["deps"] if not dep.endswith(".py")]
        stage["deps"] = CommentedSeq([*stage_files(name), *kept])
    stream = io.StringIO()
    yaml.dump(described, stream)
    return stream.getvalue()


def main(file: Path = ROOT / "dvc.yaml") -> None:
    """Write the file anew."""
    file.write_text(updated(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
