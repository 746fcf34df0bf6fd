"""The HTTP API: what comes back, and whom it answers."""

from __future__ import annotations

import io
import json
import pickle
import time
import zipfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segfix.files.reading import PICTURES
from segfix.instances.listing import INSTANCE_SUFFIXES
from segfix.refinement.sizes import FITS
from segfix.serve.app import ASSETS, EVERY_ANSWER
from segfix.serve.upload import FIELDS, FILES
from tests.cli.commands import run
from tests.serve.client import (
    FORM,
    IMAGE,
    PAIR,
    PREDICTION,
    ask,
    form,
    good_form,
    named,
    post,
    post_form,
)
from tests.serve.conftest import Service

NOT_HERE = json.dumps(
    {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 24} for n in (1, 2)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}
            for n in (1, 2)
        ],
        "categories": [{"id": 1, "name": "x"}],
    }
).encode()
"""Instances of two photographs that aren't there."""
FIXED = ("result", "report")


@pytest.fixture(autouse=True)
def here(work: Path) -> Path:
    """Photographs and predictions."""
    return work


def same_size(value: object = 0) -> bytes:
    """A .npy file of the photographs' size."""
    file = io.BytesIO()
    np.save(file, np.full((24, 40), value), allow_pickle=True)
    return file.getvalue()


# What comes back


def make_palette(path: Path, pred: np.ndarray[Any, Any]) -> None:
    picture = Image.fromarray(pred)
    picture.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10])
    picture.save(path)


def make_scores(path: Path, pred: np.ndarray[Any, Any]) -> None:
    np.save(path, np.stack([pred == 1, pred == 2]).astype(np.float32) * 0.9 + 0.05)


def make_archive(path: Path, pred: np.ndarray[Any, Any]) -> None:
    np.savez_compressed(path, masks=np.stack([pred == 1, pred == 2]), scores=np.array([0.5, 0.6]))


def make_coco(path: Path, pred: np.ndarray[Any, Any]) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    runs = mask.encode(np.asfortranarray(pred == 2).astype(np.uint8))
    segmentation = {"size": runs["size"], "counts": runs["counts"].decode()}
    image = {"id": 3, "file_name": "a.png", "height": 24, "width": 40}
    item = {"id": 1, "image_id": 3, "category_id": 1, "segmentation": segmentation, "mine": "kept"}
    document = {"images": [image], "annotations": [item], "categories": [{"id": 1, "name": "x"}]}
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("pred.png", make_palette),
        ("pred.npy", make_scores),
        ("pred.npz", make_archive),
        ("pred.json", make_coco),
    ],
)
def test_the_file_is_that_of_segfix_fix(
    service: Service, conditioned_onnx: Path, name: str, make: Callable[..., None]
) -> None:
    path = Path(name)
    make(path, np.array(Image.open(PREDICTION)))
    arguments = ("fix", IMAGE, path, "--weights", conditioned_onnx, "--device", "cpu", "-q")
    assert run(*arguments).exit_code == 0
    fixed = path.with_stem("pred_fixed")
    assert fixed.read_bytes() != path.read_bytes()
    answer = post(service.port, IMAGE, path)
    assert answer.status == 200, answer.body
    assert answer.body == fixed.read_bytes()
    assert fixed.name in answer.headers["content-disposition"]
    assert json.loads(answer.headers["segfix-report"])["changed"] > 0
    shown = post(service.port, IMAGE, path, accept="multipart/form-data")
    parts = shown.parts
    assert parts["result"] == (fixed.name, fixed.read_bytes())
    sizes = {n: Image.open(io.BytesIO(parts[n][1])).size for n in parts if n not in FIXED}
    assert sizes == dict.fromkeys(("photograph", "before", "after", "changes"), (40, 24))
    assert parts["before"] != parts["after"]
    told = json.loads(parts["report"][1])
    assert told["share"] == pytest.approx(2 / 40)
    assert told["ids"]


def test_settings_are_those_of_segfix_fix(service: Service) -> None:
    plain = post(service.port, IMAGE, PREDICTION).body
    assert post(service.port, IMAGE, PREDICTION, scale="auto", fit="", key="").body == plain
    assert post(service.port, IMAGE, PREDICTION, scale=0).body != plain
    assert (
        b'"min_confidence": 0.5' in post(service.port, IMAGE, PREDICTION, min_confidence=0.5).body
    )
    assert b'"passes": 3' in post(service.port, IMAGE, PREDICTION, passes=3).body
    refused = post(service.port, IMAGE, PREDICTION, passes=5)
    assert (refused.status, refused.error) == (400, "passes: expected 1 … 4.")
    make_scores(Path("soft.npy"), np.array(Image.open(PREDICTION)))
    answer = post(service.port, IMAGE, Path("soft.npy"), argmax="true", accept=FORM)
    name, content = answer.parts["result"]
    assert name == "soft_fixed.png"
    assert np.unique(np.array(Image.open(io.BytesIO(content)))).tolist() == [0, 1]
    Image.fromarray(np.array(Image.open(PREDICTION))[::2, ::2]).save("small.png")
    answer = post(service.port, IMAGE, Path("small.png"), fit="labels", accept=FORM)
    assert Image.open(io.BytesIO(answer.parts["result"][1])).size == (20, 12)
    assert Image.open(io.BytesIO(answer.parts["after"][1])).size == (40, 24)


