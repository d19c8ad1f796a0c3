"""
Hooks of mkdocs.yml: the site also holds pages that live elsewhere, and one page of docstrings for each sub-package.

Links in the Markdown files are those of the checkout, so that they work where the files are read as they stand. Here
they are turned to where the pages stand in the site.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "monai_mamba_gen"
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


class CodeExamples(griffe.Extension):
    """Show the sections "Example:" of docstrings as code, which Griffe does for "Examples:" alone."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)


def sources() -> dict[str, Path]:
    """Return the files outside docs/ (and its index, which makes way for the project's) by their place in the site."""
    found = {
        "index.md": ROOT / "README.md",
        "contents.md": ROOT / "docs" / "README.md",
        "changelog.md": ROOT / "CHANGELOG.md",
        "LICENSE.txt": ROOT / "LICENSE",
    }
    for page in sorted(ROOT.glob("bundles/*/docs/README.md")):
        bundle = page.parents[1]
        found[f"bundles/{bundle.name}.md"] = page
        found[f"bundles/{bundle.name}_data_license.txt"] = page.with_name("data_license.txt")
        found[f"bundles/{bundle.name}_LICENSE.txt"] = bundle / "LICENSE"
    return found


def api_pages() -> dict[str, str]:
    """Return a page for each sub-package, with what mkdocstrings is to show; the sources are read, not imported."""
    pages = {}
    for path in sorted(PACKAGE.rglob("__init__.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                module = ".".join(path.parent.relative_to(ROOT).parts)
                name = module.partition(".")[2]
                entries = [f"::: {module}.{public}" for public in sorted(ast.literal_eval(node.value))]
                about = ast.get_docstring(tree) or f"The public names of `{module}`."
                pages[f"api/{name}.md"] = "\n\n".join([f"# {name}", about, *entries])
    return pages


def on_files(files: Files, config) -> Files:
    """Add the pages that are not in docs/."""
    files.remove(files.src_uris["README.md"])
    for place, path in sources().items():
        files.append(File.generated(config, place, abs_src_path=str(path)))
    for place, content in api_pages().items():
        files.append(File.generated(config, place, content=content))
    return files


def link_names(markdown: str) -> str:
    """Link the names in the tables of reference.md to their docstrings."""
    parts = re.split(r"^(## `[\w.]+`)$", markdown, flags=re.MULTILINE)
    for i in range(1, len(parts), 2):
        module = parts[i][4:-1]
        parts[i + 1] = re.sub(r"^\| `(\w+)`", rf"| [`\1`][{module}.\1]", parts[i + 1], flags=re.MULTILINE)
    return "".join(parts)


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    """Turn links between files of the checkout into links between pages of the site."""
    if page.file.abs_src_path is None:
        return markdown
    here = Path(page.file.abs_src_path).parent
    places = {file.abs_src_path: file.src_uri for file in files if file.abs_src_path}

    def turned(match: re.Match) -> str:
        if "://" in match[2]:
            return match[0]
        place = places.get(str((here / match[2]).resolve()))
        if place is None:
            return match[0]  # MkDocs names it where it leads nowhere
        return match[1] + posixpath.relpath(place, posixpath.dirname(page.file.src_uri)) + match[3]

    markdown = LINK.sub(turned, markdown)
    return link_names(markdown) if page.file.src_uri == "reference.md" else markdown
