from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from segfix.files.places import StagedPath, StandardInput, open_stage


def test_texts_call_a_file_by_its_url_and_the_system_by_its_path() -> None:
    with open_stage() as stage:
        path = StagedPath(stage, "s3", "bucket", "a", "b.png")
        path.parent.mkdir(parents=True)
        path.write_text("content")
        assert f"{path}: broken" == "s3://bucket/a/b.png: broken"
        assert str(path) == f"{stage}/s3/bucket/a/b.png"
        assert Path(path).read_text() == "content"
        for other in (path.parent / "c.npy", path.with_name("c.npy"), *path.parent.iterdir()):
            assert f"{other}".startswith("s3://bucket/a/")
        assert f"{pickle.loads(pickle.dumps(path))}" == f"{path}"
        assert path == Path(str(path))
    assert not stage.exists()


@pytest.mark.parametrize("path", ["a/b.png", "/tmp/a.png", "a.segfix-urls", "."])
def test_what_has_no_url_is_called_by_its_path(path: str) -> None:
    assert f"{StagedPath(path)}" == path


def test_standard_input_is_called_so() -> None:
    path = StandardInput("/tmp/x/-")
    assert f"{path}" == f"{path.with_suffix('.png')}" == "standard input"
    assert str(path) == "/tmp/x/-"
