//! Which processes act for nobody, by their command lines.

/// The configured signs of a background process.
#[derive(Debug)]
pub(super) struct Background {
    arguments: Vec<Vec<u8>>,
    titles: Vec<Vec<u8>>,
}

impl Background {
    pub(super) fn new(arguments: &[String], titles: &[String]) -> Self {
        let bytes = |list: &[String]| list.iter().map(|s| s.clone().into_bytes()).collect();
        Self { arguments: bytes(arguments), titles: bytes(titles) }
    }

    /// Whether a process with this command line acts for nobody. `setproctitle` writes the title over
    /// the arguments, so both are read from one place.
    pub(super) fn is(&self, cmdline: &[u8]) -> bool {
        self.titles.iter().any(|title| cmdline.starts_with(title))
            || first_argument(cmdline)
                .is_some_and(|first| self.arguments.iter().any(|sign| sign == first))
    }
}

/// The argument that Odoo asks for `gevent`: Python's `sys.argv[1]`. `-d gevent` is a database.
fn first_argument(cmdline: &[u8]) -> Option<&[u8]> {
    let mut words = cmdline.split(|&byte| byte == 0);
    let program = words.next()?;
    if is_python(program) {
        skip_script(&mut words)?;
    }
    words.next()
}

fn is_python(program: &[u8]) -> bool {
    let name = program.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    name.starts_with(b"python") || name.starts_with(b"pypy")
}

/// Takes Python's own options and the script (or module, or command) from its arguments, as its
/// `getopt` does.
fn skip_script<'a>(words: &mut impl Iterator<Item = &'a [u8]>) -> Option<()> {
    loop {
        let word = words.next()?;
        match word {
            b"--" => return words.next().map(|_| ()),
            b"--check-hash-based-pycs" => {
                words.next()?;
            }
            [b'-', b'-', ..] => {}
            [b'-', flags @ ..] if !flags.is_empty() => {
                let Some(at) = flags.iter().position(|flag| b"cmWXQ".contains(flag)) else {
                    continue;
                };
                if at + 1 == flags.len() {
                    words.next()?;
                }
                if matches!(flags[at], b'c' | b'm') {
                    return Some(());
                }
            }
            _script => return Some(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_background(words: &[&str]) -> bool {
        let signs = Background::new(&["gevent".to_owned()], &["odoo: WorkerCron".to_owned()]);
        signs.is(format!("{}\0", words.join("\0")).as_bytes())
    }

    #[test]
    fn evented_and_cron_processes_act_for_nobody() {
        for words in [
            &["/usr/bin/python3", "/usr/bin/odoo", "gevent", "-c", "x"][..],
            &["python3.11", "-O", "odoo-bin", "gevent"],
            &[
                "/srv/venv/bin/python",
                "-X",
                "dev",
                "-Wignore",
                "-uW",
                "error",
                "odoo-bin",
                "gevent",
            ],
            &["python3", "-m", "odoo", "gevent"],
            &["python3", "-Om", "odoo", "gevent"],
            &["python3", "-modoo", "gevent"],
            &["python3", "-c", "import odoo", "gevent"],
            &["python3", "--", "odoo-bin", "gevent"],
            &["pypy3", "--check-hash-based-pycs", "never", "odoo-bin", "gevent"],
            &["/opt/odoo/odoo-bin", "gevent", "--workers=2"],
            &["odoo: WorkerCron 812 shop"],
        ] {
            assert!(is_background(words), "{words:?}");
        }
    }

    #[test]
    fn workers_and_lookalikes_act_for_a_person() {
        for words in [
            &["odoo: WorkerHTTP 812 "][..],
            &["/usr/bin/python3", "/usr/bin/odoo", "-d", "gevent-shop"],
            &["/usr/bin/python3", "/usr/bin/odoo", "-d", "gevent"],
            &["/usr/bin/python3", "/usr/bin/odoo", "server", "gevent"],
            &["/usr/bin/python3", "gevent"],
            &["python3", "-W", "gevent", "odoo-bin", "-d", "gevent"],
            &["python3", "-m", "gevent", "odoo"],
            &["odoo-bin", "-d", "gevent"],
            &["python3", "-X"],
            &["python3"],
            &[""],
        ] {
            assert!(!is_background(words), "{words:?}");
        }
    }
}
