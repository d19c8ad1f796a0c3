"""
Not a test: asks a real MONAI Label server for everything that this package promises of it, with every bundle.

Needs MONAI Label and this package in one environment, see ``docs/how-to/monai-label.md``. With its Python:

    python tests/label/serve.py                                   # all bundles, in a temporary folder
    python tests/label/serve.py --bundles NAME NAME --folder DIR  # some of them; DIR keeps data, answers and logs

For each bundle it makes phantom data and a copy of the bundle with a tiny network of random weights, starts a server,
sends requests, compares status, shape and affine of the answers, stops the server, and prints a table. Exit status 1 if
an answer is not as expected. Takes about half a minute a bundle on two cores; it downloads nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import requests
import torch
from cases import CASES, Case, Request, copy_bundle
from monai.transforms import LoadImage

logging.disable(logging.WARNING)  # readers talk of decoders that are not there
ROOT = Path(__file__).resolve().parents[2]
START_SECONDS, ANSWER_SECONDS = 180, 600
# PyPI's torchvision is built for CUDA and cannot be imported beside a torch for CPUs; MONAI Label imports it.
SHIM = """import torch

_library = torch.library.Library("torchvision", "DEF")
_library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a server: this checkout, and the shim where torchvision needs it."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    works = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, check=False)
    if works.returncode:
        (folder / "shim").mkdir(exist_ok=True)
        (folder / "shim" / "sitecustomize.py").write_text(SHIM)
        paths.insert(0, str(folder / "shim"))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}


def download_app(folder: Path) -> Path:
    """Return the app for bundles, which MONAI Label copies out of its own installation."""
    app = folder / "workspace" / "monaibundle"
    if not app.is_dir():
        command = ["-m", "monailabel.main", "apps", "--download", "--name", "monaibundle", "--output", app.parent]
        output = subprocess.run([sys.executable, *map(str, command)], env=environment(folder), capture_output=True)
        if output.returncode:
            raise SystemExit(f"MONAI Label cannot be started:\n{output.stderr.decode()[-2000:]}")
    return app


@contextmanager
def server(app: Path, case: Case, studies: Path, log: Path) -> Iterator[str]:
    """Run a server and give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--app", app, "--studies", studies, "--host", "127.0.0.1", "--port", port]
    confs = {"models": case.bundle, "zoo_source": "local", "sam2": "false"}
    options += [part for name, value in confs.items() for part in ("--conf", name, value)]
    command = [sys.executable, "-m", "monailabel.main", "start_server", *map(str, options)]
    address = f"http://127.0.0.1:{port}"
    with open(log, "w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment(app.parents[1]))
        try:
            end = time.monotonic() + START_SECONDS
            while True:
                try:
                    requests.get(f"{address}/info/", timeout=30).raise_for_status()
                    break
                except requests.RequestException as error:
                    if process.poll() is not None or time.monotonic() > end:
                        raise SystemExit(f"the server of {case.bundle} did not start, see {log}") from error
                    time.sleep(0.5)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def answer(address: str, case: Case, studies: Path, request: Request, path: Path) -> requests.Response:
    """Send one request for a file."""
    params = {"params": json.dumps({"device": "cpu", **request.params})}
    url = f"{address}/infer/{case.bundle}?output=image"
    if request.upload:
        with open(studies / request.image, "rb") as stream:
            reply = requests.post(url, data=params, files={"file": (request.image, stream)}, timeout=ANSWER_SECONDS)
    else:
        name = request.image.split(".")[0]
        reply = requests.post(f"{url}&image={name}", data=params, timeout=ANSWER_SECONDS)
    if reply.ok:
        path.write_bytes(reply.content)
    return reply


def read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Return values and affine, None for a picture."""
    if path.name.endswith(".png"):
        return LoadImage(image_only=True, reader="PILReader")(path).numpy(), None
    if path.name.endswith((".nii", ".nii.gz")):
        image = nib.load(path)
        return image.get_fdata(), image.affine
    image = LoadImage(image_only=True, reader="ITKReader")(path)
    return image.numpy(), image.affine.numpy()


def wrong(path: Path, source: Path) -> str:
    """Return what is not right about an answer, "" if nothing."""
    values, affine = read(path)
    expected, where = read(source)
    shape = expected.shape[:3] if expected.ndim > 2 or where is None else (*expected.shape, 1)
    if values.shape != shape:
        return f"shape {values.shape} instead of {shape}"
    if not np.isfinite(values).all() or np.ptp(values) == 0:
        return "values not finite, or all the same"
    return "" if affine is None or np.allclose(affine, where, atol=1e-4) else "another affine"


