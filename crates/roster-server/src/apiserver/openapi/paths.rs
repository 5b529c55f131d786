//! Paths of the OpenAPI document: the routes of `router.rs`, with the parameters of each.

use roster_api::directory::API_VERSION;
use serde_json::{Map, Value, json};

use super::super::discovery::{ENTRIES, Entry};
use super::names::{JSON, group_version_kind, name};

/// Entries whose `get` returns a list.
const LISTS: &[&str] =
    &["groups/members", "users/apikeys", "users/groups", "users/namespaces", "users/roleassignments"];

/// Paths below a subresource, which discovery cannot express.
static BELOW: &[(&str, Entry)] = &[
    (
        "user",
        Entry {
            name: "groups/members",
            kind: "GroupMembership",
            verbs: &["get"],
            description: "how the user belongs to the group; 404 if it does not",
        },
    ),
    (
        "key",
        Entry {
            name: "users/apikeys",
            kind: "APIKey",
            verbs: &["delete", "get"],
            description: "one API key of the user",
        },
    ),
];

/// Schemas that many operations use.
pub(super) struct Shared {
    /// `Status`: errors, and the response to a deletion.
    pub(super) status: Value,
    /// `DeleteOptions`.
    pub(super) delete_options: Value,
}

/// Returns all paths.
pub(super) fn all(shared: &Shared) -> Value {
    let mut paths = Map::new();
    let base = format!("/apis/{API_VERSION}");
    for entry in ENTRIES {
        let verbs = |wanted: &[&str]| -> Vec<&str> {
            entry.verbs.iter().copied().filter(|verb| wanted.contains(verb)).collect()
        };
        let below = BELOW.iter().find(|(_, below)| below.name == entry.name);
        if let Some((main, part)) = entry.name.split_once('/') {
            let path = format!("{base}/{main}/{{name}}/{part}");
            // An item of a list is deleted by its own path.
            let is_list = LISTS.contains(&entry.name);
            let here = if is_list { verbs(&["create", "get"]) } else { entry.verbs.to_vec() };
            paths.insert(path.clone(), item(entry, &here, &["name"], is_list, shared));
            if let Some((parameter, below)) = below {
                let of_one = item(below, below.verbs, &["name", parameter], false, shared);
                paths.insert(format!("{path}/{{{parameter}}}"), of_one);
            }
            continue;
        }
        paths.insert(format!("{base}/{}", entry.name), item(entry, &verbs(&["create", "list"]), &[], true, shared));
        let of_one = verbs(&["get", "patch"]);
        if !of_one.is_empty() {
            paths.insert(format!("{base}/{}/{{name}}", entry.name), item(entry, &of_one, &["name"], false, shared));
        }
    }
    Value::Object(paths)
}

/// Returns the operations of a path. `within` names its path parameters.
fn item(entry: &Entry, verbs: &[&str], within: &[&str], is_list: bool, shared: &Shared) -> Value {
    let schema = |kind: &str| json!({"$ref": format!("#/components/schemas/{}", name(kind))});
    let mut operations = Map::new();
    for verb in verbs {
        let (method, code, answer) = match *verb {
            "create" => ("post", "201", schema(entry.kind)),
            "delete" => ("delete", "200", shared.status.clone()),
            "patch" => ("patch", "200", schema(entry.kind)),
            _ if is_list => ("get", "200", schema(&format!("{}List", entry.kind))),
            _ => ("get", "200", schema(entry.kind)),
        };
        let error = json!({"description": "Error", "content": {JSON: {"schema": shared.status}}});
        let mut operation = json!({
            "description": entry.description,
            "operationId": format!("{verb}{}_{}", entry.name.replace('/', "_"), within.join("_")),
            "x-kubernetes-action": verb,
            "x-kubernetes-group-version-kind": group_version_kind(entry.kind),
            "responses": {code: {"description": "OK", "content": {JSON: {"schema": answer}}},
                "401": {"description": "Unauthorized", "content": {JSON: {"schema": shared.status}}}, "default": error},
        });
        let patches = json!({"application/merge-patch+json": {"schema": schema(entry.kind)},
            "application/json-patch+json": {"schema": {"type": "array", "items": {"type": "object"}}}});
        let body = match (*verb, entry.name) {
            ("create", _) => Some(json!({"required": true, "content": {JSON: {"schema": schema(entry.kind)}}})),
            ("patch", _) => Some(json!({"required": true, "content": patches})),
            ("delete", "users/totp") => {
                let either = [schema(entry.kind), shared.delete_options.clone()];
                Some(json!({"content": {JSON: {"schema": {"anyOf": either}}}}))
            }
            ("delete", _) => Some(json!({"content": {JSON: {"schema": shared.delete_options}}})),
            _ => None,
        };
        if let Some(body) = body {
            operation["requestBody"] = body;
        }
        operation["parameters"] = parameters(entry.name, verb, is_list).into();
        operations.insert(method.to_owned(), operation);
    }
    if !within.is_empty() {
        let part = |name: &&str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
        operations.insert("parameters".to_owned(), within.iter().map(part).collect());
    }
    Value::Object(operations)
}

