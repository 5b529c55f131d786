//! Table of the fields of a schema.

use serde_json::Value;

use super::markdown::{code, table};

/// Resolves `$ref` in schemas.
pub(super) struct Schemas<'a> {
    /// `components.schemas` of an OpenAPI document, or null if there are no references.
    pub(super) named: &'a Value,
}

impl Schemas<'_> {
    /// Returns a table with the object at `path` in the first row, and then its fields.
    pub(super) fn table(&self, path: &str, schema: &Value) -> String {
        let mut rows = Vec::new();
        self.rows(path, schema, false, &mut rows);
        table(&["field", "type", "required", "default", "allowed", "description"], &rows)
    }

    fn rows(&self, path: &str, schema: &Value, is_required: bool, rows: &mut Vec<Vec<String>>) {
        let (name, resolved) = self.resolve(schema);
        let own = schema["description"].as_str();
        let mut description = own.or(resolved["description"].as_str()).unwrap_or_default().to_owned();
        // Kubernetes documents its own types.
        let foreign = name.filter(|name| name.starts_with("io.k8s."));
        if let Some(kind) = foreign.and_then(|name| name.rsplit('.').next()) {
            description = format!("{description} See {kind} in the Kubernetes API reference.");
        }
        let default = if schema["default"].is_null() { &resolved["default"] } else { &schema["default"] };
        rows.push(vec![
            code(path),
            self.kind(schema),
            if is_required { "yes" } else { "" }.to_owned(),
            if default.is_null() { String::new() } else { code(&default.to_string()) },
            self.allowed(resolved),
            description,
        ]);
        if foreign.is_some() {
            return;
        }
        self.members(path, resolved, rows);
        for (inner, path) in [("items", format!("{path}[]")), ("additionalProperties", format!("{path}.*"))] {
            if resolved[inner].is_object() {
                self.members(&path, self.resolve(&resolved[inner]).1, rows);
            }
        }
    }

    fn members(&self, path: &str, schema: &Value, rows: &mut Vec<Vec<String>>) {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, member) in schema["properties"].as_object().into_iter().flatten() {
            self.rows(&format!("{path}.{name}"), member, required.contains(&name.as_str()), rows);
        }
    }

    /// Returns the schema that `schema` refers to, with its name, or `schema` itself. A reference with its own description
    /// is in an `allOf` with one item, and a nullable one in an `anyOf`.
    fn resolve<'v>(&'v self, schema: &'v Value) -> (Option<&'v str>, &'v Value) {
        let inner = [schema, &schema["allOf"][0], &schema["anyOf"][0]];
        let name = inner.iter().find_map(|schema| schema["$ref"].as_str()).and_then(|path| path.rsplit('/').next());
        name.map_or((None, schema), |name| (Some(name), &self.named[name]))
    }

    fn kind(&self, schema: &Value) -> String {
        let (_, schema) = self.resolve(schema);
        if schema["x-kubernetes-int-or-string"] == true {
            return "number or string".to_owned();
        }
        let one_of = &schema["oneOf"][0];
        match (schema["type"].as_str().or(one_of["type"].as_str()), schema["format"].as_str()) {
            (Some("array"), _) => format!("list of {}", self.kind(&schema["items"])),
            (Some("object"), _) if schema["additionalProperties"].is_object() => {
                format!("map of {}", self.kind(&schema["additionalProperties"]))
            }
            (Some("string"), Some("date-time")) => "time".to_owned(),
            (Some(kind), _) => kind.to_owned(),
            (None, _) => "number or string".to_owned(),
        }
    }

    /// Describes the allowed values of a field.
    fn allowed(&self, schema: &Value) -> String {
        let mut words = Vec::new();
        // Enum values with descriptions are one schema each.
        let variants = schema["oneOf"].as_array().into_iter().flatten();
        let variants = variants.flat_map(|one| one["enum"].as_array().into_iter().flatten().chain([&one["const"]]));
        let values = schema["enum"].as_array().into_iter().flatten().chain(variants);
        let values: Vec<String> = values.filter_map(Value::as_str).map(code).collect();
        if !values.is_empty() {
            words.push(values.join(", "));
        }
        for (key, before, after) in [
            ("minLength", "at least ", " characters"),
            ("maxLength", "at most ", " characters"),
            ("minItems", "at least ", " items"),
            ("maxItems", "at most ", " items"),
            ("maxProperties", "at most ", " items"),
            ("minimum", "at least ", ""),
            ("maximum", "at most ", ""),
        ] {
            if let Some(number) = schema[key].as_number() {
                words.push(format!("{before}{number}{after}"));
            }
        }
        if let Some(pattern) = schema["pattern"].as_str().filter(|_| schema["format"] != "date-time") {
            words.push(format!("matches {}", code(pattern)));
        }
        if let Some(keys) = schema["x-kubernetes-list-map-keys"].as_array() {
            let keys: Vec<String> = keys.iter().filter_map(Value::as_str).map(code).collect();
            words.push(format!("unique by {}", keys.join(" and ")));
        }
        let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
        words.extend(rules.filter_map(|rule| rule["message"].as_str().or(rule["rule"].as_str())).map(str::to_owned));
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                let each = self.allowed(self.resolve(&schema[inner]).1);
                if !each.is_empty() {
                    words.push(format!("each: {each}"));
                }
            }
        }
        words.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_has_type_default_bounds_and_rules() {
        let named = json!({"Size": {"type": "string", "enum": ["Small", "Large"], "description": "How large."}});
        let schemas = Schemas { named: &named };
        let schema = json!({
            "type": "object",
            "required": ["names"],
            "properties": {
                "names": {"type": "array", "maxItems": 3, "x-kubernetes-list-map-keys": ["name"], "description": "Names.",
                    "items": {"type": "string", "x-kubernetes-validations": [{"rule": "x", "message": "must be short"}]}},
                "size": {"allOf": [{"$ref": "#/components/schemas/Size"}], "default": "Small"},
            },
        });
        let written = schemas.table("spec", &schema);
        let rows: Vec<&str> = written.lines().skip(3).collect();
        assert_eq!(
            rows,
            [
                "| `spec.names` | list of string | yes |  | at most 3 items; unique by `name`; each: must be short | Names. |",
                "| `spec.size` | string |  | `\"Small\"` | `Small`, `Large` | How large. |",
            ]
        );
    }
}
