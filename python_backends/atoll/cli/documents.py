"""Pages of docs/ that are rendered from code, so that they cannot differ from it."""

from dataclasses import fields

from atoll.config import Settings

_GROUPS = {
    "model": "The model",
    "limits": "Limits",
    "encoder": "Embedders, rerankers and classifiers",
    "generate": "Generators",
}


def settings_page() -> str:
    """docs/settings.md: every setting, its default and what it does."""
    lines = [
        "# Settings",
        "",
        "Each setting has one name in three places: a flag of `atoll serve` "
        "(`--max-batch-tokens`), "
        "an environment variable (`MAX_BATCH_TOKENS`), and a parameter in an entry's config.pbtxt "
        "(`max_batch_tokens`). The parameter wins over the environment, and the environment over "
        "the default. A value that cannot be used stops the model from loading and is named in "
        "the error.",
    ]
    for group, title in _GROUPS.items():
        lines += ["", f"## {title}", "", "| setting | default | what it does |", "|-|-|-|"]
        for f in fields(Settings):
            if f.metadata["group"] == group:
                default = "" if f.default in (None, "") else f"`{str(f.default).lower()}`"
                lines.append(f"| `{f.name}` | {default} | {f.metadata['help']} |")
    return "\n".join(lines) + "\n"
