//! Client of the aggregated API, configured by the kubeconfig.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use axum::http::Request;
use axum::http::header::USER_AGENT;
use kube::client::Client;
use kube::config::{Cluster, KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Config, config};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use roster_api::credentials::UserReference;
use roster_api::directory::{API_VERSION, GROUP, VERSION};
use roster_api::user_agent;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Name that stands for the caller's own User in the API.
pub(super) const SELF_NAME: &str = "~";

/// How long to wait for a response.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Characters to percent-encode in a path segment.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Flags that select the cluster and the credentials.
#[derive(clap::Args, Debug)]
pub(super) struct Connection {
    /// Path of the kubeconfig. Default: $KUBECONFIG, or ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig. Default: the current context.
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
}

impl Connection {
    /// Returns a client for the kubeconfig's cluster and credentials.
    pub(super) async fn client(&self) -> Result<Client> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(self.read()?, &options).await?;
        config.read_timeout = Some(REQUEST_TIMEOUT);
        config.headers.push((USER_AGENT, user_agent("kubectl-roster").try_into()?));
        // A retried request may take effect twice: two API keys, or two failed attempts for one wrong password.
        config.default_retry = false;
        Client::try_from(config).context("the credentials in the kubeconfig can't be used")
    }

    /// Returns a client of the aggregated API.
    pub(super) async fn directory(&self) -> Result<DirectoryClient> {
        Ok(DirectoryClient { client: self.client().await? })
    }

    /// Returns the selected context and its cluster.
    pub(super) fn current(&self) -> Result<(config::Context, Cluster)> {
        let kubeconfig = self.read()?;
        let name = self.context.as_ref().or(kubeconfig.current_context.as_ref());
        let name = name.context("the kubeconfig has no current context: set --context")?;
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
        read.context("no access to a cluster: set KUBECONFIG or --kubeconfig")
    }
}

/// Client of the aggregated API.
pub(super) struct DirectoryClient {
    client: Client,
}

impl DirectoryClient {
    /// Returns the underlying client, for requests outside the aggregated API.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Sends a GET request.
    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        self.send("GET", path, Vec::new()).await
    }

    /// Sends a GET request. Returns `None` if the object does not exist or the caller may not read it.
    pub(super) async fn find(&self, path: &str) -> Result<Option<Value>> {
        match self.client.request_text(request("GET", path, Vec::new())?).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => Ok(None),
            answer => parse(&answer.map_err(explain)?).map(Some),
        }
    }

    /// Sends a POST request with an object of this kind.
    pub(super) async fn create(&self, path: &str, kind: &str, spec: &impl Serialize) -> Result<Value> {
        self.send("POST", path, body(kind, spec)?).await
    }

    /// Sends a DELETE request.
    pub(super) async fn delete(&self, path: &str) -> Result<Value> {
        self.send("DELETE", path, Vec::new()).await
    }

    /// Sends a DELETE request with an object of this kind that authorizes it.
    pub(super) async fn delete_with(&self, path: &str, kind: &str, spec: &impl Serialize) -> Result<Value> {
        self.send("DELETE", path, body(kind, spec)?).await
    }

    async fn send(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Value> {
        let text = self.client.request_text(request(method, path, body)?).await.map_err(explain)?;
        parse(&text)
    }
}

fn parse(text: &str) -> Result<Value> {
    // The source error is dropped, because it may quote a secret.
    serde_json::from_str(text).map_err(|_| anyhow!("the response of the API server is not JSON"))
}

/// Builds a request to the aggregated API.
pub(super) fn request(method: &str, path: &str, body: Vec<u8>) -> Result<Request<Vec<u8>>> {
    let builder = Request::builder().method(method).uri(format!("/apis/{GROUP}/{VERSION}/{path}"));
    Ok(builder.header("Accept", "application/json").header("Content-Type", "application/json").body(body)?)
}

/// Serializes an object of this kind as a request body.
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

/// Joins and percent-encodes path segments, which may be user input.
pub(super) fn path(segments: &[&str]) -> Result<String> {
    // Servers remove these when they normalize paths, so the request would reach another path.
    if let Some(segment) = segments.iter().find(|segment| matches!(**segment, "" | "." | "..")) {
        bail!("{segment:?} is not a valid name");
    }
    let escaped = segments.iter().map(|segment| utf8_percent_encode(segment, ESCAPED).to_string());
    Ok(escaped.collect::<Vec<_>>().join("/"))
}

