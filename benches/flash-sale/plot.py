"""The plot of a flash sale, as SVG: how long requests take, and errors, by the second."""
import math

WIDTH, LEFT, RIGHT, GAP = 900, 70, 20, 46
TOP, HEIGHT = 40, 150
COLOURS = ("#1f6fb4", "#d1620b", "#2f8f3e", "#8d4bb5")
PANELS = (("p50, ms", 0, True), ("p99, ms", 1, True), ("errors", 2, False))


class Panel:
    """One curve for each place, on one scale."""

    def __init__(self, title, column, logarithmic, number, series):
        self.title, self.column, self.logarithmic = title, column, logarithmic
        self.top = TOP + number * (HEIGHT + GAP)
        values = [row[column] for rows in series.values() for row in rows if row[column]]
        self.highest = max([*values, 1])
        # Whole powers of ten.
        self.powers = range(math.floor(math.log10(min([*values, self.highest]))), math.ceil(math.log10(self.highest)) + 1)

    def height(self, value):
        share = value / self.highest
        if self.logarithmic:
            share = (math.log10(value) - self.powers[0]) / max(1, len(self.powers) - 1)
        return self.top + HEIGHT * (1 - share)

    def marks(self):
        return [10.0**power for power in self.powers] if self.logarithmic else [0, self.highest]


def text(x, y, said, anchor="start", colour="#333"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{said}</text>'


def line(x1, y1, x2, y2, colour="#ddd"):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def write(path, series, marks):
    """`series` has rows of p50, p99 (None where nobody asked) and errors by place; `marks` are where the parts end."""
    seconds = max(len(rows) for rows in series.values())

    def across(second):
        return LEFT + (WIDTH - LEFT - RIGHT) * second / seconds

    panels = [Panel(*panel, number, series) for number, panel in enumerate(PANELS)]
    bottom = panels[-1].top + HEIGHT
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{bottom + 40}" '
           'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>']
    for number, place in enumerate(series):
        out.append(text(LEFT + 180 * number, 18, place, colour=COLOURS[number]))
    for panel in panels:
        out.append(text(LEFT, panel.top - 6, panel.title))
        for value in panel.marks():
            out.append(line(LEFT, panel.height(value), WIDTH - RIGHT, panel.height(value)))
            out.append(text(LEFT - 6, panel.height(value) + 4, f"{value:,.0f}", "end"))
        for mark in marks:
            out.append(line(across(mark), panel.top, across(mark), panel.top + HEIGHT, "#999"))
        for number, rows in enumerate(series.values()):
            points = [f"{across(second + 0.5):.1f},{panel.height(row[panel.column]):.1f}"
                      for second, row in enumerate(rows) if row[panel.column] is not None]
            out.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{COLOURS[number]}" stroke-width="1.5"/>')
    for second in range(0, seconds + 1, 10):
        out.append(text(across(second), bottom + 18, str(second), "middle"))
    out.append(text(WIDTH - RIGHT, bottom + 34, "seconds", "end"))
    with open(path, "w") as file:
        file.write("\n".join([*out, "</svg>\n"]))
