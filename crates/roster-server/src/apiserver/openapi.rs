//! OpenAPI documents for `kubectl explain` and generated clients. Schemas are derived from the types.

mod names;
mod paths;

use std::sync::LazyLock;

use axum::http::HeaderMap;
use axum::response::Response;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ListMeta, ObjectMeta, Status};
use roster_api::credentials::{
    ActionStatus, ApiKeySpec, ApiKeyStatus, InvitationSpec, InvitationStatus, LoginSpec, LoginStatus,
    PasswordChangeSpec, PasswordChangeStatus, PasswordReviewSpec, PasswordReviewStatus, RenameSpec, TotpEnrollmentSpec,
    TotpEnrollmentStatus, UnlockSpec,
};
use roster_api::directory::{
    API_VERSION, AccessReviewSpec, AccessReviewStatus, DirectoryUserStatus, GroupMembership, RoleAssignment,
    UserLocksStatus, UserNamespace, UserPermissionsStatus, UserQuotaStatus,
};
use roster_api::{GroupSpec, GroupStatus, UserSpec};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::discovery::Document;
use names::{JSON, group_version_kind, name};
use paths::Shared;

/// `GET /openapi/v2`: without paths, which only version 3 has. Without this document, kube-apiserver keeps logging
/// errors.
pub async fn v2(headers: HeaderMap) -> Response {
    static V2: LazyLock<Document> = LazyLock::new(|| {
        let document = json!({"swagger": "2.0", "info": info(), "paths": {}, "definitions": {}});
        Document::new(JSON, &document)
    });
    V2.respond(&headers)
}

/// `GET /openapi/v3`
pub async fn v3_paths(headers: HeaderMap) -> Response {
    static PATHS: LazyLock<Document> = LazyLock::new(|| {
        let url = format!("/openapi/v3/apis/{API_VERSION}?hash={}", V3.etag());
        let document = json!({"paths": {format!("apis/{API_VERSION}"): {"serverRelativeURL": url}}});
        Document::new(JSON, &document)
    });
    PATHS.respond(&headers)
}

/// `GET /openapi/v3/apis/directory.roster.dev/v1alpha1`
pub async fn v3(headers: HeaderMap) -> Response {
    V3.respond(&headers)
}

static V3: LazyLock<Document> = LazyLock::new(|| Document::new(JSON, &document()));

fn info() -> Value {
    json!({"title": "Roster directory", "version": env!("CARGO_PKG_VERSION")})
}

/// Returns the complete version 3 document.
pub fn document() -> Value {
    let mut schemas = Schemas { generator: SchemaSettings::openapi3().into_generator(), kinds: Map::new() };
    schemas.object("User", "A user of the cluster, with its effective state, groups and bindings.", |generator| {
        vec![("spec", reference::<UserSpec>(generator)), ("status", reference::<DirectoryUserStatus>(generator))]
    });
    schemas.object("Group", "A group of users, with its counts.", |generator| {
        vec![("spec", reference::<GroupSpec>(generator)), ("status", reference::<GroupStatus>(generator))]
    });
    schemas.object("UserPermissions", "What a user may do, each rule with the bindings that grant it.", |generator| {
        vec![("status", reference::<UserPermissionsStatus>(generator))]
    });
    schemas.object("UserQuota", "Limits and usage of a user, in total and for each owned namespace.", |generator| {
        vec![("status", reference::<UserQuotaStatus>(generator))]
    });
    schemas.object(
        "UserLocks",
        "Namespaces that block the deletion of a user, and namespaces that the user has locked.",
        |generator| vec![("status", reference::<UserLocksStatus>(generator))],
    );
    schemas.object("AccessReview", "Whether a user may do something, and which bindings allow it.", |generator| {
        vec![("spec", reference::<AccessReviewSpec>(generator)), ("status", reference::<AccessReviewStatus>(generator))]
    });
    schemas.object(
        "RoleAssignment",
        "A role that a user or group holds in a namespace or in the whole cluster.",
        |generator| vec![("spec", reference::<RoleAssignment>(generator))],
    );
    schemas.object("GroupMembership", "How a user belongs to a group.", |generator| {
        vec![("status", reference::<GroupMembership>(generator))]
    });
    credentials(&mut schemas);
    for kind in ["User", "Group", "RoleAssignment", "APIKey"] {
        schemas.list(kind, &json!({"$ref": format!("#/components/schemas/{}", name(kind))}));
    }
    let membership = reference::<GroupMembership>(&mut schemas.generator);
    schemas.list("GroupMembership", &membership);
    let namespace = reference::<UserNamespace>(&mut schemas.generator);
    schemas.list("UserNamespace", &namespace);
    let shared = Shared {
        status: reference::<Status>(&mut schemas.generator),
        delete_options: reference::<DeleteOptions>(&mut schemas.generator),
    };
    let paths = paths::all(&shared);
    let mut all = schemas.generator.take_definitions(true);
    all.append(&mut schemas.kinds);
    all.values_mut().for_each(plain_types);
    json!({"openapi": "3.0.0", "info": info(), "paths": paths, "components": {"schemas": all}})
}