def ask(address: str, case: Case, studies: Path, folder: Path) -> Iterator[tuple[str, int, str, float, str]]:
    """Send all requests of a bundle; give name, status, shape, seconds and what is wrong."""
    made: list[bytes] = []
    for number, request in enumerate(case.requests):
        source = studies / request.image
        extension = request.params.get("result_extension", "." + source.name.split(".", 1)[1])
        path = folder / f"{case.bundle}_{number}{extension}"
        start = time.monotonic()
        reply = answer(address, case, studies, request, path)
        seconds, name = time.monotonic() - start, f"infer {request.image} {json.dumps(request.params)}"
        if request.refused:
            yield f"{name} (bad)", reply.status_code, "-", seconds, "" if reply.status_code == 500 else "not refused"
            continue
        problem = f"status {reply.status_code}" if not reply.ok else wrong(path, source)
        shape = str(read(path)[0].shape) if reply.ok else "-"
        content = read(path)[0].tobytes() if reply.ok else b""
        if (content in made) is not request.same:
            problem = problem or ("not the same as before" if request.same else "the same as for other parameters")
        made.append(content)
        yield name, reply.status_code, shape, seconds, problem
    yield timed("json answer", lambda: ask_json(address, case))
    yield timed("batch infer", lambda: ask_batch(address, case, studies))
    yield timed("train, 1 epoch", lambda: ask_train(address, case, folder / "workspace" / "monaibundle" / "model"))


def timed(name: str, action: Callable[[], tuple[int, str, str]]) -> tuple[str, int, str, float, str]:
    start = time.monotonic()
    status, shape, problem = action()
    return name, status, shape, time.monotonic() - start, problem


def ask_json(address: str, case: Case) -> tuple[int, str, str]:
    """The answer says that the image is synthetic."""
    url = f"{address}/infer/{case.bundle}?output=json&image={case.requests[0].image.split('.')[0]}"
    params = {"device": "cpu", **case.requests[0].params}
    reply = requests.post(url, data={"params": json.dumps(params)}, timeout=ANSWER_SECONDS)
    marked = reply.ok and reply.json().get("synthetic") is True
    return reply.status_code, "-", "" if marked else "not marked as synthetic"


def ask_batch(address: str, case: Case, studies: Path) -> tuple[int, str, str]:
    """All images without a final label get a result, kept as their label "original", with its marks."""
    body: dict[str, Any] = {"device": "cpu", "multi_gpu": False, "max_workers": 1, **case.batch_params}
    url = f"{address}/batch/infer/{case.bundle}?images={case.batch_images}&run_sync=true"
    reply = requests.post(url, json=body, timeout=ANSWER_SECONDS)
    kept = sorted((studies / "labels" / "original").glob("*"))
    shapes = sorted({str(read(path)[0].shape) for path in kept})
    problem = "" if reply.ok and len(kept) == case.batch_count else f"{len(kept)} results, not {case.batch_count}"
    for path in kept:
        problem = problem or wrong(path, studies / path.name)
    record = json.loads((studies / "datastore_v2.json").read_text())
    results = [entry["labels"]["original"] for entry in record["objects"].values() if "original" in entry["labels"]]
    marks = [result["info"] for result in results]
    if not marks or not all(mark.get("params", {}).get("synthetic") for mark in marks):
        problem = problem or "not marked in the datastore"
    return reply.status_code, f"{len(kept)} x {', '.join(shapes)}", problem


def ask_train(address: str, case: Case, models: Path) -> tuple[int, str, str]:
    """One epoch from the weights that are there writes others."""
    path = models / case.bundle / "models" / "model.pt"
    before = torch.load(path, weights_only=True)
    body = {"device": "cpu", "max_epochs": 1, "multi_gpu": False, "val_split": 0.25}
    url = f"{address}/train/{case.bundle}?run_sync=true"
    reply = requests.post(url, json=body, timeout=ANSWER_SECONDS)
    after = torch.load(path, weights_only=True)
    change = max(float((after[key] - before[key]).abs().max()) for key in before if before[key].is_floating_point())
    history = path.parents[1] / "eval" / "history.jsonl"
    lines = len(history.read_text().splitlines()) if history.is_file() else 0
    # the warm-up of the learning rate keeps the weights near those that were there
    good = reply.ok and 0 < change < 0.01 and lines == 1
    problem = "" if good else f"weights changed by {change:g}, epochs: {lines}"
    return reply.status_code, "-", problem


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask a real MONAI Label server for everything, with every bundle.")
    parser.add_argument("--bundles", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--folder", help="keeps data, answers and the servers' logs")
    arguments = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.folder or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        app = download_app(folder)
        print("| bundle | request | status | shape | s | |\n|---|---|---|---|---|---|")
        for name in arguments.bundles:
            case = CASES[name]
            studies = folder / "studies" / name
            for path in (studies, app / "model" / name):
                shutil.rmtree(path, ignore_errors=True)
            case.write(studies, folder / "phantoms" / name)
            copy_bundle(ROOT / "bundles" / case.bundle, app / "model" / case.bundle, case.tiny)
            with server(app, case, studies, folder / f"{name}.log") as address:
                for row in ask(address, case, studies, folder):
                    bad += bool(row[-1])
                    print(f"| {name} | {row[0]} | {row[1]} | {row[2]} | {row[3]:.1f} | {row[4] or 'ok'} |", flush=True)
    print(f"{bad} answers are not as expected" if bad else "all answers are as expected")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
