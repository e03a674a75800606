//! The drawing of the house in docs/design.md, held against src/: which modules there are, which of them use which
//! others, and which have `unsafe` in them.
//!
//! A failure ends with the drawing of the tree as it is, to be copied from.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

#[path = "house/drawing.rs"]
mod drawing;
#[path = "house/source.rs"]
mod source;

use drawing::Drawing;
use source::Source;

const DOCUMENT: &str = "docs/design.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn drawn_and_tree() -> (Drawing, Tree) {
    let tree = Tree::read();
    let text = std::fs::read_to_string(root().join(DOCUMENT)).unwrap();
    match Drawing::parse(&text) {
        Ok(drawing) => (drawing, tree),
        Err(wrong) => panic!("{DOCUMENT}: {wrong}\n\n{}", tree.redrawn(&Drawing::default())),
    }
}

/// Each module with the places where it uses another one, or `unsafe`.
#[derive(Default)]
struct Tree {
    modules: BTreeMap<String, Module>,
}

#[derive(Default)]
struct Module {
    /// By the module that is used, `FILE:LINE` of each use.
    uses: BTreeMap<String, Vec<String>>,
    unsafe_at: Vec<String>,
}

impl Tree {
    fn read() -> Self {
        let mut tree = Self::default();
        let sources = Source::all(&root().join("src"));
        for source in &sources {
            let module = tree.modules.entry(source.module.clone()).or_default();
            let at = |line: usize| format!("src/{}:{line}", source.path.display());
            module.unsafe_at.extend(source.unsafe_lines.iter().map(|line| at(*line)));
            for (name, line) in source.uses.iter().filter(|(name, _)| *name != source.module) {
                module.uses.entry(name.clone()).or_default().push(at(*line));
            }
        }
        tree
    }

    /// For a message: this tree as it would be drawn, with what the drawing says that a module is for.
    fn redrawn(&self, old: &Drawing) -> String {
        let mut left: BTreeSet<&str> = self.modules.keys().map(String::as_str).collect();
        let mut layers: Vec<Vec<&str>> = Vec::new();
        while !left.is_empty() {
            let open = |name: &&str| {
                self.modules[*name].uses.keys().filter(|to| left.contains(to.as_str())).count()
            };
            // With a circle, the one that has the fewest arrows up.
            let fewest = left.iter().map(open).min().unwrap_or(0);
            let mut layer: Vec<&str> =
                left.iter().copied().filter(|name| open(name) == fewest).collect();
            if fewest > 0 {
                layer.truncate(1);
            }
            left.retain(|name| !layer.contains(name));
            layers.push(layer);
        }
        let drawn = |name: &&str| {
            let module = &self.modules[*name];
            drawing::Module {
                name: (*name).to_owned(),
                purpose: old.module(name).map_or_else(|| head(name), |old| old.purpose.clone()),
                has_unsafe: !module.unsafe_at.is_empty(),
                uses: module.uses.keys().cloned().collect(),
            }
        };
        let layers = layers.iter().rev().map(|layer| layer.iter().map(drawn).collect()).collect();
        format!("The tree as it is, in the words of the drawing:\n\n{}", Drawing { layers })
    }
}

/// What the head of a module says first, as far as it is on the first line.
fn head(module: &str) -> String {
    let text = std::fs::read_to_string(root().join(format!("src/{module}.rs"))).unwrap_or_default();
    let line = text.lines().next().and_then(|line| line.strip_prefix("//! ")).unwrap_or("?");
    line.split(". ").next().unwrap_or(line).trim_end_matches('.').to_owned()
}

/// Fails with what is wrong, if anything is, and with the tree as it is.
#[track_caller]
fn must_be_none(wrong: &[String], tree: &Tree, drawing: &Drawing) {
    let listed = wrong.iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "  {line}");
        text
    });
    assert!(
        wrong.is_empty(),
        "the tree and the drawing in {DOCUMENT} (section \"{}\") differ:\n{listed}\n{}",
        drawing::HEADING,
        tree.redrawn(drawing),
    );
}

#[test]
fn every_module_is_drawn_and_uses_what_the_drawing_lets_it() {
    let (drawing, tree) = drawn_and_tree();
    let mut wrong = Vec::new();
    for (name, module) in &tree.modules {
        let Some(drawn) = drawing.module(name) else {
            wrong.push(format!("src/{name} is not drawn; draw it"));
            continue;
        };
        for (to, places) in module.uses.iter().filter(|(to, _)| !drawn.uses.contains(*to)) {
            wrong.push(format!(
                "{name} -> {to} is not drawn; do without it, or draw the arrow: {}",
                places.join(", ")
            ));
        }
        for to in drawn.uses.iter().filter(|to| !module.uses.contains_key(*to)) {
            wrong
                .push(format!("{name} -> {to} is drawn, and no import makes it; remove the arrow"));
        }
    }
    for module in drawing.modules().filter(|drawn| !tree.modules.contains_key(&drawn.name)) {
        wrong.push(format!("{} is drawn, and is not in src/; remove it", module.name));
    }
    must_be_none(&wrong, &tree, &drawing);
}

