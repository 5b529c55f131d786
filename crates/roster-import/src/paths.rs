//! Fields below `spec` by their paths, such as `validity.notAfter`.

use serde_json::{Map, Value};

/// Removes a field, and objects that are empty without it.
pub(super) fn remove(fields: &mut Map<String, Value>, path: &str) {
    match path.split_once('.') {
        None => drop(fields.remove(path)),
        Some((first, rest)) => {
            if let Some(nested) = fields.get_mut(first).and_then(Value::as_object_mut) {
                remove(nested, rest);
                if nested.is_empty() {
                    fields.remove(first);
                }
            }
        }
    }
}

/// Copies a field, if `from` has it.
pub(super) fn copy(from: &Value, path: &str, to: &mut Map<String, Value>) {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let Some(value) = from.get(first) else { return };
    let Some(rest) = rest else {
        to.insert(first.to_owned(), value.clone());
        return;
    };
    let mut nested = to.get(first).and_then(Value::as_object).cloned().unwrap_or_default();
    copy(value, rest, &mut nested);
    if !nested.is_empty() {
        to.insert(first.to_owned(), nested.into());
    }
}

/// Adds the fields that `to` does not have.
pub(super) fn add_missing(to: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (name, value) in from {
        match (to.get_mut(name), value) {
            (None, value) => drop(to.insert(name.clone(), value.clone())),
            (Some(Value::Object(known)), Value::Object(more)) => add_missing(known, more),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn fields_are_copied_by_their_paths() {
        let from = json!({"a": {"b": 1, "c": {"d": 2, "e": 3}}, "f": [4], "g": 5});
        let mut to = Map::new();
        for path in ["a.c.d", "a.b", "f", "a.x", "g.h", "x.y"] {
            copy(&from, path, &mut to);
        }
        assert_eq!(Value::Object(to), json!({"a": {"b": 1, "c": {"d": 2}}, "f": [4]}));
    }

    #[test]
    fn only_missing_fields_are_added() {
        let mut to = object(&json!({"a": {"b": 1}, "f": [4], "g": 5}));
        add_missing(&mut to, &object(&json!({"a": {"b": 2, "c": 3}, "f": [6], "g": {"h": 7}, "i": {"j": 8}})));
        assert_eq!(Value::Object(to), json!({"a": {"b": 1, "c": 3}, "f": [4], "g": 5, "i": {"j": 8}}));
    }

    #[test]
    fn objects_that_become_empty_are_removed() {
        let mut fields = object(&json!({"a": {"b": {"c": 1}}, "d": {"e": 2, "f": 3}}));
        for path in ["a.b.c", "d.e", "x.y"] {
            remove(&mut fields, path);
        }
        assert_eq!(Value::Object(fields), json!({"d": {"f": 3}}));
    }
}
