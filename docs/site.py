"""A hook of mkdocs: what the site is made of, and that a reader's browser needs no other host."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PARTS = ("*.md", "LICENSE", "CITATION.cff", "docs/*.md", "docs/*.svg", "results/**/*.md", "results/**/*.png")
FETCHED = re.compile(r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'> ]+""")
LINKED = re.compile(r"""<link\b[^>]*\bhref=["']?(?:https?:)?//[^"'> ]+""")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Pages and pictures at their places in the repository, beside those that the theme brings."""
    found = sorted({path.relative_to(ROOT).as_posix() for part in PARTS for path in ROOT.glob(part)})
    ours = [File(path, str(ROOT), config.site_dir, config.use_directory_urls) for path in found]
    return Files([*(file for file in files if file.src_dir != config.docs_dir), *ours])


def on_post_build(*, config: MkDocsConfig) -> None:
    """Refuse a site of which a page loads something from another host."""
    for page in Path(config.site_dir).rglob("*.html"):
        text = page.read_text()
        for fetched in [*FETCHED.findall(text), *LINKED.findall(text)]:
            if 'rel="canonical"' not in fetched:
                raise PluginError(f"{page} would load something from another host: {fetched}")
