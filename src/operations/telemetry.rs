//! Structured logs.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::config::{LogConfig, LogFormat};

/// Starts logging to standard error.
///
/// # Errors
/// If the directives don't parse.
pub fn init(config: &LogConfig) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.log).map_err(|error| format!("--log: {error}"))?;
    // The client logs the body of an answer that it can't decode, and that body may be a Secret.
    let filter = filter.add_directive("kube_client::client=off".parse().expect("a directive"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Json => subscriber.json().flatten_event(true).with_span_list(false).init(),
        LogFormat::Text => subscriber.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    Ok(())
}
