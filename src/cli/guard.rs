//! `roster guard explain`: shows what a manifest would grant, and whether the guard would allow it.

use roster_api::printable;
use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Api, Client, Resource, ResourceExt};
use roster_api::{API_VERSION, Group, RoleBinding, User};
use roster_core::directory::Directory;
use roster_core::directory::callers::PresentedIdentity;
use roster_core::rbac::Policy;
use roster_core::rbac::guard::{GuardedChange, cycle, requirements};
use roster_core::rbac::requirement::{Requirement, Requirements};
use roster_runtime::informers::snapshot::snapshot;
use roster_server::admission::access::AccessReviewer;
use roster_server::admission::guard::{Guarded, GuardedWrite};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml::Value;

use super::cluster;

/// Commands about the guard.
#[derive(Debug, Subcommand)]
pub(super) enum GuardCommand {
    /// Show what the objects in a manifest would grant, and whether and why the guard would allow a user to write them.
    Explain(ExplainArgs),
}

/// Flags of `roster guard explain`.
#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// Manifest with Users, Groups, RoleBindings, Namespaces and Secrets. Use - for standard input.
    #[arg(long, short, value_name = "FILE")]
    filename: PathBuf,

    /// User that would write the objects.
    #[arg(long = "as", value_name = "USER")]
    requester: String,

    /// Groups of that user. system:authenticated is implied.
    #[arg(long = "as-group", value_name = "GROUP")]
    groups: Vec<String>,

    /// Explain the deletion of the objects instead of applying them.
    #[arg(long)]
    delete: bool,

    /// The installation's administrator ClusterRole, to which spec.admin binds.
    #[arg(long, env = "ROSTER_ADMINISTRATOR_ROLE", default_value = "admin")]
    administrator_role: String,
}

/// Prints the explanation. Returns whether the guard would allow all objects.
///
/// # Errors
/// If the manifest can't be read or a request to the cluster fails.
pub(super) fn execute(command: GuardCommand) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(command.run())
}

impl GuardCommand {
    async fn run(self) -> Result<bool> {
        let Self::Explain(args) = self;
        let text = read(&args.filename)?;
        let client = cluster::client("guard").await?;
        let groups = args.groups.iter().cloned().chain(["system:authenticated".to_owned()]);
        let explainer = Explainer {
            directory: snapshot(&client).await?,
            policy: Policy { administrator_role: args.administrator_role, ..Policy::default() },
            requester: UserInfo {
                username: Some(args.requester),
                groups: Some(groups.collect()),
                ..UserInfo::default()
            },
            access: AccessReviewer::new(client.clone()),
            client,
            delete: args.delete,
        };
        let mut passes = true;
        for document in serde_yaml::Deserializer::from_str(&text) {
            let value = Value::deserialize(document).context("the manifest is not valid YAML")?;
            if !value.is_null() {
                passes &= explainer.explain(&value).await?;
            }
        }
        Ok(passes)
    }
}

