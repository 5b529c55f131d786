//! Reports namespaces whose quota is not enforced because their usage is not counted: kube-controller-manager's
//! resourcequota controller is not running, or is stuck.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use roster_core::directory::{Affected, Directory};
use tracing::warn;

use super::context::{Context, now};
use crate::events::Transition;

/// A namespace with a ResourceQuota that is not enforced.
#[derive(Debug, Eq, PartialEq)]
struct Unenforced {
    namespace: String,
    /// Time until it is reported. Zero if it is to be reported now.
    left: SignedDuration,
}

/// Reports namespaces of an owner whose quota has not been enforced for a while: in the log, as an Event, and in the
/// directory, from which the User gets a condition. Returns when to check again.
pub(super) async fn report_unenforced(owner: &str, ctx: &Context) -> Option<Duration> {
    let (changed, next) = {
        let directory = ctx.informers.directory();
        let found = unenforced(owner, &directory, now());
        let is_late = |namespace: &String| found.iter().any(|at| at.namespace == *namespace && at.left.is_zero());
        let owned = directory.owned_by(owner).into_iter().map(|namespace| (is_late(&namespace), namespace));
        let changed = owned.filter(|(is_late, namespace)| directory.quotas.is_unenforced(namespace) != *is_late);
        let next = found.iter().map(|at| at.left).filter(|left| !left.is_zero()).min();
        (changed.collect::<Vec<_>>(), next)
    };
    for (is_late, namespace) in changed {
        ctx.informers.change(|directory, _| {
            directory.quotas.set_unenforced(&namespace, is_late);
            Affected::default()
        });
        if is_late {
            report(owner, &namespace, ctx).await;
        }
    }
    next.and_then(|left| Duration::try_from(left).ok())
}

fn unenforced(owner: &str, directory: &Directory, now: Timestamp) -> Vec<Unenforced> {
    let namespaces = directory.owned_by(owner).into_iter();
    let waiting = namespaces.filter(|namespace| !directory.bindings.is_terminating(namespace));
    waiting
        .filter_map(|namespace| {
            let left = directory.quotas.allotment(&namespace)?.overdue_in(now)?;
            Some(Unenforced { namespace, left })
        })
        .collect()
}

async fn report(owner: &str, namespace: &str, ctx: &Context) {
    let cause = "kube-controller-manager has not counted the usage for the ResourceQuota roster";
    warn!(owner, namespace, cause, "quota of a namespace is not enforced");
    let namespaces: Api<Namespace> = Api::all(ctx.client.clone());
    let found = match namespaces.get_metadata_opt(namespace).await {
        Ok(Some(found)) => found,
        Ok(None) => return,
        Err(error) => return warn!(namespace, %error, "reading a namespace failed"),
    };
    let note = format!(
        "no pods, claims or services can be created: the quota of User {owner} is not enforced here because {cause}; \
         check that it runs with the resourcequota controller"
    );
    let object = Namespace { metadata: found.metadata, ..Namespace::default() };
    let transition = Transition { is_warning: true, reason: "QuotaNotEnforced".to_owned(), message: note.clone() };
    ctx.reporter.publish_with_note(&object, transition, note).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use roster_core::directory::bindings::NamespaceState;
    use roster_core::quota::allotment::Allotment;
    use roster_core::quota::amount::{Amount, Amounts};

    #[test]
    fn a_quota_without_counted_usage_is_reported_after_a_while() {
        let second = |second| Timestamp::from_second(second).unwrap();
        let enforced: Option<Amounts> = Some([("pods".to_owned(), Amount::units(1))].into());
        let mut directory = Directory::new(false);
        for (name, created, enforced) in [("fine", 100, enforced), ("new", 120, None), ("late", 100, None)] {
            let labels = Some([(roster_api::OWNER_LABEL.to_owned(), "jane".to_owned())].into());
            let metadata = ObjectMeta { labels, ..ObjectMeta::default() };
            directory.set_namespace(name, Some(NamespaceState::of(&metadata)));
            let allotment = Allotment { created: Some(second(created)), enforced, ..Allotment::default() };
            directory.set_allotment(name, Some(allotment));
        }
        let expected = [("late", 0), ("new", 20)]
            .map(|(name, left)| Unenforced { namespace: name.to_owned(), left: SignedDuration::from_secs(left) });
        assert_eq!(unenforced("jane", &directory, second(130)), expected);
        assert!(unenforced("joe", &directory, second(130)).is_empty());
    }
}
