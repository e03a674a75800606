"""Puts what a benchmark has printed into the document that shows it."""
import re

from terminal import fail

END = "<!-- end -->"


def fenced(text):
    """As it is printed, in a fixed width."""
    return f"```\n{text}```\n"


def update(path, sections):
    """Puts each section between its marks, `<!-- NAME -->` and `<!-- end -->`; nothing is written if one has none."""
    with open(path) as file:
        text = file.read()
    for name, section in sections.items():
        parts = re.split(rf"(?<=<!-- {name} -->\n).*?(?={END})", text, flags=re.DOTALL)
        if len(parts) != 2:
            fail(f"--update {path}: there is no place for '{name}' in it, or more than one")
        text = section.join(parts)
    with open(path, "w") as file:
        file.write(text)