/// Returns a path below the user, or below the caller if `user` is `None`.
pub(super) fn path_of(user: Option<&String>, below: &[&str]) -> Result<String> {
    let user = user.map_or(SELF_NAME, String::as_str);
    path(&[&["users", user], below].concat())
}

/// Parses the `status` of a response.
pub(super) fn status<S: DeserializeOwned>(answer: &Value) -> Result<S> {
    // The source error is dropped, because it may quote a secret.
    let status = answer.get("status").cloned().unwrap_or_else(|| json!({}));
    serde_json::from_value(status).map_err(|_| anyhow!("this version of the plugin does not understand the response"))
}

/// Formats the User that an action affected, as the end of a phrase: ` of User jane (username jane.doe)`. Empty if the
/// response does not say.
pub(super) fn of_user(user: Option<&UserReference>) -> String {
    user.map_or_else(String::new, |user| format!(" of User {} (username {})", user.name, user.username))
}

/// Returns the message of the response to a deletion, which names the User, or `otherwise` if it has none.
pub(super) fn deleted(answer: &Value, otherwise: impl FnOnce() -> String) -> String {
    answer["message"].as_str().filter(|message| !message.is_empty()).map_or_else(otherwise, str::to_owned)
}

/// Turns a failed request into a user-facing error.
pub(super) fn explain(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if status.code == 401 => anyhow!(
            "the API server rejects your credentials; if they come from a cached login, delete it: kubectl roster logout"
        ),
        kube::Error::Api(status) => anyhow!(message(&status)),
        other => unreachable("the API server", other),
    }
}

/// Describes a request that got no response. Only the root cause is shown, because the errors around it repeat it.
pub(super) fn unreachable(server: &str, error: kube::Error) -> anyhow::Error {
    anyhow!("no response from {server}: {}", anyhow::Error::new(error).root_cause())
}

/// Returns the message of a Status, or its code if it has none.
pub(super) fn message(status: &Status) -> String {
    if status.message.is_empty() {
        return format!("the server returned {} {}", status.code, status.reason).trim_end().to_owned();
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
    fn the_caller_is_the_default_user() {
        assert_eq!(path_of(None, &["totp"]).unwrap(), "users/~/totp");
        assert_eq!(path_of(Some(&"jane".to_owned()), &[]).unwrap(), "users/jane");
    }

    #[test]
    fn bodies_are_objects_of_the_group() {
        let body: Value = serde_json::from_slice(&body("APIKey", &json!({"displayName": "ci"})).unwrap()).unwrap();
        assert_eq!(body, json!({"apiVersion": API_VERSION, "kind": "APIKey", "spec": {"displayName": "ci"}}));
    }

    #[test]
    fn errors_show_the_message_of_the_api() {
        let error = |code, message: &str| {
            explain(kube::Error::Api(Status { code, message: message.to_owned(), ..Status::default() }.boxed()))
        };
        assert_eq!(error(403, "users is forbidden").to_string(), "users is forbidden");
        assert_eq!(error(502, "").to_string(), "the server returned 502");
        assert!(error(401, "Unauthorized").to_string().contains("kubectl roster logout"));
    }

    #[test]
    fn case_c7_results_name_the_user() {
        let user = UserReference { name: "jane".into(), username: "jane.doe".into(), uid: "4f2c".into() };
        assert_eq!(of_user(Some(&user)), " of User jane (username jane.doe)");
        assert_eq!(of_user(None), "");
        let answer = json!({"message": "API key k of User jane (username jane.doe) is deleted"});
        assert!(deleted(&answer, String::new).contains("User jane"));
        assert_eq!(deleted(&json!({"kind": "Status"}), || "deleted".to_owned()), "deleted");
    }

    #[test]
    fn an_unexpected_response_is_not_quoted() {
        let error = status::<roster_api::credentials::LoginStatus>(&json!({"status": {"token": ["s3cret"]}}));
        assert!(!format!("{:#}", error.err().expect("it is refused")).contains("s3cret"));
    }
}
