"""Each bundle's page says what a model card has to: use, data, figures with their n, limits, privacy, licence."""

from __future__ import annotations

import json
import re
from pathlib import Path

SECTIONS = {  # heading: words of which each must stand in the section
    "Authors": (),
    "Tags": (),
    "Model Description": ("Mamba",),
    "Intended Use": ("Research", "Out of scope", "decision about a patient"),
    "Data": ("held.out", "by patient", "data_license.txt"),
    "Performance": ("trained here|been done here|n = ",),
    "Commands": ("training", "inferring", "evaluating", "demo.json"),
    "System Configuration": ("Python 3.10", "GPU"),
    "Limitations": ("Not for clinical use", "emorisation", "anonymous", "handle weights|not measured"),
    "Citation": ("@",),
    "References": ("[1]",),
    "License": ("Apache License 2.0", "data are under their own terms"),
}


def sections(bundle: Path) -> dict[str, str]:
    text = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_page_is_a_model_card(bundle: Path) -> None:
    found = sections(bundle)
    assert [heading for heading in SECTIONS if heading not in found] == []
    for heading, words in SECTIONS.items():
        said = " ".join(found[heading].split())
        assert [each for each in words if not re.search(each.replace("[", r"\["), said)] == [], heading


def test_figures_name_their_n(bundle: Path) -> None:
    performance = sections(bundle)["Performance"]
    if "|---" in performance:
        assert re.search(r"n = \d|\d+ (synthetic )?(against|phantoms|slices|images)", performance)


def test_shipped_weights_are_named(bundle: Path) -> None:
    said = " ".join(sections(bundle)["Performance"].split())
    shipped = (bundle / "models" / "model.pt").is_file() and (bundle / "models" / "model.safetensors").is_file()
    assert shipped or "No weights are shipped" in said


def test_metadata_says_the_same_of_the_use(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert "not for clinical use" in metadata["intended_use"]
    assert metadata["name"] in (bundle / "docs" / "README.md").read_text(encoding="utf-8").splitlines()[0]
