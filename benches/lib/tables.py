"""Samples as numbers, and numbers as a table."""


def table(lines, words):
    """Columns as wide as their widest cell; those numbered in `words` to the left."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines)]
    text = ""
    for line in lines:
        cells = [cell.ljust(width) if index in words else cell.rjust(width)
                 for index, (cell, width) in enumerate(zip(line, widths))]
        text += "  ".join(cells).rstrip() + "\n"
    return text


def quantile(ordered, share):
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
