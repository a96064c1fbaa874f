"""A hook of mkdocs: links to files outside docs/, which a site does not have.

They lead to the repository if the variable ``SITE_REPOSITORY`` has its address (``https://.../blob/
main``), and are their text alone otherwise.
"""

from __future__ import annotations

import os
import posixpath
import re
from typing import Any

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page's text with those links replaced."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))
    return _LINK.sub(
        lambda found: _link(found, folder, os.environ.get("SITE_REPOSITORY")), markdown
    )


def _link(found: re.Match[str], folder: str, repository: str | None) -> str:
    mark, text, target = found.groups()
    if re.match(r"[a-z]+:|#|/", target):
        return found.group()
    path = posixpath.normpath(posixpath.join(folder, target))
    if mark or path.startswith("docs/"):
        return found.group()
    return f"[{text}]({repository.rstrip('/')}/{path})" if repository else text
