//! nginx's configuration language, as `nginx -T` prints it: every file behind a line with its name, and
//! each `include` still in its place.
//!
//! Only the form is read here (`src/core/ngx_conf_file.c`): words, quotes, `;`, `{` and `}`. What a
//! directive means is [`super`]'s.

use std::path::Path;

/// Words and blocks of a configuration, all files together. The largest that are known have some
/// ten thousand.
const DIRECTIVES_MAX: usize = 100_000;
/// Blocks in blocks, and includes in includes: nginx itself has no more than a handful.
const DEPTH_MAX: usize = 24;
/// The line that begins a file in the output of `nginx -T`.
const FILE: &str = "# configuration file ";

/// One directive, with the block that belongs to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Directive {
    pub name: String,
    /// Without their quotes.
    pub arguments: Vec<String>,
    /// None without braces.
    pub block: Option<Vec<Directive>>,
}

impl Directive {
    /// What is in its braces.
    pub(crate) fn inside(&self) -> &[Self] {
        self.block.as_deref().unwrap_or_default()
    }

    /// One of its arguments; empty if it has none there.
    pub(crate) fn argument(&self, position: usize) -> &str {
        self.arguments.get(position).map_or("", String::as_str)
    }
}

/// The main file, with everything that it includes in its place.
pub(crate) fn parse(text: &str) -> Result<Vec<Directive>, String> {
    let files = files(text);
    let Some((main, _)) = files.first() else {
        return Err("it has no line that begins with '# configuration file'".to_owned());
    };
    let mut expander = Expander { files: &files, left: DIRECTIVES_MAX };
    expander.file(main, 0)
}

/// Each file with its content. The same file may be printed once and included often.
fn files(text: &str) -> Vec<(&str, String)> {
    let mut files: Vec<(&str, String)> = Vec::new();
    for line in text.lines() {
        let name = line.strip_prefix(FILE).and_then(|rest| rest.strip_suffix(':'));
        match (name, files.last_mut()) {
            (Some(name), _) => files.push((name, String::new())),
            (None, Some((_, content))) => {
                content.push_str(line);
                content.push('\n');
            }
            (None, None) => {}
        }
    }
    files
}

struct Expander<'a> {
    files: &'a [(&'a str, String)],
    /// How many directives may still come.
    left: usize,
}

impl Expander<'_> {
    fn file(&mut self, name: &str, depth: usize) -> Result<Vec<Directive>, String> {
        let Some((_, content)) = self.files.iter().find(|(known, _)| *known == name) else {
            return Ok(Vec::new());
        };
        let mut tokens = Tokens { rest: content, file: name };
        self.block(&mut tokens, depth, false)
    }

    fn block(
        &mut self,
        tokens: &mut Tokens<'_>,
        depth: usize,
        in_braces: bool,
    ) -> Result<Vec<Directive>, String> {
        if depth > DEPTH_MAX {
            return Err(tokens.wrong("too many blocks or includes in each other"));
        }
        let mut found = Vec::new();
        loop {
            let mut words: Vec<String> = Vec::new();
            let ended = loop {
                match tokens.next()? {
                    Some(Token::Word(word)) => words.push(word),
                    other => break other,
                }
            };
            self.left = self.left.checked_sub(1).ok_or_else(|| tokens.wrong("too long"))?;
            let mut words = words.into_iter();
            match (words.next(), ended) {
                (None, None) if !in_braces => return Ok(found),
                (None, Some(Token::Close)) if in_braces => return Ok(found),
                (None, Some(Token::End)) => {}
                (Some(name), Some(Token::End)) => {
                    let arguments: Vec<String> = words.collect();
                    if name == "include" {
                        self.include(&arguments, depth, &mut found)?;
                    } else {
                        found.push(Directive { name, arguments, block: None });
                    }
                }
                (Some(name), Some(Token::Open)) => {
                    let block = if name.ends_with("_by_lua_block") {
                        tokens.skip_block()?;
                        Vec::new()
                    } else {
                        self.block(tokens, depth + 1, true)?
                    };
                    found.push(Directive { name, arguments: words.collect(), block: Some(block) });
                }
                _ => return Err(tokens.wrong("a brace or a semicolon is missing or too many")),
            }
        }
    }

    /// Puts what is included in the place of the directive. nginx prints the names of files as it
    /// opens them, and patterns are relative to the directory of the main one.
    fn include(
        &mut self,
        arguments: &[String],
        depth: usize,
        found: &mut Vec<Directive>,
    ) -> Result<(), String> {
        let Some(pattern) = arguments.first() else { return Ok(()) };
        let main = self.files.first().map_or("", |(name, _)| *name);
        let beside = Path::new(main).parent().unwrap_or(Path::new("/")).join(pattern);
        let pattern = beside.to_string_lossy().into_owned();
        let mut names: Vec<String> = Vec::new();
        for (name, _) in self.files {
            if matches(&pattern, name) && !names.iter().any(|known| known == name) {
                names.push((*name).to_owned());
            }
        }
        names.sort_unstable();
        for name in names {
            found.extend(self.file(&name, depth + 1)?);
        }
        Ok(())
    }
}

/// As glob(3) for the patterns that stand in includes: `*` and `?` within one name.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star stands, and up to where it has taken.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == name[n] || *c == '?' && name[n] != '/' => {
                (p, n) = (p + 1, n + 1);
            }
            _ => match star {
                Some((at, taken)) if name[taken] != '/' => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                _ => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

enum Token {
    Word(String),
    /// `;`
    End,
    Open,
    Close,
}

struct Tokens<'a> {
    rest: &'a str,
    file: &'a str,
}

