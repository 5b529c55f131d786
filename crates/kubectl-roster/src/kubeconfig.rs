//! `kubectl roster kubeconfig`: how kubectl logs in by this plugin.

use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{self, Cluster};
use serde_json::{Value, json};

use super::global::{Global, NAME};
use super::login::server::authority;
use super::login::{EXEC_VERSION, Identity};
use super::output::Output;
use super::prompt::Terminal;

/// Flags of `kubectl roster kubeconfig`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    identity: Identity,
}

pub(super) fn execute(args: &Args, global: &Global) -> Result<()> {
    let (context, cluster) = global.connection.current()?;
    let username = args.identity.username(&mut Terminal)?;
    let arguments = arguments(&args.identity, &username)?;
    let kubeconfig = write(&username, &arguments, &context, embed(cluster)?)?;
    // A kubeconfig is for a file, and has no form for people but YAML.
    let form = if global.output == Output::Table { Output::Yaml } else { global.output };
    form.print(&kubeconfig, String::new)
}

/// How kubectl is to call the plugin.
fn arguments(identity: &Identity, username: &str) -> Result<Vec<String>> {
    let path = |path: &Path| {
        let path = std::path::absolute(path)?;
        path.to_str().map(str::to_owned).with_context(|| format!("{} is no text", path.display()))
    };
    if identity.password_file.as_ref().is_some_and(|path| path.as_os_str() == "-") {
        bail!("--password-file: kubectl has no password on its standard input, name a file");
    }
    let authority = identity.certificate_authority.as_deref().map(path).transpose()?;
    let password_file = identity.password_file.as_deref().map(path).transpose()?;
    let flags = [
        ("--username", Some(username.to_owned())),
        ("--server", identity.server.clone()),
        ("--certificate-authority", authority),
        ("--audience", identity.audience.clone()),
        ("--password-file", password_file),
    ];
    let mut arguments = vec!["login".to_owned()];
    for (flag, value) in flags {
        // In one piece: a value may begin with a dash.
        arguments.extend(value.map(|value| format!("{flag}={value}")));
    }
    arguments.extend(identity.no_cache.then(|| "--no-cache".to_owned()));
    Ok(arguments)
}

/// The cluster without files, so that it works elsewhere.
fn embed(cluster: Cluster) -> Result<Cluster> {
    let data = authority(&cluster)?.map(|pem| STANDARD.encode(pem));
    Ok(Cluster { certificate_authority: None, certificate_authority_data: data, extensions: None, ..cluster })
}

fn write(username: &str, arguments: &[String], context: &config::Context, cluster: Cluster) -> Result<Value> {
    let name = format!("{username}@{}", context.cluster);
    let mut place = json!({"cluster": context.cluster, "user": name});
    if let Some(namespace) = &context.namespace {
        place["namespace"] = namespace.as_str().into();
    }
    let exec = json!({"apiVersion": EXEC_VERSION, "command": NAME, "args": arguments,
        "interactiveMode": "IfAvailable", "provideClusterInfo": true});
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context.cluster, "cluster": serde_json::to_value(cluster)?}],
        "users": [{"name": name, "user": {"exec": exec}}],
        "contexts": [{"name": name, "context": place}],
        "current-context": name,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use kube::config::Kubeconfig;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        identity: Identity,
    }

    fn identity(arguments: &[&str]) -> Identity {
        Line::parse_from([&[""], arguments].concat()).identity
    }

    #[test]
    fn the_flags_are_passed_on() {
        let identity = identity(&["--server", "https://r", "--audience=-a", "--password-file", "/p", "--no-cache"]);
        assert_eq!(
            arguments(&identity, "jane").unwrap(),
            ["login", "--username=jane", "--server=https://r", "--audience=-a", "--password-file=/p", "--no-cache"]
        );
    }

    #[test]
    fn paths_work_from_everywhere() {
        let arguments = arguments(&identity(&["--certificate-authority", "ca.crt"]), "jane").unwrap();
        let path = arguments[2].strip_prefix("--certificate-authority=").unwrap();
        assert!(Path::new(path).is_absolute() && path.ends_with("/ca.crt"));
    }

    #[test]
    fn a_password_on_standard_input_is_refused() {
        assert!(arguments(&identity(&["--password-file", "-"]), "jane").is_err());
    }

    #[test]
    fn the_outcome_is_a_kubeconfig() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "authority").unwrap();
        let cluster = Cluster {
            server: Some("https://a:6443".to_owned()),
            certificate_authority: Some(file.path().to_str().unwrap().to_owned()),
            ..Cluster::default()
        };
        let context = config::Context { cluster: "a".to_owned(), ..config::Context::default() };
        let written = write("jane", &["login".to_owned()], &context, embed(cluster).unwrap()).unwrap();
        let read = Kubeconfig::from_yaml(&serde_yaml::to_string(&written).unwrap()).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("jane@a"));
        let cluster = read.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://a:6443"));
        assert_eq!(cluster.certificate_authority_data.as_deref(), Some(STANDARD.encode("authority").as_str()));
        assert!(cluster.certificate_authority.is_none());
        let exec = read.auth_infos[0].auth_info.as_ref().unwrap().exec.as_ref().unwrap();
        assert_eq!((exec.command.as_deref(), exec.provide_cluster_info), (Some(NAME), true));
    }
}