def test_ids_that_are_kept_stay(service: Service) -> None:
    before = np.array(Image.open(PREDICTION))
    for keep, same in (("1", True), ("1,2", True), ("none", False), ("", False)):
        answer = post(service.port, IMAGE, PREDICTION, keep=keep)
        assert (np.array(Image.open(io.BytesIO(answer.body))) == before).all() == same
    refused = post(service.port, IMAGE, PREDICTION, keep="one")
    assert refused.status == 400
    assert refused.error == "keep: expected none, ids such as 255,0 or colours #RRGGBB."


def test_instances_come_back_in_the_form_asked_for(service: Service) -> None:
    pytest.importorskip("shapely", reason="needs the extra: pip install 'segfix-refine[polygons]'")
    path = Path("pred.json")
    make_coco(path, np.array(Image.open(PREDICTION)))
    answer = post(service.port, IMAGE, path, **{"as": "polygons", "simplify": "0"})
    assert isinstance(json.loads(answer.body)["annotations"][0]["segmentation"], list)
    refused = post(service.port, IMAGE, PREDICTION, **{"as": "rle"})
    assert refused.status == 422
    assert refused.error == "as is for instances, not for label maps and arrays; leave it out."


def test_of_several_photographs_the_one_sent_is_fixed(service: Service) -> None:
    path = Path("pred.json")
    make_coco(path, np.array(Image.open(PREDICTION)))
    document = json.loads(path.read_text())
    document["images"] = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]
    document["annotations"] = [
        {**item, "image_id": number} for number in (2, 1) for item in document["annotations"]
    ]
    path.write_text(json.dumps(document))
    answer = post(service.port, IMAGE, path, accept=FORM)
    assert answer.status == 200, answer.error
    assert json.loads(answer.parts["report"][1])["other_photographs"] == 1
    other, fixed = json.loads(answer.parts["result"][1])["annotations"]
    assert other == document["annotations"][0]
    assert fixed["segmentation"] != document["annotations"][1]["segmentation"]


def test_a_broken_instance_is_told_with_the_photograph(service: Service) -> None:
    path = Path("pred.json")
    make_coco(path, np.array(Image.open(PREDICTION)))
    document = json.loads(path.read_text())
    document["annotations"][0]["segmentation"] = {"size": [24, 41], "counts": "0"}
    path.write_text(json.dumps(document))
    answer = post(service.port, IMAGE, path)
    assert answer.status == 422
    assert "doesn't fit its photograph a.png (" in answer.error


@pytest.mark.parametrize("fit", FITS)
def test_a_mask_of_another_size_fits_as_it_is_told(service: Service, fit: str) -> None:
    sides = {"letterbox": (40, 40), "corner": (40, 40), "crop": (30, 20)}.get(fit, (20, 12))
    Image.open(PREDICTION).crop((0, 0, *sides)).save("other.png")
    answer = post(service.port, IMAGE, Path("other.png"), fit=fit, accept=FORM)
    assert answer.status == 200, answer.error
    assert Image.open(io.BytesIO(answer.parts["before"][1])).size == (40, 24)


def test_large_photographs_and_colours_are_shown_smaller(service: Service) -> None:
    colours = np.zeros((100, 2048, 3), np.uint8)
    colours[:, 1000:] = (200, 30, 5)
    Image.fromarray(colours).save("colours.png")
    answer = post(service.port, Path("colours.png"), Path("colours.png"), accept=FORM)
    assert Image.open(io.BytesIO(answer.parts["before"][1])).size == (1024, 50)
    told = json.loads(answer.parts["report"][1])
    assert (told["width"], told["height"], told["of"], told["ids"]) == (1024, 50, [2048, 100], [])


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("../../etc/a.png", "a_fixed.png"),
        ("C:\\\\x\\\\a.png", "a_fixed.png"),
        ("Größe 1.png", "Größe_1_fixed.png"),
        ("a;b%00c$.png", "a_b_00c__fixed.png"),
        (f"{'long' * 99}.png", f"{('long' * 99 + '.png')[-80:-4]}_fixed.png"),
        ("..a.png", "a_fixed.png"),
    ],
)
def test_names_of_clients_are_names_alone(service: Service, sent: str, name: str) -> None:
    body = form(
        {"image": (sent, IMAGE.read_bytes()), "prediction": (sent, PREDICTION.read_bytes())}
    )
    answer = post_form(service.port, body, accept=FORM)
    assert answer.status == 200, answer.body
    assert answer.parts["result"][0] == name


