"""Descriptions: alike for what is built alike, in any process; different for any other setting."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirstd, Lambdad, LoadImaged, RandFlipd, ScaleIntensityRanged

from monai_mamba_gen.data.fingerprint import describe_files, describe_object, fingerprint
from monai_mamba_gen.transforms import CheckPaird, ScaleIntensityInMaskd, ScaleIntensityWindowd


def pipeline(upper=99.5, keys=("image", "target")):
    return Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            CheckPaird(),
            ScaleIntensityWindowd("image", (-1000, 1000)),
            ScaleIntensityInMaskd("target", upper=upper),
            RandFlipd("image", 0.5, 0),
        ]
    )


def shifted(by):
    return Lambdad("image", lambda volume: volume + by)


def test_alike_and_different():
    base = describe_object(pipeline())
    assert base == describe_object(pipeline()) and " at 0x" not in base
    assert base != describe_object(pipeline(99)) and base != describe_object(pipeline(keys=("image",)))
    order = Compose(pipeline().transforms[::-1])
    assert describe_object(order) != base


def test_use_changes_nothing():
    scale = ScaleIntensityRanged("image", 0, 1, -1, 1)
    flip = RandFlipd("image", 0.5, 0).set_random_state(seed=3)
    before = describe_object(Compose([scale]))
    flipped = describe_object(flip.R)
    Compose([scale, flip])({"image": torch.rand(1, 4, 4)})
    assert describe_object(Compose([scale])) == before and describe_object(flip.R) == flipped


def test_functions_by_code_defaults_and_what_they_enclose():
    assert describe_object(shifted(1)) == describe_object(shifted(1)) != describe_object(shifted(2))
    one, other = (lambda x: x + 1), (lambda x: x + 2)
    assert describe_object(one) != describe_object(other)
    assert describe_object(functools.partial(max, 1)) != describe_object(functools.partial(max, 2))
    first, second = (lambda x, y=1: x), (lambda x, y=2: x)
    assert describe_object(first).split("(", 1)[1] != describe_object(second).split("(", 1)[1]


def test_values():
    assert describe_object(np.arange(3)) == describe_object(torch.arange(3)) != describe_object(np.arange(3.0))
    assert describe_object({"b": 1, "a": 2}) == describe_object({"a": 2, "b": 1}) != describe_object({"a": 2})
    assert describe_object({1, 2}) == describe_object({2, 1})
    loop = []
    loop.append(loop)
    assert describe_object(loop) == "[...]"


def test_the_same_in_another_process():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_fingerprint import *\nprint(fingerprint(describe_object(pipeline()), describe_object(shifted(2))))"
    )
    here = Path(__file__).resolve()
    output = subprocess.run(
        [sys.executable, "-c", code, str(here.parent)],
        capture_output=True,
        text=True,
        check=True,
        cwd=here.parents[2],
        env={**os.environ, "PYTHONHASHSEED": "5"},
    ).stdout
    names = [describe_object(pipeline()), describe_object(shifted(2)).replace(__name__, "test_fingerprint")]
    assert output.strip() == fingerprint(*names)


def test_files_by_size_and_time(tmp_path):
    path = tmp_path / "a.nii"
    absent = describe_files(path)
    path.write_bytes(b"abc")
    os.utime(path, (1, 1))
    first = describe_files(path)
    assert describe_files(path) == first != absent
    os.utime(path, (2, 2))
    second = describe_files(path)
    path.write_bytes(b"abcd")
    os.utime(path, (2, 2))
    assert len({absent, first, second, describe_files(path)}) == 4
    folder = describe_files(tmp_path)
    (tmp_path / "b.dcm").write_bytes(b"x")
    assert describe_files(tmp_path) != folder