impl Tokens<'_> {
    fn wrong(&self, what: &str) -> String {
        format!("{}: {what}", self.file)
    }

    fn next(&mut self) -> Result<Option<Token>, String> {
        loop {
            self.rest = self.rest.trim_start();
            match self.rest.strip_prefix('#') {
                Some(comment) => self.rest = comment.split_once('\n').map_or("", |(_, rest)| rest),
                None => break,
            }
        }
        let Some(first) = self.rest.chars().next() else { return Ok(None) };
        let mark = match first {
            ';' => Some(Token::End),
            '{' => Some(Token::Open),
            '}' => Some(Token::Close),
            _ => None,
        };
        if mark.is_some() {
            self.rest = &self.rest[1..];
            return Ok(mark);
        }
        if first == '"' || first == '\'' {
            return self.quoted(first).map(Some);
        }
        Ok(Some(self.bare()))
    }

    fn quoted(&mut self, quote: char) -> Result<Token, String> {
        let mut word = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        while let Some((at, c)) = characters.next() {
            match c {
                c if c == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(Token::Word(word));
                }
                '\\' => match characters.next() {
                    Some((_, c)) if c == quote || c == '\\' => word.push(c),
                    Some((_, c)) => word.extend(['\\', c]),
                    None => break,
                },
                c => word.push(c),
            }
        }
        Err(self.wrong("a quote is not closed"))
    }

    /// A word ends at a blank, `;` or `{`; the brace of `${name}` is a part of it.
    fn bare(&mut self) -> Token {
        let mut word = String::new();
        let mut end = self.rest.len();
        let mut characters = self.rest.char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '\\' => {
                    word.push(c);
                    word.extend(characters.next().map(|(_, c)| c));
                }
                '{' if word.ends_with('$') => word.push(c),
                c if c.is_whitespace() || c == ';' || c == '{' => {
                    end = at;
                    break;
                }
                c => word.push(c),
            }
        }
        self.rest = &self.rest[end..];
        Token::Word(word)
    }

    /// Passes over a block in another language, whose braces are balanced.
    fn skip_block(&mut self) -> Result<(), String> {
        let mut depth = 1_usize;
        for (at, c) in self.rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                self.rest = &self.rest[at + 1..];
                return Ok(());
            }
        }
        Err(self.wrong("a brace is not closed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(files: &[(&str, &str)]) -> String {
        let printed: Vec<String> =
            files.iter().map(|(name, text)| format!("{FILE}{name}:\n{text}\n")).collect();
        printed.concat()
    }

    fn words(text: &str) -> Vec<Vec<String>> {
        let found = parse(&printed(&[("/n", text)])).unwrap();
        found.into_iter().map(|one| [vec![one.name], one.arguments].concat()).collect()
    }

    #[test]
    fn words_are_read_as_nginx_reads_them() {
        assert_eq!(
            words("a b;# c;\n d 'e f' \"g\\\"h\";"),
            [vec!["a", "b"], vec!["d", "e f", "g\"h"]]
        );
        assert_eq!(words("map $a ${b}c { x 'y'; }"), [["map", "$a", "${b}c"]]);
        assert_eq!(words(r"r ^/\.git$ a\;b;"), [["r", r"^/\.git$", r"a\;b"]]);
        assert_eq!(words("a;;b;"), [["a"], ["b"]]);
        let lua = "content_by_lua_block { if x then y = {1} end -- it's\n } z;";
        assert_eq!(words(lua), [["content_by_lua_block"], ["z"]]);
    }

    #[test]
    fn includes_are_put_in_their_place() {
        let text = printed(&[
            ("/etc/nginx/nginx.conf", "http { include conf.d/*.conf; include /srv/x; last; }"),
            ("/etc/nginx/conf.d/b.conf", "server { b; }"),
            ("/etc/nginx/conf.d/a.conf", "server { a; include nothing; }"),
            ("/etc/nginx/conf.d/sub/c.conf", "c;"),
            ("/srv/x", "x;"),
        ]);
        let found = parse(&text).unwrap();
        let names: Vec<&str> = found[0].inside().iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["server", "server", "x", "last"]);
        assert_eq!(found[0].inside()[0].inside()[0].name, "a");
    }

    #[test]
    fn names_are_matched_as_by_glob() {
        for (pattern, name) in
            [("/a/*.conf", "/a/.b.conf"), ("/a/*", "/a/b"), ("/a?c", "/abc"), ("*", "")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("/a/*", "/a/b/c"), ("/a?c", "/a/c"), ("/a", "/ab"), ("", "x")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_no_configuration_ends_with_a_reason() {
        let deep = "a {".repeat(10_000);
        let long = "a;".repeat(DIRECTIVES_MAX + 1);
        for text in
            ["a {", "a }", "a", "}", "'a", "\"a\\", "x_by_lua_block { {", &deep, &long, "{ }"]
        {
            let why = parse(&printed(&[("/n", text)])).unwrap_err();
            assert!(why.starts_with("/n: "), "{why}");
        }
        // A file that includes itself.
        let own = printed(&[("/n", "include /n;")]);
        assert!(parse(&own).unwrap_err().contains("too many"), "it ends");
        assert!(parse("").is_err() && parse("user x;").is_err());
    }

    #[test]
    fn nothing_makes_it_panic() {
        let pieces =
            ["a", " ", ";", "{", "}", "'", "\"", "\\", "$", "#", "\n", "\u{e9}", "include /n"];
        let mut state = 7_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push_str(pieces[usize::try_from(state >> 33).unwrap() % pieces.len()]);
            }
            let _ = parse(&printed(&[("/n", &text)]));
        }
    }
}
