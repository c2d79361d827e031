"""Print config/README.md: every config key with type, default and meaning, from the models."""

from lossatlas.config import document

HEAD = """\
# Config keys

Generated from `workflow/lossatlas/config/models.py` by `make docs`; a test fails when the two differ.

`config.yaml` is the demo, `test.yaml` the same workflow in less than a minute; `paper/*.yaml` are papers' experiments,
for clusters. Your own config is one more file:
`snakemake --configfile my.yaml --cores 2`. It replaces the demo's. Keys that are left out take their defaults;
unknown keys are errors. `<name>` stands for a name of your choice, `[]` for each entry of a list.

| key | type | default | meaning |
|---|---|---|---|
"""


def render() -> str:
    """Return the whole page."""
    lines = []
    for key, kind, default, text in document():
        cells = (
            f"`{key}`",
            kind.replace("|", "\\|"),
            f"`{default}`" if default else "",
            text.replace("|", "\\|"),
        )
        lines.append("| " + " | ".join(cells) + " |\n")
    return HEAD + "".join(lines)


if __name__ == "__main__":
    print(render(), end="")
