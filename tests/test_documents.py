"""The documents: every Python block runs, every link to a file leads to one."""

import re
import textwrap
import tomllib
from pathlib import Path

import pytest

from gradreg.study.forms import study_of

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCKS = [
    pytest.param(textwrap.dedent(block), id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^ *```python\n(.*?)^ *```", page.read_text(), re.M | re.S))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some leave files
    exec(compile(block, "block", "exec"), {})


@pytest.mark.parametrize("page", [page for page in PAGES if "```toml" in page.read_text()], ids=lambda page: page.name)
def test_toml_blocks_are_studies(page: Path) -> None:
    for block in re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.M | re.S):
        study, _ = study_of(tomllib.loads(block), page.name)
        assert len(study.arms) > 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_has_blocks_to_run() -> None:
    assert sum("README" in str(block.id) for block in BLOCKS) >= 2
