//! The resources that can be listed and watched: users and groups.

use std::sync::Arc;

use roster_core::directory::entries::{group, user};
use roster_core::directory::index::field::Field;
use roster_runtime::informers::Informers;
use roster_runtime::informers::catalogue::Catalogue;

/// Content of a table cell.
#[derive(Clone, Copy, Debug)]
pub enum Cell {
    /// Value at a path of the object.
    Path(&'static str),
    /// Time since the timestamp at a path.
    Age(&'static str),
    /// Status of a condition.
    Condition(&'static str),
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Column heading.
    pub name: &'static str,
    /// `string`, `integer`, `boolean` or `date`, as in OpenAPI.
    pub kind: &'static str,
    /// Description of the content.
    pub description: &'static str,
    /// 0: always shown; 1: only with `-o wide`.
    pub priority: u8,
    /// Content of the cells.
    pub cell: Cell,
}

const fn column(name: &'static str, kind: &'static str, priority: u8, cell: Cell, description: &'static str) -> Column {
    Column { name, kind, description, priority, cell }
}

/// A resource that can be listed and watched.
#[derive(Debug)]
pub struct Resource {
    /// Plural name, as in paths.
    pub plural: &'static str,
    /// Kind of one object.
    pub kind: &'static str,
    /// Fields to filter and sort by.
    pub fields: &'static [Field],
    /// Table columns.
    pub columns: &'static [Column],
    /// Returns the catalogue that holds its objects.
    pub catalogue: fn(&Informers) -> &Arc<Catalogue>,
    /// Whether `roles` and `current` are added to the status when an object is rendered.
    pub is_joined: bool,
}

/// Users.
pub static USERS: Resource = Resource {
    plural: "users",
    kind: "User",
    fields: user::FIELDS,
    columns: &[
        column("Name", "string", 0, Cell::Path("metadata.name"), "Name of the User"),
        column("Username", "string", 0, Cell::Path("status.username"), "Login name"),
        column("Email", "string", 0, Cell::Path("spec.email"), "Primary email address"),
        column("State", "string", 0, Cell::Path("status.state"), "Observed state"),
        column("Level", "string", 0, Cell::Path("status.permissionLevel"), "Banned, User or Admin"),
        column("Ready", "string", 0, Cell::Condition("Ready"), "Whether everything declared has taken effect"),
        column("Age", "string", 0, Cell::Age("metadata.creationTimestamp"), "Time since creation"),
        column("Display Name", "string", 1, Cell::Path("spec.displayName"), "Name for people"),
        column("Domain", "string", 1, Cell::Path("spec.domain"), "Administrative partition"),
        column("Zone", "string", 1, Cell::Path("spec.zone"), "Where the person works"),
        column("Last Login", "string", 1, Cell::Age("status.lastLoginTime"), "Time since the last successful login"),
    ],
    catalogue: |informers| &informers.user_catalogue,
    is_joined: true,
};

/// Groups.
pub static GROUPS: Resource = Resource {
    plural: "groups",
    kind: "Group",
    fields: group::FIELDS,
    columns: &[
        column("Name", "string", 0, Cell::Path("metadata.name"), "Name of the Group"),
        column("Display Name", "string", 0, Cell::Path("spec.displayName"), "Name for people"),
        column("Members", "integer", 0, Cell::Path("status.members"), "Effective members"),
        column("Roles", "integer", 0, Cell::Path("status.roles"), "Roles that the group holds"),
        column("Ready", "string", 0, Cell::Condition("Ready"), "Whether everything declared has taken effect"),
        column("Age", "string", 0, Cell::Age("metadata.creationTimestamp"), "Time since creation"),
        column("Domain", "string", 1, Cell::Path("spec.domain"), "Administrative partition"),
    ],
    catalogue: |informers| &informers.group_catalogue,
    is_joined: false,
};
