//! Reads what exists in the cluster before the source is turned into manifests.

use anyhow::Result;
use jiff::Timestamp;
use kube::api::{Api, DynamicObject};
use kube::{Client, ResourceExt};
use roster_api::{Group, User};
use roster_import::assemble::Options;
use roster_import::current::Current;
use roster_import::draft::Input;
use roster_import::known::{KnownGroups, KnownUser};

use super::compare::{extracted, owned};
use super::list::{list, resource, source};

/// Reads the names of the Groups that were imported before, whether they accept declared members, and their nested Groups if
/// the source leaves memberships unclear.
pub(super) async fn read_groups(client: &Client, input: &Input, options: &mut Options) -> Result<()> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource::<Group>());
    let (mut known, needs_memberships) = (KnownGroups::default(), Current::needs_memberships(input));
    let group = |object: &DynamicObject| {
        let name = object.name_any();
        if let Some(source) = source(object) {
            known.add(source, &name, created(object), name.clone());
        }
        options.current.add_acceptance(&name, &object.data["spec"], &owned(object));
        if needs_memberships {
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
    let (needs_memberships, without) = (Current::needs_memberships(input), options.without.clone());
    let user = |object: &DynamicObject| {
        let (name, spec) = (object.name_any(), &object.data["spec"]);
        let source = source(object).filter(|source| sources.contains(*source));
        if let Some(source) = source {
            options.known_users.add(source, &name, created(object), KnownUser::new(&name, spec));
        }
        if source.is_some() || names.contains(&name) {
            options.current.add_restrictions(&name, spec, &owned(object));
            if !without.is_empty() || input.without_state() > 0 {
                let applied = serde_json::to_value(object).map(|object| extracted(&object)).unwrap_or_default();
                options.current.add_omitted(&name, &applied["spec"], &without);
                options.current.add_imported_restrictions(&name, &applied["spec"]);
            }
            if needs_memberships {
                options.current.add_user(&name, spec, &owned(object));
            }
        }
    };
    list(&api, "Users", user).await
}

fn created(object: &impl ResourceExt) -> Option<Timestamp> {
    object.creation_timestamp().map(|time| time.0)
}
