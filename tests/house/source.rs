//! What a file of src/ uses, by its tokens: text and comments are none, and tests are passed over.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

/// The roots of the library and of the program are no modules.
const ROOTS: [&str; 2] = ["lib.rs", "main.rs"];

pub struct Source {
    /// Below src/.
    pub path: PathBuf,
    /// The top-level module that it is a part of.
    pub module: String,
    /// The top-level modules that it names, its own among them, and the line of each.
    pub uses: Vec<(String, usize)>,
    pub unsafe_lines: Vec<usize>,
    /// Files and folders of modules that are for tests alone, without `.rs`.
    test_modules: BTreeSet<PathBuf>,
}

impl Source {
    /// All files below src/ but the roots and those that are for tests alone.
    pub fn all(src: &Path) -> Vec<Self> {
        let mut sources = Vec::new();
        let mut folders = vec![src.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    sources.push(Self::parse(path.strip_prefix(src).unwrap().to_owned(), &text));
                }
            }
        }
        let tests: BTreeSet<PathBuf> = sources
            .iter_mut()
            .flat_map(|source| std::mem::take(&mut source.test_modules))
            .collect();
        sources.retain(|source| {
            let module = source.path.with_extension("");
            let is_root = ROOTS.iter().any(|root| source.path == Path::new(root));
            !is_root && !module.ancestors().any(|part| tests.contains(part))
        });
        sources.sort_by(|a, b| a.path.cmp(&b.path));
        sources
    }

    pub fn parse(path: PathBuf, text: &str) -> Self {
        let tokens: TokenStream =
            text.parse().unwrap_or_else(|wrong| panic!("src/{}: {wrong}", path.display()));
        let inside = path.with_extension("");
        let module = inside.iter().next().unwrap().to_str().unwrap().to_owned();
        let mut source = Self {
            path,
            module,
            uses: Vec::new(),
            unsafe_lines: Vec::new(),
            test_modules: BTreeSet::new(),
        };
        source.read(tokens, &inside);
        source
    }

    /// Reads what stands in a module, which is given as the path of its file or folder.
    fn read(&mut self, tokens: TokenStream, inside: &Path) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            if is_for_tests(&tokens[at..]) {
                at = self.pass_over_item(&tokens, at + 2, inside);
                continue;
            }
            match &tokens[at] {
                TokenTree::Ident(word) if hides_uses(word, &tokens[at + 1..]) => panic!(
                    "src/{}:{}: `{word}` hides which modules are used; name them",
                    self.path.display(),
                    word.span().start().line
                ),
                TokenTree::Ident(word) if word == "unsafe" => {
                    self.unsafe_lines.push(word.span().start().line);
                }
                TokenTree::Ident(word) if word == "crate" && is_path(&tokens[at + 1..]) => {
                    self.name(&tokens[at + 3..]);
                }
                TokenTree::Ident(word) if word == "super" && is_path(&tokens[at + 1..]) => {
                    let mut levels = 1;
                    while is_word(tokens.get(at + 3), "super") && is_path(&tokens[at + 4..]) {
                        levels += 1;
                        at += 3;
                    }
                    if levels == inside.iter().count() {
                        self.name(&tokens[at + 3..]);
                    }
                }
                TokenTree::Group(group) => {
                    let name = at.checked_sub(1).map(|before| tokens[before].to_string());
                    let is_module = at >= 2 && is_word(tokens.get(at - 2), "mod");
                    match name.filter(|_| is_module) {
                        Some(name) => self.read(group.stream(), &inside.join(name)),
                        None => self.read(group.stream(), inside),
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// Takes the modules that follow `crate::`: one, or those of a group.
    fn name(&mut self, rest: &[TokenTree]) {
        match rest.first() {
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for branch in inner.split(|token| is_mark(Some(token), ',')) {
                    self.name(branch);
                }
            }
            Some(token @ TokenTree::Ident(word)) if word != "self" => {
                self.uses.push((word.to_string(), token.span().start().line));
            }
            Some(token) => panic!(
                "src/{}:{}: `crate::{token}` hides which modules are used; name them",
                self.path.display(),
                token.span().start().line
            ),
            None => {}
        }
    }

    /// The place after an item that is for tests alone, and notes the files of a module.
    fn pass_over_item(&mut self, tokens: &[TokenTree], from: usize, inside: &Path) -> usize {
        let mut at = from;
        while at < tokens.len() {
            if is_word(tokens.get(at), "mod") && is_mark(tokens.get(at + 2), ';') {
                self.test_modules.insert(inside.join(tokens[at + 1].to_string()));
            }
            let ends = match &tokens[at] {
                TokenTree::Group(group) => {
                    group.delimiter() == Delimiter::Brace && !is_mark(tokens.get(at + 1), ';')
                }
                token => is_mark(Some(token), ';'),
            };
            at += 1;
            if ends {
                break;
            }
        }
        at
    }
}

/// `#[cfg(test)]`, also as one of several conditions.
fn is_for_tests(tokens: &[TokenTree]) -> bool {
    let [hash, TokenTree::Group(attribute), ..] = tokens else { return false };
    let text: String = attribute.stream().to_string().split_whitespace().collect();
    is_mark(Some(hash), '#') && (text == "cfg(test)" || text.starts_with("cfg(all(test,"))
}

/// `crate as`, `super as`, `super::{super::`, `include!`: what comes through them is not seen.
fn hides_uses(word: &Ident, rest: &[TokenTree]) -> bool {
    let inner = match rest.get(2) {
        Some(TokenTree::Group(group)) if is_path(rest) => group.stream().to_string(),
        _ => String::new(),
    };
    match word.to_string().as_str() {
        "crate" => is_word(rest.first(), "as"),
        "super" => {
            is_word(rest.first(), "as") || inner.split_whitespace().any(|word| word == "super")
        }
        "include" => is_mark(rest.first(), '!'),
        _ => false,
    }
}

fn is_path(tokens: &[TokenTree]) -> bool {
    is_mark(tokens.first(), ':') && is_mark(tokens.get(1), ':')
}

fn is_word(token: Option<&TokenTree>, wanted: &str) -> bool {
    matches!(token, Some(TokenTree::Ident(word)) if word == wanted)
}

fn is_mark(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(mark)) if mark.as_char() == wanted)
}
