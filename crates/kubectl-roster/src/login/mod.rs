//! `kubectl roster login`: a password becomes a token, which kubectl is handed as an ExecCredential.

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
use super::prompt::{Person, Question, Terminal, password_in};

/// Kind and version that kubectl and its plugins agree on.
pub(super) const EXEC_VERSION: &str = "client.authentication.k8s.io/v1";

/// Most requests of one login: a new password, a second factor, and some mistyped codes.
const MOST_ROUNDS: usize = 8;

/// Flags of `kubectl roster login`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    identity: Identity,

    /// Code of the authenticator app, or a recovery code. Absent: asked for where it is needed.
    #[arg(long)]
    code: Option<SecretString>,
}

pub(super) async fn execute(args: Args, connection: &Connection) -> Result<()> {
    let identity = &args.identity;
    let way = server::find(identity, connection)?;
    let username = identity.username(&mut Terminal)?;
    let key = Key {
        server: &way.address,
        cluster: way.target.server.as_deref().unwrap_or_default(),
        username: &username,
        audience: identity.audience.as_deref(),
    };
    let cache = if identity.no_cache { None } else { Some(Cache::of_environment()?) };
    let token = match cached(cache.as_ref(), key, &way.target).await {
        Some(token) => token,
        None => renew(&args, &way.server, key, cache.as_ref()).await?,
    };
    println!("{}", exec_credential(&token));
    Ok(())
}

/// The cached token. One that was ended early is dropped: kubectl asks again where it was refused.
async fn cached(cache: Option<&Cache>, key: Key<'_>, target: &Cluster) -> Option<Token> {
    let cache = cache?;
    let cached = cache.get(key, Timestamp::now())?;
    if cached.is_doubtful && server::refuses(target, &cached.token.token).await {
        cache.remove(key);
        return None;
    }
    Some(cached.token)
}

async fn renew(args: &Args, server: &Cluster, key: Key<'_>, cache: Option<&Cache>) -> Result<Token> {
    // First, so that nobody types a password for nothing.
    let client = server::client(server)?;
    if !server::is_verified(server) {
        Terminal.tell(&unverified(key.server));
    }
    let password = match &args.identity.password_file {
        Some(path) => password_in(path)?,
        None => ask_password(key, &mut Terminal)?,
    };
    let attempt = Attempt::new(key.username, password, args.code.clone(), key.audience);
    let token = log_in(&client, key.server, attempt, &mut Terminal).await?;
    if let Err(error) = cache.map_or(Ok(()), |cache| cache.put(key, &token, Timestamp::now())) {
        Terminal.tell(&format!("warning: the token is not cached: {error:#}"));
    }
    Ok(token)
}

fn unverified(address: &str) -> String {
    format!(
        "warning: {address} is not verified (insecure-skip-tls-verify): whoever is on the way there can read the password; give --certificate-authority"
    )
}

fn ask_password(key: Key<'_>, person: &mut dyn Person) -> Result<SecretString> {
    let prompt = format!("Password of {} at {}: ", key.username, key.server);
    person.secret(Question { prompt: &prompt, otherwise: "give it by --password-file" })
}

async fn log_in(client: &Client, address: &str, mut attempt: Attempt<'_>, person: &mut dyn Person) -> Result<Token> {
    for _ in 0..MOST_ROUNDS {
        let request = request("POST", "logins", body("Login", &attempt.spec())?)?;
        let text = client.request_text(request).await.map_err(|error| explain(error, address))?;
        let answer: Value = serde_json::from_str(&text).map_err(|_| anyhow!("the answer of {address} is not JSON"))?;
        if let Some(token) = attempt.proceed(status::<LoginStatus>(&answer)?, person)? {
            return Ok(token);
        }
    }
    bail!("{address} asks again and again; nobody is logged in")
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
    use crate::prompt::Script;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kube::core::Status;

    #[test]
    fn kubectl_is_handed_the_token_and_its_end() {
        let end = "2030-01-01T12:00:00Z";
        let token = Token { token: "x.y.z".into(), expiration_timestamp: Time(end.parse().unwrap()) };
        assert_eq!(
            exec_credential(&token),
            json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
                "status": {"token": "x.y.z", "expirationTimestamp": end}})
        );
    }

    #[test]
    fn a_password_is_asked_for_by_whose_and_where() {
        let key = Key { server: "https://roster", cluster: "https://a:6443", username: "jane", audience: None };
        let mut person = Script::new(["secret"]);
        assert_eq!(ask_password(key, &mut person).unwrap().expose_secret(), "secret");
        assert_eq!(person.asked, ["Password of jane at https://roster: "]);
    }

    #[test]
    fn a_refusal_does_not_tell_what_was_wrong() {
        let refusal = Status { code: 401, message: "Unauthorized".to_owned(), ..Status::default() };
        let error = explain(kube::Error::Api(refusal.boxed()), "https://a").to_string();
        assert_eq!(error, "the username, password or code is wrong, or the account can't be used");
    }
}
