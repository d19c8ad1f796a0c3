from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tqdm import tqdm

from monai_mamba_gen.utils import DataError, install_concise_errors, root_cause

PRELUDE = """
from monai_mamba_gen.utils import DataError, derive_seed, import_optional, install_concise_errors
"""


def shown(code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the process would print if the code ended it."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    install_concise_errors()
    try:
        exec(PRELUDE + code, {"__name__": "users_script"})
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
    return capsys.readouterr().err


WRAPPED = """
try:
    raise DataError("image.nii: key 'image': NaN voxels")
except ValueError as error:
    raise RuntimeError("applying transform") from error
"""

# A library's error behind ours says less than ours.
CAUSED = """
try:
    open("no such file")
except OSError as error:
    raise DataError("model.pt is damaged") from error
"""

ONE_LINE = {
    "plain": ("raise DataError('folder: no images')", "folder: no images"),
    "wrapped by a library": (WRAPPED, "image.nii: key 'image': NaN voxels"),
    "caused by a library": (CAUSED, "model.pt is damaged"),
    "argument": ("derive_seed()", "key must be a non-empty sequence of int and str, got ()"),
    "package of MONAI": (
        "from monai.utils import optional_import\noptional_import('no_such', descriptor='Please install it.')[0].name",
        "Please install it. (No module named 'no_such')",
    ),
    "extra": ("import_optional('no_such_module', 'metrics')", "no_such_module is needed here: pip install"),
}


@pytest.mark.parametrize("name", ONE_LINE)
def test_shown_as_one_line(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("MONAI_MAMBA_GEN_TRACEBACK", raising=False)
    code, message = ONE_LINE[name]
    lines = shown(code, monkeypatch, capsys).strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"monai_mamba_gen: error: {message}")


def test_ends_the_process_with_an_error() -> None:
    code = f"{PRELUDE}\ninstall_concise_errors()\nraise DataError('no images')"
    environment = {key: value for key, value in os.environ.items() if key != "MONAI_MAMBA_GEN_TRACEBACK"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 1
    assert result.stderr == "monai_mamba_gen: error: no images\n"


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MONAI_MAMBA_GEN_TRACEBACK", "1")
    text = shown(WRAPPED, monkeypatch, capsys)
    assert "Traceback" in text
    assert "applying transform" in text


@pytest.mark.parametrize("code", ["int('x')", "raise KeyError('x')", "import no_such_module"])
def test_other_errors_keep_their_traceback(
    code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Traceback" in shown(code, monkeypatch, capsys)


def test_root_cause_follows_causes_and_contexts() -> None:
    with pytest.raises(RuntimeError) as caught:
        try:
            try:
                raise DataError("first")
            except DataError as error:
                raise KeyError("second") from error
        except KeyError:
            raise RuntimeError("third")  # noqa: B904
    assert str(root_cause(caught.value)) == "first"


def test_root_cause_stops_at_from_none() -> None:
    with pytest.raises(DataError) as caught:
        try:
            raise KeyError("hidden")
        except KeyError:
            raise DataError("shown") from None
    assert root_cause(caught.value) is caught.value


def test_data_error_is_a_value_error() -> None:
    assert issubclass(DataError, ValueError)


def test_starts_a_line_of_its_own_after_a_progress_bar(monkeypatch, capsys) -> None:
    with tqdm(total=2):
        assert "\nmonai_mamba_gen: error: key must be" in shown("derive_seed()", monkeypatch, capsys)
    capsys.readouterr()
    assert shown("derive_seed()", monkeypatch, capsys).startswith("monai_mamba_gen: error: ")


def test_an_error_that_names_itself_as_its_cause():
    error = DataError("a.nii: constant")
    error.__cause__ = error
    assert root_cause(error) is error
