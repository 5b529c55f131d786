//! `kubectl roster login`: exchanges a password for a token and prints it as an ExecCredential.

mod attempt;
mod identity;
pub(super) mod server;

use anyhow::{Result, anyhow, bail};
use jiff::Timestamp;
use kube::Client;
use kube::config::Cluster;
use roster_api::credentials::LoginStatus;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use self::attempt::Attempt;
pub(super) use self::identity::Identity;
use super::cache::{Cache, Key, Token};
use super::client::{Connection, body, message, request, status, unreachable};
use super::prompt::{Console, Question, Terminal, read_password_file};

/// API version of the ExecCredential.
pub(super) const EXEC_VERSION: &str = "client.authentication.k8s.io/v1";

/// Maximum requests per login: enough for a password change, a second factor and some mistyped codes.
const MAX_ROUNDS: usize = 8;

/// Flags of `kubectl roster login`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    identity: Identity,

    /// Code of the authenticator app, or a recovery code. Default: ask if needed.
    #[arg(long)]
    code: Option<SecretString>,
}

pub(super) async fn execute(args: Args, connection: &Connection) -> Result<()> {
    let identity = &args.identity;
    let destination = server::find(identity, connection)?;
    let username = identity.username(&mut Terminal)?;
    let key = Key {
        server: &destination.url,
        cluster: destination.cluster.server.as_deref().unwrap_or_default(),
        username: &username,
        audience: identity.audience.as_deref(),
    };
    let cache = if identity.no_cache { None } else { Some(Cache::of_environment()?) };
    let token = match cached(cache.as_ref(), key, &destination.cluster).await {
        Some(token) => token,
        None => renew(&args, &destination.server, key, cache.as_ref()).await?,
    };
    println!("{}", exec_credential(&token));
    Ok(())
}

/// Returns the cached token. If kubectl requests it twice in a row, checks first whether the cluster rejects it.
async fn cached(cache: Option<&Cache>, key: Key<'_>, target: &Cluster) -> Option<Token> {
    let cache = cache?;
    let cached = cache.get(key, Timestamp::now())?;
    if cached.may_be_rejected && server::rejects_token(target, &cached.token.token).await {
        cache.remove(key);
        return None;
    }
    Some(cached.token)
}

async fn renew(args: &Args, server: &Cluster, key: Key<'_>, cache: Option<&Cache>) -> Result<Token> {
    // Created before the prompt, so that users see configuration errors before they type a password.
    let client = server::client(server)?;
    if !server::is_verified(server) {
        Terminal.print(&unverified(key.server));
    }
    let password = match &args.identity.password_file {
        Some(path) => read_password_file(path)?,
        None => prompt_password(key, &mut Terminal)?,
    };
    let attempt = Attempt::new(key.username, password, args.code.clone(), key.audience);
    let token = log_in(&client, key.server, attempt, &mut Terminal).await?;
    if let Err(error) = cache.map_or(Ok(()), |cache| cache.put(key, &token, Timestamp::now())) {
        Terminal.print(&format!("warning: the token could not be cached: {error:#}"));
    }
    Ok(token)
}

fn unverified(address: &str) -> String {
    format!(
        "warning: {address} is not verified (insecure-skip-tls-verify), so the password can be intercepted; set --certificate-authority"
    )
}

fn prompt_password(key: Key<'_>, console: &mut dyn Console) -> Result<SecretString> {
    let prompt = format!("Password of {} at {}: ", key.username, key.server);
    console.read_secret(Question { prompt: &prompt, hint: "set --password-file" })
}

async fn log_in(client: &Client, address: &str, mut attempt: Attempt<'_>, console: &mut dyn Console) -> Result<Token> {
    for _ in 0..MAX_ROUNDS {
        let request = request("POST", "logins", body("Login", &attempt.spec())?)?;
        let text = client.request_text(request).await.map_err(|error| explain(error, address))?;
        let answer: Value =
            serde_json::from_str(&text).map_err(|_| anyhow!("the response of {address} is not JSON"))?;
        if let Some(token) = attempt.handle_response(status::<LoginStatus>(&answer)?, console)? {
            return Ok(token);
        }
    }
    bail!("login failed: {address} still asks for more after {MAX_ROUNDS} requests")
}

fn explain(error: kube::Error, address: &str) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if status.code == 401 => {
            anyhow!("the username, password or code is wrong, or the account can't be used")
        }
        kube::Error::Api(status) => anyhow!(message(&status)),
        other => unreachable(address, other),
    }
}

fn exec_credential(token: &Token) -> Value {
    json!({"apiVersion": EXEC_VERSION, "kind": "ExecCredential", "status": {
        "token": token.token.expose_secret(), "expirationTimestamp": token.expiration_timestamp}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::ScriptedConsole;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kube::core::Status;

    #[test]
    fn the_exec_credential_has_token_and_expiration() {
        let end = "2030-01-01T12:00:00Z";
        let token = Token { token: "x.y.z".into(), expiration_timestamp: Time(end.parse().unwrap()) };
        assert_eq!(
            exec_credential(&token),
            json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
                "status": {"token": "x.y.z", "expirationTimestamp": end}})
        );
    }

    #[test]
    fn the_password_prompt_names_user_and_server() {
        let key = Key { server: "https://roster", cluster: "https://a:6443", username: "jane", audience: None };
        let mut console = ScriptedConsole::new(["secret"]);
        assert_eq!(prompt_password(key, &mut console).unwrap().expose_secret(), "secret");
        assert_eq!(console.asked, ["Password of jane at https://roster: "]);
    }

    #[test]
    fn a_rejection_does_not_say_what_was_wrong() {
        let refusal = Status { code: 401, message: "Unauthorized".to_owned(), ..Status::default() };
        let error = explain(kube::Error::Api(refusal.boxed()), "https://a").to_string();
        assert_eq!(error, "the username, password or code is wrong, or the account can't be used");
    }
}
