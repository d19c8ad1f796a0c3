"""The documentation as a site: it builds without a warning, holds every page, and loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from monai_mamba_gen import inferers, networks, ops

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "mkdocs.yml"
# The tags whose address a browser loads by itself; a link that a reader follows may lead anywhere.
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href"}


def expected_pages() -> set[str]:
    """Pages by the names that they have in the site."""
    own = {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")} - {"README.md"}
    bundles = {f"bundles/{path.parents[1].name}.md" for path in ROOT.glob("bundles/*/docs/README.md")}
    packages = {path.parent.relative_to(ROOT) for path in ROOT.glob("monai_mamba_gen/**/__init__.py")}
    api = {f"api/{'.'.join(package.parts[1:])}.md" for package in packages if len(package.parts) > 1}
    return own | bundles | api | {"index.md", "contents.md", "changelog.md"}


class Loaded(HTMLParser):
    """Collect what a browser loads for a page, and the anchors in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        found = dict(attrs)
        self.anchors.add(found.get("id"))
        if found.get("rel") != "canonical":
            self.addresses.append(found.get(LOADED.get(tag)) or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site; MkDocs ends with an error for every link that leads nowhere and every page left out."""
    for module in ("material", "mkdocstrings"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install 'monai_mamba_gen[docs]'")
    target = tmp_path_factory.mktemp("site")
    # No word on the future of the theme; no compiled hook beside the pages.
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert "WARNING" not in said
    return target


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"^ +- .*?([\w./-]+\.md)$", CONFIG.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(listed) == len(set(listed)), "a page stands twice in the nav of mkdocs.yml"
    missing, gone = expected_pages() - set(listed), set(listed) - expected_pages()
    assert not missing, f"add to the nav of mkdocs.yml: {sorted(missing)}"
    assert not gone, f"take out of the nav of mkdocs.yml, there is no such page: {sorted(gone)}"


def test_every_page_is_built(site: Path) -> None:
    for page in expected_pages():
        place = page.removesuffix("index.md").removesuffix(".md")
        assert (site / place / "index.html").is_file(), page


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= len(expected_pages())
    for page in pages:
        addresses = Loaded(page.read_text(encoding="utf-8")).addresses
        assert any(address.endswith(".css") for address in addresses)
        assert [address for address in addresses if re.match(r"(https?:)?//", address)] == [], page
    fonts = "fonts.googleapis.com"
    assert [path for path in site.rglob("*.css") if fonts in path.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("package", [inferers, networks, ops], ids=lambda package: package.__name__)
def test_public_names_have_their_docstrings(site: Path, package) -> None:
    name = package.__name__.partition(".")[2]
    page = (site / "api" / name / "index.html").read_text(encoding="utf-8")
    assert {f"{package.__name__}.{item}" for item in package.__all__} <= Loaded(page).anchors
    # examples are code, not text
    assert "&gt;&gt;&gt;" not in re.sub(r"<(code|pre)[ >].*?</\1>", "", page, flags=re.DOTALL)


def test_links_between_files_are_links_between_pages(site: Path) -> None:
    page = (site / "how-to" / "cine" / "index.html").read_text(encoding="utf-8")
    assert 'href="../../bundles/acdc_cine_mstg_synthesis/"' in page  # ../../bundles/.../docs/README.md in the checkout
    home = (site / "index.html").read_text(encoding="utf-8")
    assert 'src="images/cxr_tiny_samples.png"' in home  # docs/images/ in the checkout
    assert 'href="results/"' in home
    reference = (site / "reference" / "index.html").read_text(encoding="utf-8")
    assert re.search(r'href="\.\./api/ops/#monai_mamba_gen\.ops\.selective_scan"', reference)
