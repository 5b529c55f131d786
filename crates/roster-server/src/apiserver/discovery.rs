//! API discovery: the legacy and the aggregated documents.

use std::sync::LazyLock;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use kube::core::discovery::v2::{
    APIGroupDiscovery, APIResourceDiscovery, APISubresourceDiscovery, APIVersionDiscovery, GroupVersionKind,
};
use roster_api::directory::{API_VERSION, GROUP, VERSION};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A resource, or a subresource if its name contains a slash.
#[derive(Debug)]
pub struct Entry {
    /// Resource name.
    pub name: &'static str,
    /// Kind of the request or response body.
    pub kind: &'static str,
    /// Supported verbs.
    pub verbs: &'static [&'static str],
    /// What it is for, for the OpenAPI document.
    pub description: &'static str,
}

const fn entry(
    name: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
    description: &'static str,
) -> Entry {
    Entry { name, kind, verbs, description }
}

/// All resources and subresources.
pub static ENTRIES: &[Entry] = &[
    entry(
        "users",
        "User",
        &["get", "list", "patch", "watch"],
        "users, with their effective state, groups and bindings",
    ),
    entry(
        "users/accessreviews",
        "AccessReview",
        &["create"],
        "whether the user may do something, and which bindings allow it",
    ),
    entry(
        "users/apikeys",
        "APIKey",
        &["create", "delete", "get"],
        "API keys of the user; a key is shown only once, when it is created",
    ),
    entry(
        "users/groups",
        "GroupMembership",
        &["get"],
        "groups that the user belongs to, each with the path of the membership",
    ),
    entry(
        "users/invitation",
        "Invitation",
        &["create"],
        "invites the user to set a password, with a code that works once",
    ),
    entry(
        "users/locks",
        "UserLocks",
        &["get"],
        "namespaces that block the user's deletion, and namespaces that the user has locked",
    ),
    entry("users/namespaces", "UserNamespace", &["get"], "namespaces that the user owns or holds a role in"),
    entry("users/password", "PasswordChange", &["create"], "sets the user's password"),
    entry(
        "users/permissions",
        "UserPermissions",
        &["get"],
        "what the user may do, each rule with the bindings that grant it",
    ),
    entry("users/quota", "UserQuota", &["get"], "limits and usage of the user, in total and for each owned namespace"),
    entry("users/rename", "Rename", &["create"], "changes the user's username"),
    entry("users/roleassignments", "RoleAssignment", &["get"], "roles that the user holds, directly or through groups"),
    entry("users/totp", "TOTPEnrollment", &["create", "delete", "get"], "the user's second factor"),
    entry("users/unlock", "Unlock", &["create"], "ends a lockout of the user"),
    entry("groups", "Group", &["get", "list", "watch"], "groups, with their counts"),
    entry("groups/members", "User", &["get"], "users that belong to the group"),
    entry("logins", "Login", &["create"], "exchanges a password and a second factor for a token"),
    entry(
        "passwordreviews",
        "PasswordReview",
        &["create"],
        "verifies a password and a second factor, and returns their user",
    ),
    entry("roleassignments", "RoleAssignment", &["list"], "who holds which role, and where"),
];

/// A static JSON document with an ETag.
pub struct Document {
    media_type: &'static str,
    json: String,
    etag: String,
}

impl Document {
    /// Serializes the document and computes its ETag.
    pub fn new(media_type: &'static str, value: &Value) -> Self {
        let json = value.to_string();
        let etag = Sha256::digest(&json).iter().fold(String::new(), |etag, byte| format!("{etag}{byte:02X}"));
        Self { media_type, json, etag }
    }

    /// Returns the document, or 304 if the client has the current version.
    pub fn respond(&self, headers: &HeaderMap) -> Response {
        let etag = format!("{:?}", self.etag);
        let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let tags = [(header::ETAG, etag.clone()), (header::VARY, "Accept".to_owned())];
        if known.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag) {
            return (StatusCode::NOT_MODIFIED, tags).into_response();
        }
        (tags, [(header::CONTENT_TYPE, self.media_type)], self.json.clone()).into_response()
    }

    /// The ETag, without quotes.
    pub fn etag(&self) -> &str {
        &self.etag
    }
}

