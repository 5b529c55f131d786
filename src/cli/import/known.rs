//! Reads what exists in the cluster before the source is turned into manifests.

use anyhow::{Context, Result};
use jiff::Timestamp;
use kube::api::{Api, DynamicObject, ListParams};
use kube::{Client, ResourceExt};
use roster_api::{Group, User};
use roster_import::assemble::Options;
use roster_import::draft::Input;
use roster_import::known::{KnownGroups, KnownUser};

use super::compare::owned;
use super::live::{PAGE, resource, source};

/// Reads the names of the Groups that were imported before, and their nested Groups if the source leaves memberships unclear.
pub(super) async fn read_groups(client: &Client, input: &Input, options: &mut Options) -> Result<()> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource::<Group>());
    let (mut known, is_unclear) = (KnownGroups::default(), input.is_unclear());
    let group = |object: &DynamicObject| {
        let name = object.name_any();
        if let Some(source) = source(object) {
            known.add(source, &name, created(object), name.clone());
        }
        if is_unclear {
            options.current.add_group(&name, &object.data["spec"]);
        }
    };
    list(&api, "Groups", group).await?;
    options.known_groups = known.into_objects();
    Ok(())
}

/// Reads the Users that were imported before from an entry of the source, or have the name of one. Others are not kept, so that
/// memory does not grow with the number of Users.
pub(super) async fn read_users(client: &Client, input: &Input, options: &mut Options) -> Result<()> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource::<User>());
    let (sources, names) = (input.user_sources(), input.user_names());
    let is_unclear = input.is_unclear();
    let user = |object: &DynamicObject| {
        let (name, spec) = (object.name_any(), &object.data["spec"]);
        let source = source(object).filter(|source| sources.contains(*source));
        if let Some(source) = source {
            options.known_users.add(source, &name, created(object), KnownUser::new(&name, spec));
        }
        if source.is_some() || names.contains(&name) {
            options.current.add_restrictions(&name, spec, &owned(object));
            if is_unclear {
                options.current.add_user(&name, spec);
            }
        }
    };
    list(&api, "Users", user).await
}

/// Passes every object to `seen`, page by page.
pub(super) async fn list(api: &Api<DynamicObject>, what: &str, mut seen: impl FnMut(&DynamicObject)) -> Result<()> {
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await.with_context(|| format!("{what} can't be listed"))?;
        page.items.iter().for_each(&mut seen);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}

fn created(object: &impl ResourceExt) -> Option<Timestamp> {
    object.creation_timestamp().map(|time| time.0)
}
