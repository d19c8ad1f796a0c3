"""
The documentation as code: links, names, options and examples are true, and the reference lists what is public.

``python tests/test_docs.py`` writes docs/reference.md anew.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import monai_mamba_gen
from monai_mamba_gen.networks.nets import VMDDPM

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference.md"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("bundles/*/docs/*.md"))]
RUN = "monai.bundle run "
RUNNER_OPTIONS = {"config_file", "tracking", "tracking_uri", "experiment_name", "run_name"}
DEMO = "bundles/acdc_slices_vm_ddpm_synthesis/eval/demo"
# Options that are not keys of a config: of MONAI's runner, torchrun, SLURM, pytest, pip, Label, TensorBoard, ours.
OTHER_OPTIONS = set(
    "config_file standalone nproc_per_node dist download name output app studies conf logdir no-deps index-url "
    "no-cache-dir force-reinstall no-build-isolation exclude json markdown inplace force backend-store-uri "
    "tracking tracking_uri experiment_name run_name "
    "nnodes rdzv_backend rdzv_id rdzv_endpoint job-name array nodes ntasks-per-node gpus-per-node cpus-per-task time "
    "requeue net_id filepath ckpt_file meta_file use_trace converter_kwargs repo bundle_dir version "
    "allow_patterns rounds keep_memory".split()
)

every_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Headings as GitHub names them."""
    prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def resolve(dotted: str) -> None:
    """Import the longest module in a dotted name and look the rest up in it."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not name.startswith(str(error.name)):
                raise
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return


def config_keys(bundle: Path) -> set[str]:
    """Keys of all configs of a bundle, nested ones too (``train#trainer#max_epochs``)."""
    keys: set[str] = set()

    def walk(content: object, prefix: str = "") -> None:
        if isinstance(content, dict):
            for key, value in content.items():
                keys.add(prefix + key)
                walk(value, f"{prefix}{key}#")

    for path in bundle.glob("configs/*.json"):
        if path.name != "metadata.json":
            walk(json.loads(path.read_text(encoding="utf-8")))
    return keys


@pytest.fixture(scope="module")
def known_options() -> set[str]:
    return set().union(*(config_keys(bundle) for bundle in ROOT.glob("bundles/*"))) | OTHER_OPTIONS


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


@every_page
def test_dotted_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in sorted(set(re.findall(r"\bmonai_mamba_gen(?:\.[A-Za-z_]\w*)+", text))):
        resolve(name)


def test_a_wrong_dotted_name_is_noticed() -> None:
    with pytest.raises(AttributeError):
        resolve("monai_mamba_gen.networks.nets.NoSuchNetwork")


@every_page
def test_options_are_keys_of_a_config(page: Path, known_options: set[str]) -> None:
    options = set(re.findall(r"(?<![\w-])--([A-Za-z][\w#-]*)", page.read_text(encoding="utf-8")))
    assert options - known_options == set()


@every_page
def test_commands_name_what_their_configs_hold(page: Path) -> None:
    own = page.parents[1].name if page.is_relative_to(ROOT / "bundles") else "acdc_slices_vm_ddpm_synthesis"
    text = page.read_text(encoding="utf-8")
    written_here = set(re.findall(r"`configs/(\w+\.json)`", text))  # configs that a page tells the reader to write
    for block in blocks(text, "bash"):
        named = re.findall(r"bundles/(\w+)", block)  # a block that names a bundle's folder is about that one
        bundle = ROOT / "bundles" / (named[-1] if named else own)
        for part in block.replace("\\\n", " ").replace("\n", "&&").split("&&"):
            if RUN not in part:
                continue
            words = shlex.split(part.partition(RUN)[2], comments=True)
            names = re.findall(r"(\w+\.json)", words[words.index("--config_file") + 1])
            config: dict = {}
            for name in names:
                path = bundle / "configs" / name
                assert path.is_file() or name in written_here, f"{name} in: {part}"
                config |= json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            assert words[0] in config, f"run id {words[0]} in: {part}"
            given = {word[2:] for word in words if word.startswith("--")} - RUNNER_OPTIONS
            assert given <= set(config), f"options in: {part}"


@every_page
def test_json_can_be_read(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8"), "json"):
        json.loads(block)


def examples(text: str) -> list[tuple[str, str]]:
    """Every Python block of a page, and those of bash that are marked to be run, in their order."""
    found = re.findall(r"(<!-- run -->\n)?^```(python|bash)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [(language, block) for marked, language, block in found if marked or language == "python"]


def run_in_bash(block: str, folder: Path) -> Path:
    """Run a block as it stands and return the folder that it ends in, where the next one goes on."""
    end = folder / "end-of-block"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    modules = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PATH": path, "PYTHONPATH": modules, "OMP_NUM_THREADS": "1"}
    command = ["bash", "-e", "-o", "pipefail", "-c", f"{block}\npwd > '{end}'"]
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=240)
    assert result.returncode == 0, f"{block}\n{result.stdout}{result.stderr}"
    return Path(end.read_text(encoding="utf-8").strip())


def leave_demo(folder: Path) -> None:
    """Leave what the README's first line leaves of itself: the demo's weights, here untrained."""
    models = folder / DEMO / "models"
    models.mkdir(parents=True)
    torch.save(VMDDPM.from_preset("micro").state_dict(), models / "model.pt")
    facts = {"preset": "micro", "image_size": [48, 48], "prediction_type": "v_prediction"}
    (models / "model.json").write_text(json.dumps(facts), encoding="utf-8")


# What pages take for granted that their commands find.
BEFORE = {"docs/quickstart.md": leave_demo}


def made_here(folder: str, names: list[str]) -> list[str]:
    """Return what runs have left in a folder of a bundle; weights that are shipped come as safetensors, too."""
    if Path(folder).name == "models":
        return [name for name in names if "model.safetensors" not in names or "checkpoint" in name]
    return [name for name in names if name == "eval"]


@every_page
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = examples(page.read_text(encoding="utf-8"))
    if any(language == "bash" for language, _ in parts):
        shutil.copytree(ROOT / "bundles", tmp_path / "bundles", ignore=made_here)
    BEFORE.get(str(page.relative_to(ROOT)), lambda folder: None)(tmp_path)
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "example"}  # the blocks of a page go on from one another
    for language, block in parts:
        if language == "python":
            exec(compile(block, str(page), "exec"), namespace)
        else:
            monkeypatch.chdir(run_in_bash(block, Path.cwd()))


def test_a_block_that_fails_is_noticed(tmp_path: Path) -> None:
    assert examples("```bash\nfalse\n```\n<!-- run -->\n```bash\ntrue\n```\n") == [("bash", "true\n")]
    (tmp_path / "inside").mkdir()
    assert run_in_bash("cd inside\n", tmp_path) == tmp_path / "inside"
    with pytest.raises(AssertionError):
        run_in_bash("false | true\ntrue\n", tmp_path)


@pytest.mark.parametrize("mark", ["demo-line", "test-line"])
def test_readme_has_its_lines_to_paste(mark: str) -> None:
    below = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")[2]
    line = re.match(r"```bash\n([^\n]+)\n```", below)
    assert line is not None
    assert "pip install -c constraints.txt" in line[1]


def test_readme_has_no_other_line_that_installs_and_runs() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert sum("pip install" in line for line in lines) == 2


def public_modules() -> dict[str, list[str]]:
    """Each sub-package with its public names."""
    found = [module.name for module in pkgutil.walk_packages(monai_mamba_gen.__path__, "monai_mamba_gen.")]
    packages = (importlib.import_module(name) for name in found)
    return {each.__name__: sorted(each.__all__) for each in packages if hasattr(each, "__path__") and each.__all__}


def test_the_reference_lists_what_is_public() -> None:
    sections = re.split(r"^## ", REFERENCE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    listed = {
        section.partition("\n")[0].strip("`"): re.findall(r"^\| `(\w+)` \| \S", section, flags=re.MULTILINE)
        for section in sections
    }
    assert listed == public_modules(), "run python tests/test_docs.py"
    assert " at 0x" not in REFERENCE.read_text(encoding="utf-8")  # an object without words of its own


def first_line(item: object) -> str:
    """Return the first sentence or line of a docstring as the cell of a table."""
    text = (inspect.getdoc(item) or "").split("\n\n")[0]
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def reference() -> str:
    parts = [
        "# Reference\n\nPublic names by module, with the first line of their documentation. `help(name)` shows the\n"
        "rest: arguments with shapes and ranges, errors and an example. `python tests/test_docs.py` writes this page.\n"
    ]
    for module, names in public_modules().items():
        package = importlib.import_module(module)
        rows = []
        for name in names:
            item = getattr(package, name)
            rows.append(f"| `{name}` | {first_line(item) if callable(item) else f'`{item!r}`'} |")
        head = f"## `{module}`\n\n{first_line(package)}\n\n| name | what it is |\n|---|---|\n"
        parts.append(head + "\n".join(rows) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