#[test]
fn every_arrow_points_down() {
    let (drawing, tree) = drawn_and_tree();
    let mut wrong = Vec::new();
    for (from, to) in drawing.arrows_up() {
        let module = tree.modules.get(from);
        let places = module.and_then(|module| module.uses.get(to)).map(|places| places.join(", "));
        wrong.push(format!(
            "{from} -> {to} does not point down; move what {from} needs to a lower module, or {to} \
             to a lower layer: {}",
            places.unwrap_or_default()
        ));
    }
    must_be_none(&wrong, &tree, &drawing);
}

#[test]
fn unsafe_is_where_the_drawing_has_it() {
    let (drawing, tree) = drawn_and_tree();
    let mut wrong = Vec::new();
    for (name, module) in &tree.modules {
        let marked = drawing.module(name).is_some_and(|drawn| drawn.has_unsafe);
        if !marked && !module.unsafe_at.is_empty() {
            wrong.push(format!(
                "{name} is not marked {}; move the system calls to a module that is: {}",
                drawing::UNSAFE,
                module.unsafe_at.join(", ")
            ));
        }
        if marked && module.unsafe_at.is_empty() {
            wrong.push(format!(
                "{name} is marked {}, and has none; remove the mark",
                drawing::UNSAFE
            ));
        }
    }
    must_be_none(&wrong, &tree, &drawing);
}

/// What the reader finds in a source that lies at a path of src/.
fn found(path: &str, text: &str) -> (Vec<String>, usize) {
    let source = Source::parse(PathBuf::from(path), text);
    (source.uses.into_iter().map(|(name, _)| name).collect(), source.unsafe_lines.len())
}

#[test]
fn uses_are_found_in_use_trees_and_paths() {
    let text = "use crate::{self_made as s, b::{c, d}, e};\n\
                pub(crate) fn f(g: crate::g::G) -> h::H { let _: super::i::I; self::k(); $crate::l!() }\n\
                mod inner { use super::super::j; use super::own; }";
    let all = ["self_made", "b", "e", "g", "i", "l", "j"].map(String::from).to_vec();
    assert_eq!(found("a.rs", text), (all, 0));
    // One level further down, `super` is the module itself.
    assert_eq!(found("a/z.rs", "use super::y; use super::super::x;").0, ["x"]);
}

#[test]
fn what_hides_uses_is_refused() {
    for text in [
        "use crate as c;",
        "use super as c;",
        "mod inner { use super::super as c; }",
        "use super::{super::x, y};",
        "include!(\"x.rs\");",
    ] {
        assert!(std::panic::catch_unwind(|| found("a.rs", text)).is_err(), "{text}");
    }
}

#[test]
fn text_comments_and_tests_are_no_uses() {
    let text = r##"
        //! [`crate::a`] unsafe
        /* crate::b /* unsafe */ */
        const A: &str = "unsafe { crate::c }\" crate::d";
        const B: &str = r#"crate::e" unsafe"#;
        fn quote<'unsafe_>(c: char) -> bool { c == '"' || c == '\'' }
        #[cfg(test)]
        #[allow(unused)]
        mod tests { use crate::f; }
        #[cfg(test)]
        use crate::{g, h};
        #[cfg(not(test))]
        use crate::i;
        unsafe extern "C" fn handler() { unsafe { } }
    "##;
    assert_eq!(found("z.rs", text), (vec!["i".to_owned()], 2));
}

fn document(text: &str) -> String {
    format!("# T\n\n## {}\n\nWords.\n\n```text\n{text}```\n", drawing::HEADING)
}

#[test]
fn a_drawing_is_read_as_it_is_written() {
    let text = "a            the top\n  -> b c\n\nb            (unsafe) the middle\n  -> c\n\nc            the floor\n";
    let document = document(text);
    let drawing = Drawing::parse(&document).unwrap();
    assert_eq!(drawing.to_string(), text);
    assert_eq!(drawing.layers.len(), 3);
    assert!(drawing.module("b").unwrap().has_unsafe);
    assert_eq!(drawing.arrows_up(), []);
    let (up, sideways) =
        (text.replace("floor\n", "floor\n  -> a b\n"), text.replace("\n\nb", "\nb"));
    let drawing_of = |text: &str| Drawing::parse(&self::document(text)).unwrap();
    assert_eq!(drawing_of(&up).arrows_up(), [("c", "a"), ("c", "b")]);
    assert_eq!(drawing_of(&sideways).arrows_up(), [("a", "b")]);

    for (wrong, says) in [
        (document.replace("## ", "## Not "), "no section"),
        (document.replace("  -> c\n", "  -> d\n"), "there is no d"),
        (document.replace("c            ", "a            "), "a is drawn twice"),
        (document.replace("a            the top\n", ""), "an arrow of no module"),
        (document.replace("the floor", ""), "does not say what c is for"),
    ] {
        let error = Drawing::parse(&wrong).err().unwrap_or_default();
        assert!(error.contains(says), "'{error}' does not say '{says}'");
    }
}
