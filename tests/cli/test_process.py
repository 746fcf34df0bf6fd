"""The installed command as a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

COMMAND = Path(sys.executable).with_name("segfix")


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMAND), *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        timeout=120,
        env=os.environ | environment,
    )


@pytest.fixture(autouse=True)
def installed() -> None:
    assert COMMAND.exists(), "install the package first: make install"


def test_predict_and_refine_as_a_user_types_them(work: Path, tiny_onnx: Path) -> None:
    predicted = run("predict-offsets", "images/", "--weights", tiny_onnx)
    assert predicted.returncode == 0, predicted.stderr
    assert predicted.stdout == "offsets: 3 written\n"
    refined = run("refine", "preds/", "--offsets")
    assert refined.returncode == 0, refined.stderr
    assert refined.stdout == "refined: 3 written; 5.00% of the pixels changed their label\n"


def test_offsets_that_fit_predictions_as_a_user_types_them(
    work: Path, conditioned_onnx: Path
) -> None:
    predict = ("predict-offsets", "images/", "--weights", conditioned_onnx, "--preds", "preds/")
    predicted = run(*predict)
    assert predicted.returncode == 0, predicted.stderr
    assert predicted.stdout == "offsets: 3 written\n"
    assert run(*predict).stdout == "offsets: 0 written, 3 already there\n"
    refined = run("refine", "preds/", "-q")
    assert (refined.returncode, refined.stderr) == (0, "")
    again = run("refine", "refined/", "-o", "twice", "-q")
    assert again.stderr == (
        "segfix: 3 of 3 offset maps were made for other predictions, such as that of "
        "refined/a.png; run predict-offsets again with --preds refined.\n"
    )


def test_errors_are_one_line_without_a_traceback(work: Path) -> None:
    result = run("refine", "preds")
    assert result.returncode == 2
    assert result.stdout == ""
    start = "segfix: offsets: no such file or folder; make it: segfix predict-offsets"
    assert result.stderr == f"{start} IMAGES -o offsets\n"


def test_a_failure_gives_exit_status_one_and_a_line_on_stderr(work: Path, tiny_onnx: Path) -> None:
    shutil.copy("images/a.png", "images/z.png")
    Path("images/z.png").write_bytes(Path("images/a.png").read_bytes()[:60])
    result = run("predict-offsets", "images", "--weights", tiny_onnx, "-q")
    assert result.returncode == 1
    assert result.stderr.startswith("failed: images/z.png: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have text alone as names")
def test_names_that_are_no_text_are_escaped(work: Path) -> None:
    shutil.copytree("labels", os.fsdecode(b"after\xff"))
    arguments = ("evaluate", "preds", "labels", "--against", os.fsdecode(b"after\xff"), "-q")
    for form in ((), ("--csv",)):
        result = run(*arguments, *form, PYTHONIOENCODING="utf-8")
        assert (result.returncode, result.stderr) == (0, "")
        assert r"after\udcff" in result.stdout


def test_signs_that_a_code_page_lacks_are_escaped(work: Path) -> None:
    result = run("evaluate", "preds", "labels", "--errors", "-q", PYTHONIOENCODING="cp1252")
    assert (result.returncode, result.stderr) == (0, "")
    assert r"\u2264 1 px" in result.stdout


def test_a_photograph_streams_through_as_a_user_types_it(work: Path, tiny_onnx: Path) -> None:
    assert run("predict-offsets", "images", "--weights", tiny_onnx, "-q").returncode == 0
    command = [str(COMMAND), "predict-offsets", "-", "--weights", str(tiny_onnx)]
    with Path("images/a.png").open("rb") as photograph, Path("a.png").open("wb") as offsets:
        done = subprocess.run(
            command, stdin=photograph, stdout=offsets, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"weights tiny on cpu\n")
    assert Path("a.png").read_bytes() == Path("offsets/a.png").read_bytes()
    broken = subprocess.run(command, input=b"text", capture_output=True, check=False)
    assert (broken.returncode, broken.stdout) == (1, b"")
    assert broken.stderr.splitlines()[-1].startswith(b"segfix: standard input: not a readable")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", ["<&-", "</dev/null >&-"])
def test_a_closed_stream_is_told(closed: str, tiny_onnx: Path) -> None:
    command = f'"{COMMAND}" predict-offsets - --weights "{tiny_onnx}" {closed}'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "one is closed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("imported", "frozen"), [("json", True), ("torch", False)])
def test_what_torch_imports_is_not_said_to_leak(imported: str, frozen: bool) -> None:
    code = (
        "import gc, sys, types; from segfix.cli import main; gc.freeze = lambda: print('frozen');"
        "sys.modules.setdefault(sys.argv.pop(), types.ModuleType('torch')); main()"
    )
    command = [sys.executable, "-c", code, "--version", imported]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("frozen" in done.stdout) == frozen


@pytest.fixture
def endless_onnx(tiny_onnx: Path, tmp_path: Path) -> Path:
    """The tiny network, which first counts to a number that it never reaches."""
    model = onnx.load(tiny_onnx)
    number, truth = onnx.TensorProto.INT64, onnx.TensorProto.BOOL
    value = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Identity", ["on"], ["still_on"]),
            onnx.helper.make_node("Add", ["count", "i"], ["sum"]),
        ],
        "counting",
        [value("i", number, []), value("on", truth, []), value("count", number, [])],
        [value("still_on", truth, []), value("sum", number, [])],
    )
    nodes = [
        onnx.helper.make_node("Loop", ["most", "yes", "zero"], ["counted"], body=body),
        onnx.helper.make_node("Mul", ["counted", "zero"], ["nothing"]),
        onnx.helper.make_node("Cast", ["nothing"], ["no_pixel"], to=onnx.TensorProto.UINT8),
        onnx.helper.make_node("Add", ["image", "no_pixel"], ["seen"]),
    ]
    for node in model.graph.node:
        if node.op_type == "Gather":
            node.input[0] = "seen"
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    for name, kind, content in (
        ("most", number, 10**15),
        ("yes", truth, True),
        ("zero", number, 0),
    ):
        model.graph.initializer.append(onnx.helper.make_tensor(name, kind, [], [content]))
    path = tmp_path / "endless.onnx"
    onnx.save(model, str(path))
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize(
    ("number", "status", "told"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_ends_the_run_in_the_middle_of_a_photograph(
    work: Path, endless_onnx: Path, number: signal.Signals, status: int, told: str
) -> None:
    with subprocess.Popen(
        [str(COMMAND), "predict-offsets", "images", "--weights", str(endless_onnx)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A process started in the background ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "weights tiny on cpu\n"
            time.sleep(0.3)
            process.send_signal(number)
            # It takes about a second where nothing else runs.
            output, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (process.returncode, output) == (status, "")
    advice = "0 of 3 images done; the same command does the rest."
    assert errors.endswith(f"\nsegfix: {told}; {advice}\n")
    assert not Path("offsets").exists()
