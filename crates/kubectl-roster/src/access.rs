//! `kubectl roster can-i`, and the action arguments that it shares with `who-can`.

use anyhow::{Result, bail};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, ResourceAttributes};
use roster_api::directory::{AccessReviewSpec, AccessReviewStatus, Reason};
use roster_api::printable;

use super::client::{path_of, status};
use super::global::Global;
use super::prompt::{Console, Terminal};

/// An action that RBAC may allow.
#[derive(clap::Args, Debug)]
pub(super) struct Action {
    /// Verb: get, list, create, …
    verb: String,

    /// RESOURCE[.GROUP][/SUBRESOURCE], such as deployments.apps/scale, or a path such as /healthz.
    #[arg(value_name = "RESOURCE")]
    target: String,

    /// Name of the object. Default: all objects.
    name: Option<String>,

    /// Namespace. Default: the whole cluster.
    #[arg(long, short)]
    namespace: Option<String>,
}

/// Flags of `kubectl roster can-i`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    action: Action,

    /// User to check: a name, username, email or UID. Default: you.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

impl Action {
    /// Returns the namespace of the action, or `None` for the whole cluster.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Returns the action as the spec of an AccessReview.
    pub(super) fn question(&self) -> Result<AccessReviewSpec> {
        let verb = Some(self.verb.clone());
        if self.target.starts_with('/') {
            if self.name.is_some() || self.namespace.is_some() {
                bail!("{} is a path: paths take neither an object name nor --namespace", self.target);
            }
            let path = NonResourceAttributes { path: Some(self.target.clone()), verb };
            return Ok(AccessReviewSpec { non_resource_attributes: Some(path), ..AccessReviewSpec::default() });
        }
        let (full, subresource) = split(&self.target, '/');
        let (resource, group) = split(full, '.');
        if resource.is_empty() {
            bail!("{:?} names no resource", self.target);
        }
        let attributes = ResourceAttributes {
            verb,
            group: group.map(str::to_owned),
            resource: Some(resource.to_owned()),
            subresource: subresource.map(str::to_owned),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            ..ResourceAttributes::default()
        };
        Ok(AccessReviewSpec { resource_attributes: Some(attributes), ..AccessReviewSpec::default() })
    }
}

