//! One page of the manual, as roff.

use std::io;

use clap_mangen::roff::{Inline, Roff, bold, roman};

/// A page and the name of its file, which ends in the section.
pub(super) struct Page {
    /// Such as `sessionfs.8`.
    pub file: String,
    /// In roff.
    pub text: String,
}

impl Page {
    /// A page that is another one by a second name.
    pub(super) fn link(file: &str, target: &Page) -> Self {
        let section = target.file.rsplit('.').next().unwrap_or_default();
        Self { file: file.to_owned(), text: format!(".so man{section}/{}\n", target.file) }
    }
}

/// A page being written. Words are Markdown with names in backquotes, as in doc comments and in
/// `docs/`; of links only the text is kept.
pub(super) struct Draft {
    file: String,
    text: String,
}

impl Draft {
    /// Begins a page.
    pub(super) fn new(name: &str, section: &str) -> Self {
        let mut draft = Self { file: format!("{name}.{section}"), text: String::new() };
        let source = concat!("sessionfs ", env!("CARGO_PKG_VERSION"));
        // Without a date, so that the same program always writes the same page.
        let title = [&name.to_uppercase(), section, "\"\"", source, "sessionfs"];
        draft.add(Roff::new().control("TH", title));
        draft
    }

    /// Ends it.
    pub(super) fn finish(self) -> Page {
        let lines = self.text.lines().map(names_in_bold);
        // What each part begins with is needed once.
        let preamble = Roff::new().render();
        let text = lines.collect::<Vec<_>>().join("\n").replace(&preamble, "");
        Page { file: self.file, text: format!("{preamble}{text}\n") }
    }

    fn add(&mut self, roff: &Roff) {
        self.text.push_str(&roff.render());
    }

    /// What somebody else writes, in roff.
    pub(super) fn part(
        &mut self,
        write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut text = Vec::new();
        write(&mut text)?;
        self.text.push_str(&String::from_utf8_lossy(&text));
        Ok(())
    }

    /// NAME.
    pub(super) fn name(&mut self, name: &str, words: &str) {
        self.heading("NAME");
        self.paragraph(&format!("{name} - {words}"));
    }

    /// The heading of a section.
    pub(super) fn heading(&mut self, words: &str) {
        self.add(Roff::new().control("SH", [words.replace('`', "").as_str()]));
    }

    /// The heading of a part of a section.
    pub(super) fn subheading(&mut self, words: &str) {
        self.add(Roff::new().control("SS", [words.replace('`', "").as_str()]));
    }

    /// A paragraph.
    pub(super) fn paragraph(&mut self, words: &str) {
        self.begin_paragraph();
        self.add(Roff::new().text([plain(words)]));
    }

    /// A heading begins one, too.
    fn begin_paragraph(&mut self) {
        let last = self.text.lines().last().unwrap_or_default();
        if !last.starts_with(".SH") && !last.starts_with(".SS") {
            self.add(Roff::new().control("PP", []));
        }
    }

    /// Something and its explanation.
    pub(super) fn item(&mut self, term: impl Into<Vec<Inline>>, words: &str) {
        self.add(Roff::new().control("TP", []).text(term).text([plain(words)]));
    }

    /// Lines as they are typed, or stand in a file.
    pub(super) fn verbatim(&mut self, lines: &str) {
        self.begin_paragraph();
        let mut roff = Roff::new();
        roff.control("RS", ["4"]).control("nf", []);
        for line in lines.lines() {
            if line.is_empty() {
                roff.control("sp", []);
            } else {
                roff.text([bold(line)]);
            }
        }
        self.add(roff.control("fi", []).control("RE", []));
    }

    /// FILES.
    pub(super) fn files(&mut self, files: &[(&str, &str)]) {
        self.heading("FILES");
        for (path, words) in files {
            self.item([bold(*path)], words);
        }
    }

    /// SEE ALSO.
    pub(super) fn see_also<'a>(&mut self, pages: impl IntoIterator<Item = &'a str>) {
        self.heading("SEE ALSO");
        let pages: Vec<_> = pages.into_iter().map(|page| format!("`{page}`")).collect();
        self.paragraph(&pages.join(", "));
    }
}

/// Markdown without its links and its strong words.
fn plain(words: &str) -> Inline {
    let mut text = String::new();
    let mut rest = words;
    while let Some((before, link)) = rest.split_once('[') {
        text.push_str(before);
        rest = match link.split_once(']') {
            Some((label, after)) if after.starts_with('(') => {
                text.push_str(label);
                after.split_once(')').map_or("", |(_, after)| after)
            }
            _ => {
                text.push('[');
                link
            }
        };
    }
    text.push_str(rest);
    roman(text.replace("**", ""))
}

fn names_in_bold(line: &str) -> String {
    let mut text = String::new();
    for (place, part) in line.split('`').enumerate() {
        if place > 0 {
            text.push_str(if place % 2 == 1 { "\\fB" } else { "\\fR" });
        }
        text.push_str(part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_documents_become_those_of_a_page() {
        let mut draft = Draft::new("a-b", "8");
        draft.paragraph("`x` of **all** in [the text](b.md#c), `[::1]:PORT`\nand [y] it's.");
        let page = draft.finish();
        assert_eq!(page.file, "a-b.8");
        let expected =
            "\n.PP\n\\fBx\\fR of all in the text, \\fB[::1]:PORT\\fR\nand [y] it\\*(Aqs.\n";
        assert!(page.text.ends_with(expected), "{}", page.text);
        assert_eq!(page.text.matches(".ds Aq").count(), 2, "{}", page.text);
    }
}
