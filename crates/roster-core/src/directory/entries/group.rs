//! Groups in the index.

use roster_api::{Group, GroupStatus};

use crate::directory::index::field::{Field, FieldKind};
use crate::directory::index::record::Record;

use super::Writer;

/// Fields to filter and sort groups by.
pub static FIELDS: &[Field] = &[
    Field::one("name", "metadata.name", FieldKind::Text).searched(),
    Field::one("uid", "metadata.uid", FieldKind::Text),
    Field::one("creationTimestamp", "metadata.creationTimestamp", FieldKind::Time),
    Field::one("displayName", "spec.displayName", FieldKind::Text).searched().with_spaces(),
    Field::one("description", "spec.description", FieldKind::Text).with_spaces(),
    Field::shared("domain", "spec.domain", FieldKind::Text),
    Field::many("memberGroups", "spec.memberGroups", false),
    Field::one("members", "status.members", FieldKind::Number),
    Field::one("roles", "status.roles", FieldKind::Number),
];

/// Builds the index record of a Group.
pub fn record(group: &Group) -> Record {
    let (spec, metadata) = (&group.spec, &group.metadata);
    let status = GroupStatus {
        members: group.status.as_ref().and_then(|status| status.members).or(Some(0)),
        ..group.status.clone().unwrap_or_default()
    };
    let mut fields = Writer::new(FIELDS);
    fields.texts("name", &metadata.name);
    fields.texts("uid", &metadata.uid);
    fields.time("creationTimestamp", metadata.creation_timestamp.as_ref());
    fields.texts("displayName", &spec.display_name);
    fields.texts("description", &spec.description);
    fields.texts("domain", [&spec.domain.0]);
    fields.texts("memberGroups", &spec.member_groups);
    fields.number("members", status.members);
    fields.number("roles", status.roles);
    fields.finish("Group", metadata, spec, &status)
}
