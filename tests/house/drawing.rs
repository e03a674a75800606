//! The drawing: layers from top to bottom, with an empty line between them. A module is a line with its name and what it
//! is for, and lines with the modules that it uses. `(unsafe)` before its purpose marks a module that may have it.

use std::collections::BTreeSet;
use std::fmt;

pub const HEADING: &str = "The house";
pub const UNSAFE: &str = "(unsafe)";
const ARROW: &str = "  ->";
const WIDTH: usize = 110;

#[derive(Default)]
pub struct Drawing {
    pub layers: Vec<Vec<Module>>,
}

pub struct Module {
    pub name: String,
    pub purpose: String,
    pub has_unsafe: bool,
    pub uses: BTreeSet<String>,
}

impl Drawing {
    /// Reads it from the document that it is a part of. The error says what is wrong with it.
    pub fn parse(document: &str) -> Result<Self, String> {
        let (_, section) = document
            .split_once(&format!("\n## {HEADING}\n"))
            .ok_or_else(|| format!("there is no section \"{HEADING}\""))?;
        let (_, block) =
            section.split_once("\n```text\n").ok_or("the section has no text block")?;
        let (block, _) = block.split_once("```").ok_or("the text block has no end")?;
        let layers = block.split("\n\n").map(layer).collect::<Result<Vec<_>, _>>()?;
        let drawing = Self { layers };
        let mut names = BTreeSet::new();
        for module in drawing.modules() {
            if !names.insert(&module.name) {
                return Err(format!("{} is drawn twice", module.name));
            }
        }
        for (from, to) in
            drawing.modules().flat_map(|from| from.uses.iter().map(move |to| (from, to)))
        {
            if !names.contains(to) {
                return Err(format!("{} -> {to}: there is no {to} in the drawing", from.name));
            }
        }
        Ok(drawing)
    }

    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.layers.iter().flatten()
    }

    /// The arrows that do not lead to a lower layer.
    pub fn arrows_up(&self) -> Vec<(&str, &str)> {
        let mut up = Vec::new();
        let mut not_lower = BTreeSet::new();
        for layer in &self.layers {
            not_lower.extend(layer.iter().map(|module| &module.name));
            for from in layer {
                let to = from.uses.iter().filter(|to| not_lower.contains(to));
                up.extend(to.map(|to| (from.name.as_str(), to.as_str())));
            }
        }
        up
    }

    pub fn module(&self, name: &str) -> Option<&Module> {
        self.modules().find(|module| module.name == name)
    }
}

fn layer(text: &str) -> Result<Vec<Module>, String> {
    let mut modules: Vec<Module> = Vec::new();
    for line in text.lines() {
        if let Some(names) = line.strip_prefix(ARROW) {
            let module = modules.last_mut().ok_or(format!("an arrow of no module: {line}"))?;
            module.uses.extend(names.split_whitespace().map(str::to_owned));
            continue;
        }
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim_start();
        let purpose = rest.strip_prefix(UNSAFE).unwrap_or(rest).trim();
        if purpose.is_empty() {
            return Err(format!("it does not say what {name} is for"));
        }
        modules.push(Module {
            name: name.to_owned(),
            purpose: purpose.to_owned(),
            has_unsafe: rest.starts_with(UNSAFE),
            uses: BTreeSet::new(),
        });
    }
    Ok(modules)
}

impl fmt::Display for Drawing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, layer) in self.layers.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            layer.iter().try_for_each(|module| write!(f, "{module}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.has_unsafe { format!("{UNSAFE} ") } else { String::new() };
        writeln!(f, "{:<12} {mark}{}", self.name, self.purpose)?;
        let mut line = String::new();
        for name in &self.uses {
            if line.len() + 1 + name.len() > WIDTH - ARROW.len() {
                writeln!(f, "{ARROW}{line}")?;
                line.clear();
            }
            line.push(' ');
            line.push_str(name);
        }
        if line.is_empty() { Ok(()) } else { writeln!(f, "{ARROW}{line}") }
    }
}