type Parameter = (&'static str, &'static str, &'static str);

const QUERY: &[Parameter] = &[
    ("filterBy", "string", "Pairs of field and value: AND across fields, OR across values of one field."),
    ("sortBy", "string", "Fields to sort by; the prefix - means descending."),
    ("fieldSelector", "string", "Paths and values that must all match."),
    ("labelSelector", "string", "Labels that must match."),
    ("continue", "string", "metadata.continue of the previous page."),
    ("resourceVersion", "string", "Revision to read at, or to watch from."),
    ("resourceVersionMatch", "string", "Exact or NotOlderThan."),
    ("limit", "integer", "Maximum number of items on a page."),
    ("page", "integer", "Number of the page, from 1."),
    ("includeObject", "string", "What a table row includes: None, Metadata or Object."),
    ("shardSelector", "string", "Accepted and ignored: lists have no shardInfo."),
];

const WATCH: &[Parameter] = &[
    ("timeoutSeconds", "integer", "Seconds after which a watch ends."),
    ("watch", "boolean", "Whether to watch."),
    ("allowWatchBookmarks", "boolean", "Whether a watch sends bookmarks."),
    ("sendInitialEvents", "boolean", "Whether a watch begins with the existing objects."),
];

const GET: &[Parameter] = &[("resourceVersion", "string", "The oldest acceptable revision.")];

const GET_PART: &[Parameter] = &[("resourceVersion", "string", "Accepted and ignored: the response is current.")];

const HOLDER: &[Parameter] = &[
    ("user", "string", "User that holds the role: name, username, email or UID."),
    ("group", "string", "Group that holds the role. Can't be combined with user."),
];

const ASSIGNMENTS: &[Parameter] = &[
    ("role", "string", "The role: name, ClusterRole/name or Role/name."),
    ("scope", "string", "Where the role is held: cluster, namespace:<name> or domain:<name>."),
    ("effective", "boolean", "Whether members of groups are listed as well."),
    ("includeNames", "boolean", "Whether display names are included."),
    ("fieldSelector", "string", "The same filters, as field=value."),
    ("continue", "string", "metadata.continue of the previous response."),
    ("limit", "integer", "Maximum number of items in a response; at most 1000."),
];

const NAMESPACE: &[Parameter] = &[("namespace", "string", "Only rules that apply in this namespace.")];

const WRITE: &[Parameter] = &[
    ("dryRun", "string", "All: checks everything and changes nothing."),
    ("fieldManager", "string", "Accepted and ignored."),
    ("fieldValidation", "string", "Strict, Warn or Ignore. Unknown fields are always an error."),
];

const PATCH: &[Parameter] = &[("force", "boolean", "Accepted and ignored.")];

const DELETE: &[Parameter] = &[
    ("gracePeriodSeconds", "integer", "Accepted and ignored."),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean", "Accepted and ignored."),
    ("orphanDependents", "boolean", "Accepted and ignored."),
    ("propagationPolicy", "string", "Orphan, Background or Foreground. Accepted and ignored: there are no dependents."),
];

fn parameters(entry: &str, verb: &str, is_list: bool) -> Vec<Value> {
    let sets: &[&[Parameter]] = match (entry, verb) {
        // No dry run: an attempt always counts.
        ("logins" | "passwordreviews", _) => &[&WRITE[1..]],
        (_, "patch") => &[WRITE, PATCH],
        (_, "delete") => &[WRITE, DELETE],
        (_, "create") => &[WRITE],
        ("roleassignments", _) => &[HOLDER, ASSIGNMENTS],
        ("users/roleassignments", _) => &[ASSIGNMENTS],
        ("users/permissions", _) => &[NAMESPACE, GET_PART],
        ("groups/members", _) if is_list => &[QUERY],
        (_, "list") => &[QUERY, WATCH],
        ("users" | "groups", _) => &[GET],
        _ => &[GET_PART],
    };
    let parameter = |(name, kind, description): &Parameter| {
        let mut schema = json!({"type": kind});
        if *kind == "integer" {
            schema["minimum"] = u8::from(*name == "page").into();
        }
        json!({"name": name, "in": "query", "description": description, "schema": schema})
    };
    sets.iter().copied().flatten().map(parameter).collect()
}