# What is wrong


def make_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": (5000, 5000)}
        )
        archive.writestr("a.npy", header.getvalue() + bytes(25_000_000))


class Harm:
    def __reduce__(self) -> Any:
        return (Path("harmed").touch, ())


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("bad.png", b"no picture", "bad.png: not a readable label map; expected a picture file."),
        ("cut.png", None, "cut.png: broken or truncated label map"),
        ("a.jpg", b"\xff\xd8\xff", "a.jpg: "),
        ("a.txt", b"?", "a.txt: "),
        ("o.npy", "objects", "o.npy: an array of Python objects, which isn't read"),
        ("p.npy", pickle.dumps(Harm()), "p.npy: not a NumPy array"),
        ("bomb.npz", "bomb", "bomb.npz: 25000128 bytes once unpacked, more than the 16777216"),
        ("size.npy", same_size()[:128] + bytes(7680), None),
        ("two.npy", "wide", "two.npy: 50×24, but its photograph a.png is 40×24; --fit letterbox"),
        ("a.json", NOT_HERE, "no photograph in a.png has instances in a.json, which has those of "),
        ("a.json", b'[{"image_id": 1}]', "a.json: "),
        ("a\x1b[31m.png", b"?", "a__31m.png: "),
    ],
)
def test_a_broken_file_is_one_line(
    service: Service, name: str, content: bytes | str | None, told: str | None
) -> None:
    if content is None:
        content = PREDICTION.read_bytes()[:60]
    elif content == "objects":
        content = same_size(Harm())
    elif content == "bomb":
        make_bomb(Path("bomb.npz"))
        content = Path("bomb.npz").read_bytes()
        assert len(content) < 100_000
    elif content == "wide":
        np.save("wide.npy", np.zeros((24, 50), int))
        content = Path("wide.npy").read_bytes()
    assert isinstance(content, bytes)
    body = form({"image": named(IMAGE), "prediction": (name, content)})
    for accept in ("*/*", FORM):
        answer = post_form(service.port, body, accept=accept)
        assert answer.status == (422 if told else 200), answer.body
        if told:
            assert answer.error.startswith(told), answer.error
            assert str(service.folder) not in answer.error
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (form({}), 400, "no file in the field 'image'; send an image and a prediction."),
        (form({"image": ("a.png", b"?")}), 400, "no file in the field 'prediction'"),
        (form({"image": ("", b"?")}), 400, "no file in the field 'image'"),
        (form({}, {"image": "/etc/passwd"}), 400, "no file in the field 'image'"),
        (form(PAIR, {"scale": "many"}), 400, "scale: expected auto or 0 … 64."),
        (form(PAIR, {"scale": "nan"}), 400, "scale: expected auto or 0 … 64."),
        (form(PAIR, {"iterate": "2.5"}), 400, "iterate: expected 0 … 1000."),
        (form(PAIR, {"soft": "maybe"}), 400, "soft: expected true or false."),
        (form(PAIR, {"path": "/etc"}), 400, "unknown field 'path'; known ones are image, "),
        (form(PAIR, {"iterate": 3, "scale": 2}), 400, "scale has no effect with iterate"),
        (form(PAIR, {"key": "x" * 2000}), 400, "Part exceeded maximum size"),
        (form(PAIR | {"more": ("a.png", b"?")}), 400, "Too many files"),
        (form(PAIR)[:-40], 422, ""),
        (b"nothing", 400, ""),
        (b"", 400, ""),
    ],
)
def test_a_broken_form_is_one_line(service: Service, body: bytes, status: int, told: str) -> None:
    answer = post_form(service.port, body)
    if told:
        assert (answer.status, answer.error[: len(told)]) == (status, told)
    else:
        assert answer.status in (400, 422), answer.body
        assert answer.error


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "image/png", ""])
def test_what_is_no_form_is_refused(service: Service, kind: str) -> None:
    answer = post_form(service.port, b"{}", content_type=kind)
    assert answer.status == 415
    assert "multipart/form-data" in answer.error


def test_other_paths_and_methods_are_refused(service: Service) -> None:
    assert ask(service.port, "GET", "/fix").status == 405
    assert ask(service.port, "POST", "/").status == 405
    for path in ("/nothing", "/../app.py", "/%2e%2e/app.py", "/page.html", "//etc/passwd"):
        answer = ask(service.port, "GET", path)
        assert (answer.status, answer.error) == (404, "Not Found")


