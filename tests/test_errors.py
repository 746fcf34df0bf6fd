from __future__ import annotations

import pickle

from segfix.errors import FileFormatError, Interrupted, SegfixError


def test_an_error_is_the_sentence_of_its_fields() -> None:
    error = FileFormatError("4×3", path="a.png", expected="b.png is 5×4", advice="crop it")
    assert str(error) == "a.png: 4×3, but b.png is 5×4; crop it."
    assert str(FileFormatError("no such file", path="a.png")) == "a.png: no such file."
    assert str(SegfixError("a.png: broken.")) == "a.png: broken."
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), str(copied), vars(copied)) == (type(error), str(error), vars(error))


def test_an_interruption_says_how_far_the_run_has_come() -> None:
    assert str(Interrupted(2, "image", 4, 1)) == "2 of 4 images done, 1 failed"
    assert str(Interrupted(2, "image")) == "2 images done"
    assert str(Interrupted(0, "image", 1)) == "0 of 1 image done"
