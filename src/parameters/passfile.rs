//! `~/.pgpass` (PostgreSQL's manual, "The Password File").

use super::access::SOCKET_DIR;

/// Its lines: host, port, database, user and password.
#[derive(Clone, Default)]
pub(super) struct Passfile(Vec<[String; 5]>);

impl Passfile {
    pub(super) fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(fields).collect())
    }

    /// The password of the first line that is about this.
    pub(super) fn password(
        &self,
        host: &str,
        port: u16,
        database: &str,
        user: &str,
    ) -> Option<&str> {
        // Of the usual socket; another one is named.
        let host = if host == SOCKET_DIR { "localhost" } else { host };
        let port = port.to_string();
        let asked = [host, &port, database, user];
        let is_about = |said: &[String; 5]| {
            said.iter().zip(asked).all(|(said, asked)| said == "*" || said == asked)
        };
        self.0.iter().find(|said| is_about(said)).map(|said| said[4].as_str())
    }
}

/// The fields of a line: `\` takes what follows as it is.
fn fields(line: &str) -> Option<[String; 5]> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ':' if fields.len() < 5 => fields.push(String::new()),
            '\\' => fields.last_mut()?.extend(chars.next()),
            // The password is the last one.
            ':' => break,
            c => fields.last_mut()?.push(c),
        }
    }
    fields.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let text = "# a comment:1:2:3:4\ndb:5432:shop:odoo:one\n*:*:*:other:two\n\
                    localhost:*:*:odoo:th\\:r\\\\ee\nshort:line\nd\\:b:*:*:odoo:four\n";
        let file = Passfile::parse(text);
        let password = |host, database, user| file.password(host, 5432, database, user);
        assert_eq!(password("db", "shop", "odoo"), Some("one"));
        assert_eq!(password("db", "x", "odoo"), None);
        assert_eq!(file.password("db", 1, "shop", "odoo"), None);
        assert_eq!(password("db", "shop", "other"), Some("two"));
        assert_eq!(password(SOCKET_DIR, "x", "odoo"), Some("th:r\\ee"));
        assert_eq!(password("d:b", "x", "odoo"), Some("four"));
        assert_eq!(password("/tmp", "x", "odoo"), None);
    }
}
