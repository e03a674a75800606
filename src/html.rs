//! Stand-alone HTML pages: one file that can be mailed, kept and printed.
//!
//! Text is escaped, there is no script, and nothing is loaded from anywhere: the page's own policy
//! forbids both, so that text from outside can do no harm even where an escape were missing.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

use crate::foreign;

/// How a cell stands out. It has words beside its colour, so a page printed in grey says the same.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Mark {
    #[default]
    Plain,
    Good,
    Warning,
    Bad,
    /// Of less importance than the rest.
    Faint,
    /// A number: it stands to the right.
    Number,
    /// What the row is about: its words are not broken.
    Name,
}

impl Mark {
    fn class(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Bad => "bad",
            Self::Faint => "faint",
            Self::Number => "number",
            Self::Name => "name",
        }
    }
}

/// One cell of a table: its paragraphs, and how it stands out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Cell {
    pub paragraphs: Vec<String>,
    pub mark: Mark,
}

impl Cell {
    /// One paragraph.
    pub(crate) fn new(text: impl Into<String>, mark: Mark) -> Self {
        Self { paragraphs: vec![text.into()], mark }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Mark::Plain)
    }
}

/// A page under way.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    title: String,
    body: String,
}

impl Page {
    /// A page with this title, which is also its first heading.
    pub(crate) fn new(title: &str) -> Self {
        let mut page = Self { title: title.to_owned(), body: String::new() };
        page.element("h1", title);
        page
    }

    /// The heading of a section.
    pub(crate) fn heading(&mut self, text: &str) {
        self.element("h2", text);
    }

    /// A paragraph.
    pub(crate) fn paragraph(&mut self, text: &str) {
        self.element("p", text);
    }

    /// Names with their values, one below the other.
    pub(crate) fn facts<'a>(&mut self, facts: impl IntoIterator<Item = (&'a str, String)>) {
        self.body.push_str("<dl>\n");
        for (name, value) in facts {
            self.element("dt", name);
            self.element("dd", &value);
        }
        self.body.push_str("</dl>\n");
    }

    /// A table. Its heading is printed again on each sheet.
    pub(crate) fn table<const COLUMNS: usize>(
        &mut self,
        heading: [&str; COLUMNS],
        rows: impl IntoIterator<Item = [Cell; COLUMNS]>,
    ) {
        self.body.push_str("<table>\n<thead><tr>");
        for name in heading {
            self.element("th", name);
        }
        self.body.push_str("</tr></thead>\n<tbody>\n");
        for row in rows {
            self.body.push_str("<tr>");
            for cell in row {
                self.cell(&cell);
            }
            self.body.push_str("</tr>\n");
        }
        self.body.push_str("</tbody>\n</table>\n");
    }

    fn cell(&mut self, cell: &Cell) {
        match cell.mark.class() {
            "" => self.body.push_str("<td>"),
            class => self.write(format_args!("<td class=\"{class}\">")),
        }
        match cell.paragraphs.as_slice() {
            [text] => self.text(text),
            several => several.iter().for_each(|text| self.element("p", text)),
        }
        self.body.push_str("</td>\n");
    }

    /// A bar for each value, side by side: how something went over time. `caption` says what a bar is.
    #[expect(clippy::cast_precision_loss, reason = "a drawing needs no more digits")]
    pub(crate) fn bars(&mut self, caption: &str, unit: &str, values: &[f64]) {
        const WIDTH: f64 = 900.0;
        const HEIGHT: f64 = 120.0;
        let largest = values.iter().copied().filter(|value| value.is_finite()).fold(0.0, f64::max);
        let step = WIDTH / (values.len().max(1) as f64);
        self.body.push_str("<figure>\n");
        self.write(format_args!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n"));
        for (number, value) in values.iter().enumerate() {
            let height = if largest > 0.0 && value.is_finite() {
                (value / largest * HEIGHT).max(0.0)
            } else {
                0.0
            };
            let (x, y) = (number as f64 * step, HEIGHT - height);
            let width = (step - 1.0).max(0.5);
            self.write(format_args!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>\n"
            ));
        }
        self.body.push_str("</svg>\n");
        self.element("figcaption", &format!("{caption}; the highest is {largest:.1} {unit}"));
        self.body.push_str("</figure>\n");
    }

    /// The whole page.
    pub(crate) fn finish(self) -> String {
        let allowed = BASE64_STANDARD.encode(Sha256::digest(STYLE));
        let mut title = Self { title: String::new(), body: String::new() };
        title.element("title", &self.title);
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
             style-src 'sha256-{allowed}'\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n\
             <meta name=\"referrer\" content=\"no-referrer\">\n{}\
             <style>{STYLE}</style>\n</head>\n<body>\n{}</body>\n</html>\n",
            title.body, self.body
        )
    }

    /// Of an element without attributes.
    fn element(&mut self, name: &'static str, text: &str) {
        self.write(format_args!("<{name}>"));
        self.text(text);
        self.write(format_args!("</{name}>\n"));
    }

    /// What a browser shows as this text, whatever is in it. What would turn or hide the text beside
    /// it is shown as an escape.
    fn text(&mut self, text: &str) {
        for c in foreign::escaped(text).chars() {
            match c {
                '&' => self.body.push_str("&amp;"),
                '<' => self.body.push_str("&lt;"),
                '>' => self.body.push_str("&gt;"),
                '"' => self.body.push_str("&quot;"),
                '\'' => self.body.push_str("&#39;"),
                c => self.body.push(c),
            }
        }
    }

    fn write(&mut self, markup: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.body.write_fmt(markup);
    }
}

