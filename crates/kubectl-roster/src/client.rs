//! The aggregated API, reached as the kubeconfig says.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use axum::http::Request;
use kube::client::Client;
use kube::config::{Cluster, KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Config, config};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use roster_api::directory::{API_VERSION, GROUP, VERSION};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The key of whoever asks.
pub(super) const ONESELF: &str = "~";

/// How long to wait for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What a segment of a path may hold as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Flags that say which cluster, and as whom.
#[derive(clap::Args, Debug)]
pub(super) struct Connection {
    /// Path of the kubeconfig. Absent: KUBECONFIG, or else ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig. Absent: its current one.
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
}

impl Connection {
    /// A client as the kubeconfig says.
    pub(super) async fn client(&self) -> Result<Client> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(self.read()?, &options).await?;
        config.read_timeout = Some(PATIENCE);
        // What is sent twice may be done twice: two API keys, or two failed logins of one wrong password.
        config.default_retry = false;
        Client::try_from(config).context("the credentials of the kubeconfig can't be used")
    }

    /// The aggregated API.
    pub(super) async fn directory(&self) -> Result<Directory> {
        Ok(Directory { client: self.client().await? })
    }

    /// The context, with its cluster.
    pub(super) fn current(&self) -> Result<(config::Context, Cluster)> {
        let kubeconfig = self.read()?;
        let name = self.context.as_ref().or(kubeconfig.current_context.as_ref());
        let name = name.context("the kubeconfig has no current context: name one by --context")?;
        let context = kubeconfig.contexts.into_iter().find(|named| named.name == *name);
        let context = context.and_then(|named| named.context);
        let context = context.with_context(|| format!("the kubeconfig has no context {name:?}"))?;
        let cluster = kubeconfig.clusters.into_iter().find(|named| named.name == context.cluster);
        let cluster = cluster.and_then(|named| named.cluster);
        let cluster = cluster.with_context(|| format!("the kubeconfig has no cluster {:?}", context.cluster))?;
        Ok((context, cluster))
    }

    fn read(&self) -> Result<Kubeconfig> {
        let read = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        read.context("no access to a cluster: set KUBECONFIG, or give --kubeconfig")
    }
}

/// The aggregated API.
pub(super) struct Directory {
    client: Client,
}

impl Directory {
    /// The client, for what is beyond the aggregated API.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// GET.
    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        self.send("GET", path, Vec::new()).await
    }

    /// GET of what need not be there.
    pub(super) async fn find(&self, path: &str) -> Result<Option<Value>> {
        match self.client.request_text(request("GET", path, Vec::new())?).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => Ok(None),
            answer => parse(&answer.map_err(explain)?).map(Some),
        }
    }

    /// POST of an object of the kind.
    pub(super) async fn create(&self, path: &str, kind: &str, spec: &impl Serialize) -> Result<Value> {
        self.send("POST", path, body(kind, spec)?).await
    }

    /// DELETE.
    pub(super) async fn delete(&self, path: &str) -> Result<Value> {
        self.send("DELETE", path, Vec::new()).await
    }

    /// DELETE, with an object of the kind that says by which right.
    pub(super) async fn delete_with(&self, path: &str, kind: &str, spec: &impl Serialize) -> Result<Value> {
        self.send("DELETE", path, body(kind, spec)?).await
    }

    async fn send(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Value> {
        let text = self.client.request_text(request(method, path, body)?).await.map_err(explain)?;
        parse(&text)
    }
}

fn parse(text: &str) -> Result<Value> {
    // Without the source: it would quote what may be secret.
    serde_json::from_str(text).map_err(|_| anyhow!("the answer of the API server is not JSON"))
}

/// A request to the aggregated API.
pub(super) fn request(method: &str, path: &str, body: Vec<u8>) -> Result<Request<Vec<u8>>> {
    let builder = Request::builder().method(method).uri(format!("/apis/{GROUP}/{VERSION}/{path}"));
    Ok(builder.header("Accept", "application/json").header("Content-Type", "application/json").body(body)?)
}

