"""Puts what a benchmark has printed into the document that shows it."""
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
        mark = f"<!-- {name} -->\n"
        before, found, after = text.partition(mark)
        _, end, rest = after.partition(END)
        if not found or not end or mark in rest:
            fail(f"--update {path}: there is no place for '{name}' in it, or more than one")
        text = before + mark + section + END + rest
    with open(path, "w") as file:
        file.write(text)