/// Of all pages. Light, as on paper; nothing in it names another resource.
const STYLE: &str = "
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; line-height: 1.2; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc; padding-bottom: .2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .7rem .4rem 0; border-bottom: 1px solid #ddd; overflow-wrap: anywhere; }
th { font-weight: 600; color: #555; }
td p { margin: 0 0 .3rem 0; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.name { overflow-wrap: normal; min-width: 9rem; }
td.good, td.warning, td.bad, td.faint { white-space: nowrap; font-weight: 600; }
td.good { color: #17692e; }
td.warning { color: #8a5300; }
td.bad { color: #b00020; }
td.faint { color: #666; font-weight: 400; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; }
dt { color: #555; }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1rem 0; }
svg { width: 100%; height: 7rem; fill: #3a6ea5; background: #f4f6f9; }
figcaption { color: #555; font-size: .9em; }
@page { margin: 1.6cm; }
@media print {
  body { font-size: 10.5pt; max-width: none; margin: 0; padding: 0; }
  thead { display: table-header-group; }
  tr, figure, dl { break-inside: avoid; }
  h2 { break-after: avoid; }
  td.good, td.warning, td.bad, td.faint { print-color-adjust: exact; }
}
";

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str =
        "</title><script src=//x>alert(1)</script>\"' onload=x &amp; \u{202e}\x1b]\n";

    #[test]
    fn text_from_outside_is_text_wherever_it_stands() {
        let mut page = Page::new(HOSTILE);
        page.heading(HOSTILE);
        page.paragraph(HOSTILE);
        page.facts([("name", HOSTILE.to_owned())]);
        let several = Cell { paragraphs: vec![HOSTILE.to_owned(); 2], mark: Mark::Bad };
        page.table(["a", HOSTILE], [[HOSTILE.into(), several]]);
        page.bars(HOSTILE, HOSTILE, &[1.0]);
        let html = page.finish();
        assert!(!html.contains("<script"), "{html}");
        assert_eq!(html.matches("&lt;script src=//x&gt;").count(), 11);
        assert!(html.contains("&quot;&#39; onload=x &amp;amp; \\u{202e}\\u{1b}]\\u{a}"), "{html}");
        // Quotes stand in the attributes of our own alone.
        let body = html.split("<body>").nth(1).unwrap();
        let quotes = body.matches('"').count();
        assert_eq!(quotes, body.matches("class=\"bad\"").count() * 2 + 4 + 8, "{body}");
    }

    #[test]
    fn nothing_is_loaded_and_only_the_own_style_is_allowed() {
        let html = Page::new("a").finish();
        let allowed = BASE64_STANDARD.encode(Sha256::digest(STYLE));
        assert!(html.contains(&format!("default-src 'none'; style-src 'sha256-{allowed}'")));
        // The browser hashes what stands between the tags.
        let style = html.split("<style>").nth(1).unwrap().split("</style>").next().unwrap();
        assert_eq!(BASE64_STANDARD.encode(Sha256::digest(style)), allowed);
        for word in ["http:", "https:", "url(", "@import", "src=", "href="] {
            assert!(!html.contains(word), "{word}");
        }
        assert!(html.contains("@media print"));
    }

    #[test]
    fn bars_are_as_high_as_their_values() {
        let mut page = Page::new("a");
        page.bars("p99 of each second", "ms", &[0.0, 5.0, 10.0, f64::NAN]);
        page.bars("nothing", "ms", &[]);
        let html = page.finish();
        for height in ["height=\"0.0\"", "height=\"60.0\"", "height=\"120.0\""] {
            assert!(html.contains(height), "{height} in {html}");
        }
        assert!(html.contains("p99 of each second; the highest is 10.0 ms"));
        assert!(!html.contains("NaN"));
    }
}