def test_a_fault_of_ours_tells_nothing_of_us(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("/secret/place")

    monkeypatch.setattr("segfix.serve.result.fix_files", fail)
    answer = post(service.port, IMAGE, PREDICTION)
    assert (answer.status, answer.error) == (
        500,
        "the server has a fault; its own messages say more.",
    )
    deadline = time.monotonic() + 10
    while "ZeroDivisionError: /secret/place" not in caplog.text:
        assert time.monotonic() < deadline


# Who may ask


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("127.0.0.1:1", True),
        ("[::1]:8000", True),
        ("192.168.1.7", True),
        ("labels.example.org", True),
        ("evil.example.com:8000", False),
        ("localhost.evil.com", False),
        ("127.0.0.1.evil.com", False),
        ("evil.com@localhost.evil.com", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_pages_of_names_that_were_pointed_here_get_nothing(
    start: Callable[..., Service], host: str, known: bool
) -> None:
    service = start(hosts=frozenset({"labels.example.org"}))
    for method, path in (("GET", "/"), ("GET", "/status"), ("POST", "/fix")):
        answer = ask(service.port, method, path, host=host)
        assert (answer.status != 421) == known, answer.body
        assert known or "no name of this service" in answer.error


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("https://labels.example.org", "labels.example.org", True),
        ("http://127.0.0.1:9000", "127.0.0.1:8000", False),
        ("http://evil.com", "127.0.0.1:8000", False),
        ("null", "127.0.0.1:8000", False),
        ("http://[", "127.0.0.1:8000", False),
    ],
)
def test_pages_of_other_origins_get_nothing(
    start: Callable[..., Service], origin: str, host: str, allowed: bool
) -> None:
    service = start(hosts=frozenset({"labels.example.org"}))
    body = good_form()
    answer = post_form(service.port, body, host=host, origin=origin)
    assert answer.status == (200 if allowed else 403)
    assert ask(service.port, "OPTIONS", "/fix", host=host, origin=origin).status in (403, 405)


def test_every_answer_keeps_other_pages_out(service: Service) -> None:
    answers = [
        ask(service.port, "GET", "/"),
        ask(service.port, "GET", "/nothing"),
        ask(service.port, "GET", "/", host="evil.com"),
        post(service.port, IMAGE, PREDICTION),
        post(service.port, IMAGE, PREDICTION, accept=FORM),
        post(service.port, IMAGE, None),
    ]
    for answer in answers:
        assert EVERY_ANSWER.items() <= {k.lower(): v for k, v in answer.headers.items()}.items()
        names = [name.lower() for name in answer.headers]
        assert len(set(names)) == len(names)
        assert not [name for name in names if name.startswith("access-control") or name == "server"]


# The pages


def test_pages_need_nothing_from_elsewhere(service: Service) -> None:
    for path, (kind, names) in ASSETS.items():
        answer = ask(service.port, "GET", path)
        assert (answer.status, answer.headers.get_content_type()) == (200, kind)
        text = answer.body.decode()
        assert text == "".join(files("segfix").joinpath(name).read_text("utf-8") for name in names)
        assert "//" not in text.replace(" // ", "").replace("})) // ", "") or kind != "text/html"
        assert "http:" not in text
        assert "https:" not in text


def test_the_description_names_every_field_and_answer(service: Service) -> None:
    described = json.loads(ask(service.port, "GET", "/openapi.json").body)
    post_it = described["paths"]["/fix"]["post"]
    schema = post_it["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert list(schema["properties"]) == [*FILES, *FIELDS]
    for name, (default, _, read) in FIELDS.items():
        stated = schema["properties"][name]["default"]
        assert (default if stated in ("", "auto") else read(str(stated).lower())) == default
    for kind in (*PICTURES, "HEIF"):
        called = {"JPEG2000": "JPEG 2000", "WEBP": "WebP", "PPM": "PNM"}.get(kind, kind)
        assert called in schema["properties"]["image"]["description"]
    for suffix in INSTANCE_SUFFIXES:
        assert suffix in schema["properties"]["prediction"]["description"]
    source = "".join(
        path.read_text("utf-8") for path in Path(str(files("segfix.serve"))).glob("*.py")
    )
    for status in post_it["responses"]:
        assert status in ("200",) or status in source, status
    status = json.loads(ask(service.port, "GET", "/status").body)
    answer = described["paths"]["/status"]["get"]["responses"]["200"]
    told = answer["content"]["application/json"]["schema"]["properties"]
    assert list(status) == list(told)
    assert status["weights"] == "conditioned"