/// Adds the resources that change credentials.
fn credentials(schemas: &mut Schemas) {
    schemas.object("Login", "Exchanges a password and a second factor for a token.", |generator| {
        vec![("spec", reference::<LoginSpec>(generator)), ("status", reference::<LoginStatus>(generator))]
    });
    schemas.object("PasswordReview", "Verifies a password and a second factor, and returns their user.", |generator| {
        let status = reference::<PasswordReviewStatus>(generator);
        vec![("spec", reference::<PasswordReviewSpec>(generator)), ("status", status)]
    });
    schemas.object("PasswordChange", "Sets a password.", |generator| {
        let status = reference::<PasswordChangeStatus>(generator);
        vec![("spec", reference::<PasswordChangeSpec>(generator)), ("status", status)]
    });
    schemas.object("APIKey", "A key that authenticates as its user until it expires or is revoked.", |generator| {
        vec![("spec", reference::<ApiKeySpec>(generator)), ("status", reference::<ApiKeyStatus>(generator))]
    });
    schemas.object("TOTPEnrollment", "The second factor of a user: to enroll, confirm or remove it.", |generator| {
        let status = reference::<TotpEnrollmentStatus>(generator);
        vec![("spec", reference::<TotpEnrollmentSpec>(generator)), ("status", status)]
    });
    schemas.object("Invitation", "An invitation to set a password, with a code that works once.", |generator| {
        vec![("spec", reference::<InvitationSpec>(generator)), ("status", reference::<InvitationStatus>(generator))]
    });
    schemas.object("Rename", "Changes the username of a user.", |generator| {
        vec![("spec", reference::<RenameSpec>(generator)), ("status", reference::<ActionStatus>(generator))]
    });
    schemas.object("Unlock", "Ends a lockout.", |generator| {
        vec![("spec", reference::<UnlockSpec>(generator)), ("status", reference::<ActionStatus>(generator))]
    });
}

/// Reduces each schema to one type: version 3.0 has no lists of types, and a nullable field may also be absent.
fn plain_types(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::Array(types)) = members.get_mut("type") {
                types.retain(|kind| kind != "null");
                match types.as_slice() {
                    [kind] => {
                        let kind = kind.clone();
                        members.insert("type".to_owned(), kind);
                    }
                    // Integer or string: x-kubernetes-int-or-string says so.
                    _ => drop(members.remove("type")),
                }
            }
            members.values_mut().for_each(plain_types);
        }
        Value::Array(members) => members.iter_mut().for_each(plain_types),
        _ => {}
    }
}

struct Schemas {
    generator: SchemaGenerator,
    kinds: Map<String, Value>,
}

type Parts = Vec<(&'static str, Value)>;

impl Schemas {
    fn object(&mut self, kind: &str, description: &str, parts: impl FnOnce(&mut SchemaGenerator) -> Parts) {
        let mut properties = Map::new();
        properties.insert("apiVersion".to_owned(), constant(API_VERSION));
        properties.insert("kind".to_owned(), constant(kind));
        properties.insert("metadata".to_owned(), reference::<ObjectMeta>(&mut self.generator));
        properties.extend(parts(&mut self.generator).into_iter().map(|(name, schema)| (name.to_owned(), schema)));
        self.add(kind, &json!({"type": "object", "description": description, "properties": properties}));
    }

    fn list(&mut self, kind: &str, item: &Value) {
        let count = |description: &str| json!({"type": "integer", "format": "int64", "description": description});
        let schema = json!({
            "type": "object",
            "description": format!("A list of {kind}."),
            "required": ["items"],
            "properties": {
                "apiVersion": constant(API_VERSION),
                "kind": constant(&format!("{kind}List")),
                "metadata": reference::<ListMeta>(&mut self.generator),
                "total": count("Number of results on all pages."),
                "page": count("Number of this page, from 1."),
                "limit": count("Maximum number of items on a page."),
                "pages": count("Number of pages."),
                "items": {"type": "array", "items": item},
            },
        });
        self.add(&format!("{kind}List"), &schema);
    }

    fn add(&mut self, kind: &str, schema: &Value) {
        let mut schema = schema.clone();
        schema["x-kubernetes-group-version-kind"] = json!([group_version_kind(kind)]);
        self.kinds.insert(name(kind), schema);
    }
}

/// Returns the schema of a constant string. Version 3.0 has no `const`.
fn constant(text: &str) -> Value {
    json!({"type": "string", "enum": [text], "description": text})
}

fn reference<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().into()
}