fn split(text: &str, separator: char) -> (&str, Option<&str>) {
    text.split_once(separator).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// Prints whether the action is allowed, and returns it.
pub(super) async fn execute(args: &Args, global: &Global) -> Result<bool> {
    let question = args.action.question()?;
    let path = path_of(args.user.as_ref(), &["accessreviews"])?;
    let answer = global.connection.directory().await?.create(&path, "AccessReview", &question).await?;
    let review = status::<AccessReviewStatus>(&answer)?;
    if let Some(error) = &review.evaluation_error {
        Terminal.print(&printable::line(&format!("warning: {error}")));
    }
    global.output.print(&answer, || describe(&review))?;
    Ok(review.allowed)
}

fn describe(review: &AccessReviewStatus) -> String {
    let mut lines = vec![if review.allowed { "yes" } else { "no" }.to_owned()];
    lines.extend(review.path.iter().map(|reason| format!("  {}", describe_path(reason))));
    // The API server's reason is shown only without a path, because the path says the same in more detail.
    let reason = review.reason.as_ref().filter(|reason| review.path.is_empty() && !reason.is_empty());
    lines.extend(reason.map(|reason| format!("  {reason}")));
    // Native bindings and their subjects may have any name, also one with line breaks.
    lines.iter().map(|line| printable::line(line)).collect::<Vec<_>>().join("\n")
}

/// Formats one path to the role: the nested groups, the binding of the last one, and the role.
fn describe_path(reason: &Reason) -> String {
    let binding = &reason.binding;
    let namespace = binding.namespace.as_ref().map(|namespace| format!(" in {namespace}")).unwrap_or_default();
    let origin = reason.role_binding.as_ref().map(|name| format!(" (Roster RoleBinding {name})")).unwrap_or_default();
    let subject = match reason.groups.as_slice() {
        [] => format!("{} {}", reason.subject.kind, reason.subject.name),
        groups => format!("Group {}", groups.join(" → ")),
    };
    format!("{subject} → {} {}{namespace}{origin} → {}", binding.kind, binding.name, reason.role)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn action(target: &str) -> Action {
        Action { verb: "get".to_owned(), target: target.to_owned(), name: None, namespace: None }
    }

    #[rstest]
    #[case("pods", json!({"verb": "get", "resource": "pods"}))]
    #[case("pods/log", json!({"verb": "get", "resource": "pods", "subresource": "log"}))]
    #[case("deployments.apps", json!({"verb": "get", "resource": "deployments", "group": "apps"}))]
    #[case("users.roster.dev/status",
        json!({"verb": "get", "resource": "users", "group": "roster.dev", "subresource": "status"}))]
    #[case("*.*", json!({"verb": "get", "resource": "*", "group": "*"}))]
    fn resources(#[case] target: &str, #[case] expected: serde_json::Value) {
        let question = serde_json::to_value(action(target).question().unwrap()).unwrap();
        assert_eq!(question, json!({"resourceAttributes": expected}));
    }

    #[test]
    fn names_and_namespaces_are_passed_on() {
        let action = Action { name: Some("web".to_owned()), namespace: Some("apollo".to_owned()), ..action("pods") };
        let attributes = action.question().unwrap().resource_attributes.unwrap();
        assert_eq!((attributes.name.as_deref(), attributes.namespace.as_deref()), (Some("web"), Some("apollo")));
    }

    #[test]
    fn paths_take_no_namespace() {
        let question = serde_json::to_value(action("/healthz").question().unwrap()).unwrap();
        assert_eq!(question, json!({"nonResourceAttributes": {"path": "/healthz", "verb": "get"}}));
        let placed = Action { namespace: Some("apollo".to_owned()), ..action("/healthz") };
        assert!(placed.question().is_err());
    }

    #[rstest]
    #[case("")]
    #[case(".apps")]
    fn invalid_resources(#[case] target: &str) {
        assert!(action(target).question().is_err());
    }

    fn review(value: serde_json::Value) -> String {
        describe(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn yes_is_explained_by_every_path() {
        let role = json!({"kind": "ClusterRole", "name": "edit"});
        let by_group = json!({"role": role, "binding": {"kind": "RoleBinding", "namespace": "apollo", "name": "b"},
            "roleBinding": "rb", "subject": {"kind": "Group", "name": "all"}, "groups": ["engineers", "all"]});
        let by_name = json!({"role": role, "binding": {"kind": "ClusterRoleBinding", "name": "c"},
            "subject": {"kind": "User", "name": "jane"}});
        assert_eq!(
            review(json!({"allowed": true, "reason": "RBAC: allowed", "path": [by_group, by_name]})),
            "yes\n  Group engineers → all → RoleBinding b in apollo (Roster RoleBinding rb) → ClusterRole edit\n  \
             User jane → ClusterRoleBinding c → ClusterRole edit"
        );
    }

    /// A namespace owner chooses the names of its native bindings and their subjects.
    #[test]
    fn names_cannot_fake_lines_or_control_the_terminal() {
        let forged = json!({"role": {"kind": "Role", "name": "x\u{1b}[2K"}, "groups": [],
            "binding": {"kind": "RoleBinding", "namespace": "apollo", "name": "b\u{7}"},
            "subject": {"kind": "User", "name": "jane\nno"}});
        assert_eq!(
            review(json!({"allowed": true, "path": [forged]})),
            "yes\n  User jane\u{fffd}no → RoleBinding b\u{fffd} in apollo → Role x\u{fffd}[2K"
        );
    }

    #[test]
    fn no_is_explained_by_the_reason() {
        assert_eq!(review(json!({"allowed": false, "reason": "not active"})), "no\n  not active");
        assert_eq!(review(json!({"allowed": false})), "no");
    }
}
