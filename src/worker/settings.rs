//! What the core is given of the configuration.

use crate::config::Config;
use crate::fs;

/// The settings of the filesystem's core.
pub(super) fn core(config: &Config) -> fs::Settings {
    fs::Settings {
        staging_dir: config.staging_dir.clone(),
        max_session_bytes: config.limits.session_bytes,
        max_staging_bytes: config.limits.staging_bytes,
        max_inodes: usize::try_from(config.limits.inodes).unwrap_or(usize::MAX),
        background_argv: config.activity.background_argv.clone(),
        background_titles: config.activity.background_title.clone(),
        ..fs::Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::flags::{Flags, Place};

    #[test]
    fn the_cores_defaults_are_those_of_the_configuration() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let place = Place {
            config: Some(file.path().to_owned()),
            redis: Some("redis://127.0.0.1".to_owned()),
        };
        let flags = Flags { place, ..Flags::default() };
        let resolved = core(&Config::resolve(Path::new("/mnt"), &flags).unwrap());
        let default = fs::Settings::default();
        assert_eq!(resolved.max_session_bytes, default.max_session_bytes);
        assert_eq!(resolved.max_staging_bytes, default.max_staging_bytes);
        assert_eq!(resolved.max_inodes, default.max_inodes);
        assert_eq!(resolved.background_argv, default.background_argv);
        assert_eq!(resolved.background_titles, default.background_titles);
    }
}
