//! Administrators: a ClusterRoleBinding for each User with `spec.admin`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt;
use roster_api::User;
use roster_core::directory::compact_user::CompactUser;
use roster_core::rbac::compile;
use roster_core::rbac::plan::plan;

use super::context::Context;
use crate::native::Failed;

/// Creates or deletes the administrator binding of the User. Returns whether it is bound (`None` if `spec.admin` is not set),
/// and a failed write. Such a failure does not stop the reconciliation.
pub(super) async fn administer(user: &User, ctx: &Context) -> (Option<Result<(), &'static str>>, Option<Failed>) {
    let person = CompactUser::of(user);
    let (outcome, stages) = {
        let directory = ctx.informers.directory();
        let now = Timestamp::now();
        let desired = compile::administrator(&user.name_any(), &person, &directory, &ctx.policy, now);
        let outcome = desired.as_ref().map(BTreeMap::len).map_err(|reason| *reason);
        (outcome, plan(&person.uid, desired.unwrap_or_default(), &directory.natives))
    };
    let failed = ctx.writer.execute(stages, |_| true).await.into_iter().next();
    let outcome = if failed.is_some() { Err("WriteFailed") } else { outcome.map(|_| ()) };
    (user.spec.admin.then_some(outcome), failed)
}