/// `GET /apis`
pub async fn groups(headers: HeaderMap) -> Response {
    static OLD: LazyLock<Document> = LazyLock::new(|| {
        let list = json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [api_group()]});
        Document::new("application/json", &list)
    });
    static NEW: LazyLock<Document> = LazyLock::new(|| Document::new(AGGREGATED, &aggregated()));
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_aggregated = |media_type: &str| {
        let parameters: Vec<&str> = media_type.split(';').map(str::trim).collect();
        ["application/json", "g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"]
            .iter()
            .all(|wanted| parameters.contains(wanted))
    };
    if accept.split(',').any(is_aggregated) { NEW.respond(&headers) } else { OLD.respond(&headers) }
}

/// `GET /apis/directory.roster.dev`
pub async fn group(headers: HeaderMap) -> Response {
    static GROUP_DOCUMENT: LazyLock<Document> = LazyLock::new(|| {
        let mut group = api_group();
        group["kind"] = "APIGroup".into();
        group["apiVersion"] = "v1".into();
        Document::new("application/json", &group)
    });
    GROUP_DOCUMENT.respond(&headers)
}

/// `GET /apis/directory.roster.dev/v1alpha1`
pub async fn resources(headers: HeaderMap) -> Response {
    static RESOURCES: LazyLock<Document> = LazyLock::new(|| {
        let resource = |entry: &Entry| {
            json!({"name": entry.name, "singularName": singular(entry), "namespaced": false, "kind": entry.kind,
                "verbs": entry.verbs})
        };
        let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": API_VERSION,
            "resources": ENTRIES.iter().map(resource).collect::<Vec<_>>()});
        Document::new("application/json", &list)
    });
    RESOURCES.respond(&headers)
}

fn api_group() -> Value {
    let version = json!({"groupVersion": API_VERSION, "version": VERSION});
    json!({"name": GROUP, "versions": [version], "preferredVersion": version})
}

fn singular(entry: &Entry) -> String {
    if entry.name.contains('/') { String::new() } else { entry.kind.to_lowercase() }
}

fn aggregated() -> Value {
    let mains = ENTRIES.iter().filter(|entry| !entry.name.contains('/'));
    let resources = mains.map(|entry| APIResourceDiscovery {
        resource: Some(entry.name.to_owned()),
        response_kind: Some(kind(entry)),
        scope: Some("Cluster".to_owned()),
        singular_resource: Some(singular(entry)),
        verbs: owned(entry.verbs),
        subresources: subresources(entry.name),
        ..APIResourceDiscovery::default()
    });
    let version = APIVersionDiscovery {
        version: Some(VERSION.to_owned()),
        resources: resources.collect(),
        freshness: Some("Current".to_owned()),
    };
    let mut group = json!(APIGroupDiscovery { metadata: None, versions: vec![version] });
    group["metadata"] = json!({"name": GROUP, "creationTimestamp": null});
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": [group]})
}

fn subresources(of: &str) -> Vec<APISubresourceDiscovery> {
    let parts = ENTRIES.iter().filter_map(|entry| entry.name.split_once('/').map(|(main, part)| (main, part, entry)));
    let parts = parts.filter(|(main, ..)| *main == of);
    let describe = |(_, part, entry): (&str, &str, &Entry)| APISubresourceDiscovery {
        subresource: Some(part.to_owned()),
        response_kind: Some(kind(entry)),
        accepted_types: Vec::new(),
        verbs: owned(entry.verbs),
    };
    parts.map(describe).collect()
}

fn kind(entry: &Entry) -> GroupVersionKind {
    let text = |text: &str| Some(text.to_owned());
    GroupVersionKind { group: text(GROUP), version: text(VERSION), kind: text(entry.kind) }
}

fn owned(verbs: &[&str]) -> Vec<String> {
    verbs.iter().map(|verb| (*verb).to_owned()).collect()
}