/// An object of the kind, as the body of a request.
pub(super) fn body(kind: &str, spec: &impl Serialize) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<'a, S> {
        api_version: &'a str,
        kind: &'a str,
        spec: &'a S,
    }
    Ok(serde_json::to_vec(&Body { api_version: API_VERSION, kind, spec })?)
}

/// A path of these segments, which may come from people.
pub(super) fn path(segments: &[&str]) -> Result<String> {
    // Servers resolve these before they look: the path would lead elsewhere.
    if let Some(segment) = segments.iter().find(|segment| matches!(**segment, "" | "." | "..")) {
        bail!("{segment:?} is no name");
    }
    let escaped = segments.iter().map(|segment| utf8_percent_encode(segment, ESCAPED).to_string());
    Ok(escaped.collect::<Vec<_>>().join("/"))
}

/// A path below the user, or below whoever asks.
pub(super) fn path_of(user: Option<&String>, below: &[&str]) -> Result<String> {
    let user = user.map_or(ONESELF, String::as_str);
    path(&[&["users", user], below].concat())
}

/// The status of an answer.
pub(super) fn status<S: DeserializeOwned>(answer: &Value) -> Result<S> {
    // Without the source: it would quote what may be secret.
    let status = answer.get("status").cloned().unwrap_or_else(|| json!({}));
    serde_json::from_value(status).map_err(|_| anyhow!("the answer is none that this version of the plugin knows"))
}

/// An error of a request as people need it.
pub(super) fn explain(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if status.code == 401 => anyhow!(
            "the API server does not accept your credentials; if they come from a cached login, end it with `kubectl roster logout`"
        ),
        kube::Error::Api(status) => anyhow!(message(&status)),
        other => unreachable("the API server", other),
    }
}

/// An error before there was an answer. What lies at its root says it all; what wraps it says it again.
pub(super) fn unreachable(server: &str, error: kube::Error) -> anyhow::Error {
    anyhow!("{server} does not answer: {}", anyhow::Error::new(error).root_cause())
}

/// What a Status says.
pub(super) fn message(status: &Status) -> String {
    if status.message.is_empty() {
        return format!("the server answers {} {}", status.code, status.reason).trim_end().to_owned();
    }
    status.message.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_stay_segments() {
        assert_eq!(path(&["users", "~", "apikeys"]).unwrap(), "users/~/apikeys");
        assert_eq!(path(&["users", "a/b?c@d.e"]).unwrap(), "users/a%2Fb%3Fc%40d.e");
        assert!(path(&["users", ".."]).is_err() && path(&["users", ""]).is_err());
    }

    #[test]
    fn whoever_asks_is_meant_where_nobody_is_named() {
        assert_eq!(path_of(None, &["totp"]).unwrap(), "users/~/totp");
        assert_eq!(path_of(Some(&"jane".to_owned()), &[]).unwrap(), "users/jane");
    }

    #[test]
    fn bodies_are_objects_of_the_group() {
        let body: Value = serde_json::from_slice(&body("APIKey", &json!({"displayName": "ci"})).unwrap()).unwrap();
        assert_eq!(body, json!({"apiVersion": API_VERSION, "kind": "APIKey", "spec": {"displayName": "ci"}}));
    }

    #[test]
    fn errors_say_what_the_api_says() {
        let error = |code, message: &str| {
            explain(kube::Error::Api(Status { code, message: message.to_owned(), ..Status::default() }.boxed()))
        };
        assert_eq!(error(403, "users is forbidden").to_string(), "users is forbidden");
        assert_eq!(error(502, "").to_string(), "the server answers 502");
        assert!(error(401, "Unauthorized").to_string().contains("kubectl roster logout"));
    }

    #[test]
    fn an_unexpected_answer_is_not_quoted() {
        let error = status::<roster_api::credentials::LoginStatus>(&json!({"status": {"token": ["s3cret"]}}));
        assert!(!format!("{:#}", error.err().expect("it is refused")).contains("s3cret"));
    }
}
