//! `kubectl roster keys`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use roster_api::credentials::ApiKeyStatus;
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::Value;

use super::caller::Caller;
use super::client::{deleted, of_user, path_of, status};
use super::global::Global;
use super::output::{Output, at, table};
use super::prompt::{Console, Terminal, current_password};

/// Subcommands of `kubectl roster keys`.
#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// List API keys.
    List {
        /// User whose keys to list, as an administrator. Default: you.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Create an API key and print it. It is not shown again.
    Create {
        /// Display name that says what the key is for.
        name: String,

        /// Lifetime, such as 12h, 30d or 8w. Default: set by the installation, 90 days at most.
        #[arg(long, value_name = "TIME", value_parser = lifetime)]
        expires_in: Option<SignedDuration>,

        /// User to create the key for, as an administrator. Default: you.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,

        /// File with your password, for a key of your own, or `-` for standard input. Default: ask.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Revoke an API key.
    Revoke {
        /// Name of the key, as shown by `list`.
        name: String,

        /// User whose key to revoke, as an administrator. Default: you.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
}

pub(super) async fn execute(command: KeysCommand, global: &Global) -> Result<()> {
    match command {
        KeysCommand::List { user } => list(user.as_ref(), global).await,
        KeysCommand::Create { name, expires_in, user, password_file } => {
            create(name, expires_in, user.as_ref(), password_file, global).await
        }
        KeysCommand::Revoke { name, user } => revoke(&name, user.as_ref(), global).await,
    }
}

async fn list(user: Option<&String>, global: &Global) -> Result<()> {
    let keys = global.connection.directory().await?.get(&path_of(user, &["apikeys"])?).await?;
    global.output.print(&keys, || describe(&keys))
}

/// Spec of the APIKey to create.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    display_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_timestamp: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_password: Option<&'a str>,
}

async fn create(
    display_name: String,
    expires_in: Option<SignedDuration>,
    user: Option<&String>,
    password_file: Option<PathBuf>,
    global: &Global,
) -> Result<()> {
    let expiration = expires_in.map(|lifetime| Timestamp::now().checked_add(lifetime)).transpose();
    let expiration_timestamp = expiration.context("--expires-in is too long")?;
    let directory = global.connection.directory().await?;
    let caller = Caller::fetch(&directory).await?;
    let other = caller.other(user);
    let password = current_password(password_file.as_deref(), &caller, other, &mut Terminal)?;
    let current_password = password.as_ref().map(ExposeSecret::expose_secret);
    let spec = Spec { display_name: &display_name, expiration_timestamp, current_password };
    let answer = directory.create(&path_of(other, &["apikeys"])?, "APIKey", &spec).await?;
    let created = status::<ApiKeyStatus>(&answer)?;
    let key = created.key.context("the response has no key")?;
    if global.output == Output::Table {
        Terminal.print(&key_notice(&answer, &of_user(created.user.as_ref())));
    }
    global.output.print(&answer, || key)
}

async fn revoke(name: &str, user: Option<&String>, global: &Global) -> Result<()> {
    let directory = global.connection.directory().await?;
    let answer = directory.delete(&path_of(user, &["apikeys", name])?).await?;
    global.output.print(&answer, || deleted(&answer, || format!("API key {name} is deleted")))
}

/// Parses a duration such as 30d. Days have 24 hours.
fn lifetime(text: &str) -> Result<SignedDuration> {
    let span: Span = text.parse().context("must be a duration such as 12h, 30d or 8w")?;
    let lifetime = span.to_duration(SpanRelativeTo::days_are_24_hours()).context("weeks are the longest unit")?;
    if !lifetime.is_positive() {
        bail!("must be positive");
    }
    Ok(lifetime)
}

/// Text shown next to a new key, without the key itself.
fn key_notice(key: &Value, of_user: &str) -> String {
    let (name, end) = (at(key, "/metadata/name"), at(key, "/spec/expirationTimestamp"));
    let end = if end.is_empty() { String::new() } else { format!(", valid until {end}") };
    format!("API key {name}{of_user}{end}. It is not shown again:")
}

fn describe(keys: &Value) -> String {
    let keys: Vec<&Value> = keys["items"].as_array().into_iter().flatten().collect();
    if keys.is_empty() {
        return "no API keys".to_owned();
    }
    let state = |key: &Value| if key["status"]["expired"] == true { "Expired" } else { "Active" };
    let row = |key: &Value| {
        let columns = [
            "/metadata/name",
            "/spec/displayName",
            "/metadata/creationTimestamp",
            "/spec/expirationTimestamp",
            "/status/lastUsedTime",
        ];
        let [name, display_name, created, end, used] = columns.map(|pointer| at(key, pointer));
        [name, display_name, state(key).to_owned(), created, end, used]
    };
    let rows: Vec<_> = keys.into_iter().map(row).collect();
    table(["NAME", "DISPLAY NAME", "STATE", "CREATED", "EXPIRES", "LAST USED"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case("30d", 30 * 24)]
    #[case("12h", 12)]
    #[case("2w", 14 * 24)]
    #[case("1d12h", 36)]
    #[case("1 day 1 hour", 25)]
    #[case("P1D", 24)]
    fn lifetimes(#[case] text: &str, #[case] hours: i64) {
        assert_eq!(lifetime(text).unwrap(), SignedDuration::from_hours(hours));
    }

    #[rstest]
    #[case("")]
    #[case("30")]
    #[case("0d")]
    #[case("-1d")]
    #[case("1y")]
    #[case("soon")]
    fn invalid_lifetimes(#[case] text: &str) {
        assert!(lifetime(text).is_err());
    }

    #[test]
    fn the_body_has_what_the_api_expects() {
        let end = "2030-01-01T12:00:00Z".parse().unwrap();
        let spec = Spec { display_name: "ci", expiration_timestamp: Some(end), current_password: Some("s3cret") };
        let expected =
            json!({"displayName": "ci", "expirationTimestamp": "2030-01-01T12:00:00Z", "currentPassword": "s3cret"});
        assert_eq!(serde_json::to_value(spec).unwrap(), expected);
        let spec = Spec { display_name: "ci", expiration_timestamp: None, current_password: None };
        assert_eq!(serde_json::to_value(spec).unwrap(), json!({"displayName": "ci"}));
    }

    #[test]
    fn keys_are_listed_with_their_state() {
        let keys = json!({"items": [
            {"metadata": {"name": "k1", "creationTimestamp": "2030-01-01T00:00:00Z"},
                "spec": {"displayName": "ci", "expirationTimestamp": "2030-02-01T00:00:00Z"}, "status": {}},
            {"metadata": {"name": "k2"}, "spec": {"displayName": "old"}, "status": {"expired": true}}]});
        let text = describe(&keys);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["k1", "ci", "Active", "2030-01-01T00:00:00Z", "2030-02-01T00:00:00Z", "<none>"]);
        assert_eq!(lines[2], ["k2", "old", "Expired", "<none>", "<none>", "<none>"]);
        assert_eq!(describe(&json!({"items": []})), "no API keys");
    }

    #[test]
    fn the_notice_does_not_contain_the_key() {
        let key = json!({"metadata": {"name": "k1"}, "spec": {"expirationTimestamp": "2030-02-01T00:00:00Z"},
            "status": {"key": "s3cret"}});
        let text = key_notice(&key, " of User jane (username jd)");
        assert!(text.starts_with("API key k1 of User jane (username jd), valid until 2030-02-01T00:00:00Z"), "{text}");
        assert!(!text.contains("s3cret"));
    }
}