fn read(path: &PathBuf) -> Result<String> {
    if path.as_os_str() != "-" {
        return std::fs::read_to_string(path).with_context(|| path.display().to_string());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

/// Prints a line. Native bindings and their subjects may have any name, also one with line breaks.
fn say(line: &str) {
    println!("{}", printable::line(line));
}

struct Explainer {
    client: Client,
    directory: Directory,
    policy: Policy,
    requester: UserInfo,
    access: AccessReviewer,
    delete: bool,
}

impl Explainer {
    async fn explain(&self, value: &Value) -> Result<bool> {
        let field = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        match (field("apiVersion"), field("kind")) {
            (API_VERSION, "User") => self.guarded::<User>(value, &Api::all(self.client.clone())).await,
            (API_VERSION, "Group") => {
                let group: Group = object(value)?;
                if let Some(path) = cycle(&group, &self.directory).filter(|_| !self.delete) {
                    say(&format!(
                        "Group {}: refused: spec.memberGroups would close the cycle {}",
                        group.name_any(),
                        path.join(" ⊇ ")
                    ));
                    return Ok(false);
                }
                self.guarded::<Group>(value, &Api::all(self.client.clone())).await
            }
            (API_VERSION, "RoleBinding") => self.role_binding(value).await,
            ("v1", "Namespace") => self.guarded::<Namespace>(value, &Api::all(self.client.clone())).await,
            ("v1", "Secret") => {
                let secret: Secret = object(value)?;
                let namespace = secret.namespace().unwrap_or_else(|| "default".to_owned());
                self.guarded::<Secret>(value, &Api::namespaced(self.client.clone(), &namespace)).await
            }
            (version, kind) => bail!(
                "{kind} of {version} is not guarded: explain supports User, Group, RoleBinding, Namespace and Secret"
            ),
        }
    }

    async fn guarded<K>(&self, value: &Value, api: &Api<K>) -> Result<bool>
    where
        K: Guarded + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let mut new: K = object(value)?;
        let old = api.get_opt(&new.name_any()).await?;
        keep_unnamed(old.as_ref(), &mut new);
        let username = self.requester.username.as_deref().unwrap_or_default();
        let requester = self.directory.requester(PresentedIdentity { username, ..PresentedIdentity::default() });
        let write = GuardedWrite::new(old.as_ref(), (!self.delete).then_some(&new));
        if let Some(conflict) = write.conflict(&self.directory, &self.policy, requester)
            && !self.access.may_bind_everything(&self.requester).await?
        {
            let what = if old.is_some() { "change" } else { "create" };
            say(&format!("{} {}, {what}: refused: {conflict}", K::kind(&()), new.name_any()));
            return Ok(false);
        }
        let required = write.requirements(&self.directory, &self.policy, requester);
        self.print(&format!("{} {}", K::kind(&()), new.name_any()), old.is_some(), required).await
    }

    async fn role_binding(&self, value: &Value) -> Result<bool> {
        let mut new: RoleBinding = object(value)?;
        let old = Api::<RoleBinding>::all(self.client.clone()).get_opt(&new.name_any()).await?;
        keep_unnamed(old.as_ref(), &mut new);
        let change = GuardedChange::RoleBinding(old.as_ref(), (!self.delete).then_some(&new));
        let required = requirements(&change, &change.ownership(), &self.directory, &self.policy);
        self.print(&format!("RoleBinding {}", new.name_any()), old.is_some(), required).await
    }

    async fn print(&self, what: &str, exists: bool, required: Requirements) -> Result<bool> {
        let verb = match (self.delete, exists) {
            (true, _) => "delete",
            (false, true) => "update",
            (false, false) => "create",
        };
        let requester = self.requester.username.as_deref().unwrap_or_default();
        say(&format!("{what}, {verb} by {requester}:"));
        if required.is_empty() {
            say("  grants nothing and does not affect anyone who holds a role");
        }
        for (requirement, reason) in &required {
            match requirement {
                Requirement::Bind(grant) => {
                    say(&format!("  {grant}: {} holds or would hold it (by {})", reason.identity, reason.by));
                }
                Requirement::Assign(_) => {
                    say(&format!("  {}: is or would be the owner (by {})", reason.identity, reason.by));
                }
                Requirement::DeleteNamespace(_) => {
                    say(&format!("  {}: a tool may delete it (by {})", reason.identity, reason.by));
                }
            }
        }
        let refused = self.access.first_refused(&self.requester, required).await?;
        match &refused {
            None => say("  passes"),
            Some(refused) => say(&format!("  refused: {refused}")),
        }
        Ok(refused.is_none())
    }
}

/// Keeps the field managers and those annotations that the manifest does not name, as `kubectl apply` does.
fn keep_unnamed<K: Resource>(old: Option<&K>, new: &mut K) {
    let Some(old) = old else { return };
    let mut annotations = old.annotations().clone();
    annotations.append(new.annotations_mut());
    *new.annotations_mut() = annotations;
    new.meta_mut().managed_fields = old.meta().managed_fields.clone();
}

fn object<K: Resource<DynamicType = ()> + DeserializeOwned>(value: &Value) -> Result<K> {
    let name = value.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Value::as_str);
    serde_yaml::from_value(value.clone())
        .with_context(|| format!("{} {} is not valid", K::kind(&()), name.unwrap_or("without a name")))
}
