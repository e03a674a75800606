//! Where log lines go: standard error, by one filter; in the form of the journal, if that is what
//! standard error is. What repeats is written once in some seconds, with a count.
//!
//! Some crates log names at their debug level, and a name is a session id. They are capped here,
//! before the user's filter is asked, so that no filter can let them through.

mod journal;
mod lines;
mod output;
mod repeats;

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, OnceLock};

use log::{LevelFilter, Log, Metadata, Record};
use tracing::Level;
use tracing::level_filters::LevelFilter as TracingLevelFilter;
use tracing_log::LogTracer;
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry};

use self::lines::{Form, Lines};
use self::output::Output;
use super::recent::Keep;
use crate::exit::{ExitCode, Failure};

/// Crates that would log names or commands, and the most detailed level they are allowed.
const CAPPED: [(&str, Level); 2] = [("fuser", Level::INFO), ("redis", Level::INFO)];

/// Fuser logs each request that an adapter does not implement at warning level, names included.
const NOT_IMPLEMENTED: &str = "[Not Implemented]";

type ErrorLines = Lines<Arc<Output<io::Stderr>>>;

/// What [`init`] has started.
static LINES: OnceLock<ErrorLines> = OnceLock::new();

/// Checks a filter's syntax.
pub(crate) fn check_filter(filter: &str) -> Result<(), Failure> {
    parse_filter(filter).map(|_| ())
}

/// Whether the journal of systemd reads our standard error.
pub(crate) fn goes_to_journal() -> bool {
    journal::is_behind(io::stderr().as_fd())
}

/// Starts logging to standard error. The filter is `error`, `warn`, `info`, `debug`, `trace`, or
/// a list like `info,sessionfs::redis=debug`.
pub(crate) fn init(filter: &str) -> Result<(), Failure> {
    let form = if goes_to_journal() { Form::Journal } else { Form::Timed };
    let output = Arc::new(Output::new(io::stderr()));
    let lines: ErrorLines = Lines::new(output, form, folds(&parse_filter(filter)?));
    let subscriber = subscriber(filter, lines.clone())?;
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|e| Failure::internal("start logging", e))?;
    log::set_boxed_logger(Box::new(Bridge { tracer: LogTracer::new() }))
        .map_err(|e| Failure::internal("start logging", e))?;
    log::set_max_level(LevelFilter::Trace);
    let _ = LINES.set(lines);
    Ok(())
}

/// Writes how often lines were repeated, where it is time for that. To be called every second or
/// so: nobody else tells of what has just ended.
pub(crate) fn tell_repeated() {
    if let Some(lines) = LINES.get() {
        lines.tell_repeated();
    }
}

/// The same for all of them, at the end.
pub(crate) fn tell_all_repeated() {
    if let Some(lines) = LINES.get() {
        lines.tell_all_repeated();
    }
}

/// At a detailed level every line is written.
fn folds(filter: &EnvFilter) -> bool {
    filter.max_level_hint().is_some_and(|most| most < TracingLevelFilter::DEBUG)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, Failure> {
    // The crate takes a word that is no level for the name of a module, and then logs nothing else.
    let bare = filter.split(',').map(str::trim).filter(|part| !part.is_empty());
    let is_level = |part: &str| part.contains(['=', '[']) || part.parse::<LevelFilter>().is_ok();
    if let Some(word) = bare.into_iter().find(|part| !is_level(part)) {
        return Err(Failure::new(
            ExitCode::BadValue,
            format!(
                "log filter '{filter}': '{word}' is not a level; use error, warn, info, debug or \
                 trace"
            ),
        ));
    }
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

fn subscriber<W>(
    filter: &str,
    lines: Lines<W>,
) -> Result<impl tracing::Subscriber + Send + Sync, Failure>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = lines.with_filter(
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
    use std::sync::Mutex;

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
            let lines = Lines::new(move || writer.clone(), Form::Timed, false);
            let subscriber = subscriber(filter, lines).unwrap();
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

    /// What is written of some events.
    fn written(form: Form, filter: &str, events: impl FnOnce()) -> Vec<String> {
        let captured = Captured::default();
        let writer = captured.clone();
        let folds = folds(&parse_filter(filter).unwrap());
        let lines = Lines::new(move || writer.clone(), form, folds);
        let subscriber = subscriber(filter, lines.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, events);
        lines.tell_all_repeated();
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        text.lines().map(ToOwned::to_owned).collect()
    }

    #[test]
    fn the_journal_is_told_the_priority_and_no_time() {
        let lines = written(Form::Journal, "trace", || {
            tracing::error!(errno = 5, "cannot\nread");
            tracing::warn!(event = "link", state = "down");
            tracing::info!("ready");
            tracing::debug!("detail");
        });
        let expected = [
            r"<3>ERROR sessionfs::telemetry::log::tests: cannot\u{a}read errno=5",
            r#"<4>WARN sessionfs::telemetry::log::tests: event="link" state="down""#,
            "<6>INFO sessionfs::telemetry::log::tests: ready",
            "<7>DEBUG sessionfs::telemetry::log::tests: detail",
        ];
        assert_eq!(lines, expected);
        let timed = written(Form::Timed, "info", || tracing::info!("ready"));
        let (time, rest) = timed[0].split_once(' ').unwrap();
        assert!(time.len() > 20 && time.ends_with('Z'), "{timed:?}");
        assert_eq!(rest, " INFO sessionfs::telemetry::log::tests: ready");
    }

    #[test]
    fn what_repeats_is_counted_and_the_count_is_told_at_the_end() {
        let fail = |operation: &str| {
            tracing::warn!(operation, errno = %nix::errno::Errno::EIO, error = "away");
        };
        let flood = || {
            for _ in 0..1000 {
                fail("open");
                fail("create");
                tracing::info!(event = "save_refused", reason = "it has ended");
                tracing::info!(event = "session_ended", reason = "idle");
            }
        };
        let lines = written(Form::Journal, "info", flood);
        let count = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
        // Each end of somebody's session is a fact of its own.
        assert_eq!(count("session_ended"), 1000);
        assert_eq!(lines.len(), 1000 + 3 + 3, "{lines:#?}");
        let is_summary = |line: &&String| {
            line.starts_with("<4>WARN sessionfs: 999 more of this kind in ")
                && line.ends_with(" s, the last: operation open, errno EIO: I/O error, away")
        };
        assert_eq!(lines.iter().filter(is_summary).count(), 1, "{:#?}", &lines[1000..]);
        assert_eq!(count("<6>INFO sessionfs: 999 more of this kind in "), 1);
        // At a detailed level each is written.
        assert_eq!(written(Form::Journal, "debug", flood).len(), 4000);
    }

    #[test]
    fn a_bad_filter_is_told() {
        let failure = check_filter("sessionfs=loud").unwrap_err();
        assert_eq!(failure.code, ExitCode::BadValue);
    }
}
