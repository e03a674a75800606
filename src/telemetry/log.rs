//! Where log lines go: standard error, by one filter.
//!
//! Some crates log names at their debug level, and a name is a session id. They are capped here,
//! before the user's filter is asked, so that no filter can let them through.

use std::io;

use log::{LevelFilter, Log, Metadata, Record};
use tracing::Level;
use tracing::level_filters::LevelFilter as TracingLevelFilter;
use tracing_log::LogTracer;
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry};

use super::recent::Keep;
use crate::exit::{ExitCode, Failure};

/// Crates that would log names or commands, and the most detailed level they are allowed.
const CAPPED: [(&str, Level); 2] = [("fuser", Level::INFO), ("redis", Level::INFO)];

/// Fuser logs each request that an adapter does not implement at warning level, names included.
const NOT_IMPLEMENTED: &str = "[Not Implemented]";

/// Checks a filter's syntax.
pub fn check_filter(filter: &str) -> Result<(), Failure> {
    parse_filter(filter).map(|_| ())
}

/// Starts logging to standard error. The filter is `error`, `warn`, `info`, `debug`, `trace`, or
/// a list like `info,sessionfs::store=debug`.
pub fn init(filter: &str) -> Result<(), Failure> {
    let subscriber = subscriber(filter, io::stderr)?;
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|e| Failure::internal("start logging", e))?;
    log::set_boxed_logger(Box::new(Bridge { tracer: LogTracer::new() }))
        .map_err(|e| Failure::internal("start logging", e))?;
    log::set_max_level(LevelFilter::Trace);
    Ok(())
}

fn parse_filter(filter: &str) -> Result<EnvFilter, Failure> {
    EnvFilter::builder()
        .with_default_directive(TracingLevelFilter::ERROR.into())
        .parse(filter)
        .map_err(|e| {
            Failure::new(
                ExitCode::BadValue,
                format!("log filter '{filter}': {e}; use for example 'info'"),
            )
        })
}

fn subscriber<W>(filter: &str, writer: W) -> Result<impl tracing::Subscriber + Send + Sync, Failure>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(false)
        // They would be told on standard error, with a panic if that is what failed.
        .log_internal_errors(false)
        .with_filter(
            filter_fn(|meta| allowed(meta.target(), *meta.level())).and(parse_filter(filter)?),
        );
    // Whatever is logged, warnings are kept for `status`.
    let kept = Keep.with_filter(TracingLevelFilter::WARN);
    Ok(Registry::default().with(lines).with(kept))
}

/// Whether a target may log at this level at all.
fn allowed(target: &str, level: Level) -> bool {
    CAPPED.iter().all(|(name, most)| {
        let inside =
            target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
        !inside || level <= *most
    })
}

/// Brings the records of the `log` crate over, less those that may hold a name.
struct Bridge {
    tracer: LogTracer,
}

impl Log for Bridge {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let level = match metadata.level() {
            log::Level::Error => Level::ERROR,
            log::Level::Warn => Level::WARN,
            log::Level::Info => Level::INFO,
            log::Level::Debug => Level::DEBUG,
            log::Level::Trace => Level::TRACE,
        };
        allowed(metadata.target(), level) && self.tracer.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if record.target().starts_with("fuser")
            && record.args().to_string().starts_with(NOT_IMPLEMENTED)
        {
            return;
        }
        self.tracer.log(record);
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn record(target: &str, level: log::Level, message: &str) {
        let bridge = Bridge { tracer: LogTracer::new() };
        bridge.log(
            &Record::builder().target(target).level(level).args(format_args!("{message}")).build(),
        );
    }

    #[test]
    fn names_cannot_be_let_through_by_any_filter() {
        log::set_max_level(LevelFilter::Trace);
        for filter in ["trace", "fuser=trace", "trace,fuser::request=trace,redis::aio=trace"] {
            let captured = Captured::default();
            let writer = captured.clone();
            let subscriber = subscriber(filter, move || writer.clone()).unwrap();
            tracing::subscriber::with_default(subscriber, || {
                record("fuser::request", log::Level::Debug, "LOOKUP secret");
                record("fuser", log::Level::Trace, "secret");
                record("fuser", log::Level::Warn, "[Not Implemented] lookup(name: secret)");
                record("redis::aio::connection", log::Level::Debug, "GET secret");
                tracing::debug!(target: "fuser::request", "secret");
                record("fuser::session", log::Level::Warn, "public");
            });
            let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
            assert!(!text.contains("secret"), "{filter}: {text}");
            assert!(text.contains("public"), "{filter}: {text}");
        }
    }

    #[test]
    fn other_targets_keep_their_level() {
        assert!(allowed("sessionfs::fs", Level::TRACE));
        assert!(allowed("fuserish", Level::TRACE));
        assert!(allowed("fuser::session", Level::INFO));
        assert!(!allowed("fuser::session", Level::DEBUG));
    }

    #[test]
    fn a_bad_filter_is_told() {
        let failure = check_filter("sessionfs=loud").unwrap_err();
        assert_eq!(failure.code, ExitCode::BadValue);
    }
}
