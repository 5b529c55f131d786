//! Structured logs.

use std::io::IsTerminal;

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Format of log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Human-readable text.
    Text,
}

/// The directives of the filter do not parse.
#[derive(Debug, Error)]
#[error("--log: {0}")]
pub struct InvalidDirectives(#[source] ParseError);

/// Starts logging to standard error. `directives` are those of tracing's `EnvFilter`, such as `info,kube=warn`.
///
/// # Errors
/// If the directives do not parse.
pub fn init(format: LogFormat, directives: &str) -> Result<(), InvalidDirectives> {
    let filter = EnvFilter::try_new(directives).map_err(InvalidDirectives)?;
    // The client logs responses that it can't decode, and those may contain a Secret.
    let filter = filter.add_directive("kube_client::client=off".parse().expect("a directive"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => subscriber.json().flatten_event(true).with_span_list(false).init(),
        LogFormat::Text => subscriber.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    Ok(())
}
