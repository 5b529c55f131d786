//! `kubectl roster kubeconfig`: a kubeconfig that uses this plugin as its credential plugin.

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
    let kubeconfig = kubeconfig(&username, &arguments, &context, embed_authority(cluster)?)?;
    // A kubeconfig has no table form: print YAML, as kubectl does.
    let output = if global.output == Output::Table { Output::Yaml } else { global.output };
    output.print(&kubeconfig, String::new)
}

/// Returns the arguments that kubectl passes to the plugin.
fn arguments(identity: &Identity, username: &str) -> Result<Vec<String>> {
    let path = |path: &Path| {
        let path = std::path::absolute(path)?;
        path.to_str().map(str::to_owned).with_context(|| format!("the path {} is not UTF-8", path.display()))
    };
    if identity.password_file.as_ref().is_some_and(|path| path.as_os_str() == "-") {
        bail!("--password-file=-: kubectl does not pass its standard input to plugins; name a file");
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
        // As one argument, because a value may begin with a dash.
        arguments.extend(value.map(|value| format!("{flag}={value}")));
    }
    arguments.extend(identity.no_cache.then(|| "--no-cache".to_owned()));
    Ok(arguments)
}

/// Replaces the path of the certificate authority by its content, so that the kubeconfig works on other machines.
fn embed_authority(cluster: Cluster) -> Result<Cluster> {
    let data = authority(&cluster)?.map(|pem| STANDARD.encode(pem));
    Ok(Cluster { certificate_authority: None, certificate_authority_data: data, extensions: None, ..cluster })
}

fn kubeconfig(username: &str, arguments: &[String], context: &config::Context, cluster: Cluster) -> Result<Value> {
    let name = format!("{username}@{}", context.cluster);
    let mut context_entry = json!({"cluster": context.cluster, "user": name});
    if let Some(namespace) = &context.namespace {
        context_entry["namespace"] = namespace.as_str().into();
    }
    let exec = json!({"apiVersion": EXEC_VERSION, "command": NAME, "args": arguments,
        "interactiveMode": "IfAvailable", "provideClusterInfo": true});
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context.cluster, "cluster": serde_json::to_value(cluster)?}],
        "users": [{"name": name, "user": {"exec": exec}}],
        "contexts": [{"name": name, "context": context_entry}],
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
    fn paths_are_absolute() {
        let arguments = arguments(&identity(&["--certificate-authority", "ca.crt"]), "jane").unwrap();
        let path = arguments[2].strip_prefix("--certificate-authority=").unwrap();
        assert!(Path::new(path).is_absolute() && path.ends_with("/ca.crt"));
    }

    #[test]
    fn a_password_on_standard_input_is_refused() {
        assert!(arguments(&identity(&["--password-file", "-"]), "jane").is_err());
    }

    #[test]
    fn the_output_is_a_kubeconfig() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "authority").unwrap();
        let cluster = Cluster {
            server: Some("https://a:6443".to_owned()),
            certificate_authority: Some(file.path().to_str().unwrap().to_owned()),
            ..Cluster::default()
        };
        let context = config::Context { cluster: "a".to_owned(), ..config::Context::default() };
        let written = kubeconfig("jane", &["login".to_owned()], &context, embed_authority(cluster).unwrap()).unwrap();
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
