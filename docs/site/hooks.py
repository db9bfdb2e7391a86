"""What mkdocs calls while it builds the site.

Pages are written to be read in the repository as well, so links may leave docs/. Here README becomes a page, other files that are
linked are copied, and links to folders lead to the page of files that ship. ``<!-- table: methods -->`` becomes that table.
"""

import re
from os.path import normpath
from pathlib import Path
from posixpath import dirname, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.site.tables import TABLES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TOUR = "readme.md"  # what README is called on the site
SHIPPED = "reference/files.md"
LINK = re.compile(r"(?<=\]\()(?!\w+:)[^)\s#]+")
UNRUN = re.compile(r"^```(\w+) no-run$", re.MULTILINE)  # for tests; the highlighter would not know it
TABLE = re.compile(r"^<!-- table: (\w+) -->$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """A folder in the nav stands for every page in it."""
    config.nav = [_unfolded(entry) for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """README as a page, and what pages link to outside of docs/."""
    files.append(File.generated(config, TOUR, content=(ROOT / "README.md").read_text(encoding="utf-8")))
    for page in files.documentation_pages():
        for link in LINK.findall(page.content_string):
            uri = target(page.src_uri, link)
            if uri is not None and files.get_file_from_path(uri) is None and (ROOT / uri).is_file():
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / uri)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Tables, fences without marks, and links as they are on the site."""
    here = page.file.src_uri
    filled = TABLE.sub(lambda found: TABLES[found[1]](), markdown)
    return LINK.sub(lambda found: _relative(here, found[0]), UNRUN.sub(r"```\1", filled))


def target(here: str, link: str) -> str | None:
    """The place on the site of what the page ``here`` links to; None for nothing that is there."""
    path = Path(normpath((ROOT if here == TOUR else (DOCS / here).parent) / link))
    if path == ROOT / "README.md":
        return TOUR
    if not path.is_relative_to(ROOT) or not path.exists():
        return None
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return SHIPPED if path.is_dir() else path.relative_to(ROOT).as_posix()


def _relative(here: str, link: str) -> str:
    uri = target(here, link)
    return link if uri is None else relpath(uri, dirname(here) or ".")


def _unfolded(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    (title, inside), *_ = entry.items()
    if isinstance(inside, str) and inside.endswith("/"):
        inside = [f"{inside}{path.name}" for path in sorted((DOCS / inside).glob("*.md"))]
    return {title: inside}
