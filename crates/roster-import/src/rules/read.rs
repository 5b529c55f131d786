//! Reads OpenAPI schemas.

use regex::Regex;
use serde_json::Value;

use super::cel::Engine;
use super::schema::Schema;

/// Reads a schema and compiles its rules.
pub(super) fn read(value: &Value, engine: &mut Engine) -> Schema {
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    let number = |name: &str| value[name].as_u64().and_then(|number| usize::try_from(number).ok());
    let texts = |name: &str| -> Vec<String> {
        value[name].as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let takes_number = value["x-kubernetes-int-or-string"].as_bool().unwrap_or_default();
    let mut nested =
        |name: &str| value.get(name).filter(|value| value.is_object()).map(|value| Box::new(read(value, engine)));
    let (values, items) = (nested("additionalProperties"), nested("items"));
    let properties = value["properties"].as_object().into_iter().flatten();
    let properties = properties.map(|(name, value)| (name.clone(), read(value, engine))).collect();
    let rules = value["x-kubernetes-validations"].as_array().into_iter().flatten();
    Schema {
        kind: if takes_number { "string".to_owned() } else { text("type").to_owned() },
        properties,
        values,
        items,
        required: texts("required"),
        max_length: number("maxLength"),
        min_length: number("minLength"),
        max_items: number("maxItems"),
        min_items: number("minItems"),
        max_properties: number("maxProperties"),
        choices: texts("enum"),
        pattern: value["pattern"].as_str().map(|pattern| Regex::new(pattern).expect("the schema's patterns are valid")),
        is_time: text("format") == "date-time",
        takes_number,
        rules: rules.map(|rule| engine.compile(&rule["rule"], &rule["message"])).collect(),
    }
}
