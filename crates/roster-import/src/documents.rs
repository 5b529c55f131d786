//! Splits JSON and YAML into objects and records the line where each begins.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::draft::{Input, Place};

/// An object and the line where it begins.
pub(super) struct Located {
    pub place: Place,
    pub value: Value,
}

impl Located {
    /// Returns the UID of a Kubernetes object, or its name if the file does not contain the UID. A name can be given to
    /// someone else after the object has been deleted.
    pub(super) fn uid_or_name(&self) -> &str {
        let metadata = &self.value["metadata"];
        metadata["uid"].as_str().filter(|uid| !uid.is_empty()).or(metadata["name"].as_str()).unwrap_or_default()
    }
}

/// An object with lists of objects.
pub(super) struct Container {
    pub place: Place,
    /// Value of the field that names the object.
    pub name: String,
    /// Whether the field `enabled` is false.
    pub is_disabled: bool,
    /// Lists by field name.
    pub lists: BTreeMap<String, Vec<Located>>,
}

/// Text with an index of its line breaks.
pub(super) struct Text<'a> {
    text: &'a str,
    /// Offsets of the line breaks.
    breaks: Vec<usize>,
}

impl<'a> Text<'a> {
    /// Decodes UTF-8. Rejects the first line that is not UTF-8.
    pub(super) fn new(bytes: &'a [u8], input: &mut Input) -> Option<Self> {
        let breaks = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
        match str::from_utf8(bytes) {
            Ok(text) => Some(Self { text, breaks }),
            Err(error) => {
                let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
                input.reject(Place::line(line), "is not UTF-8 text");
                None
            }
        }
    }

    fn place(&self, offset: usize) -> Place {
        Place::line(self.breaks.partition_point(|at| *at < offset) + 1)
    }

    /// Returns the position of a slice of the text.
    fn place_of(&self, part: &str) -> Place {
        self.place((part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize))
    }

    fn is_json(&self) -> bool {
        self.text.trim_start().starts_with(['{', '['])
    }

    /// Returns the objects of all documents, including those in lists and arrays.
    pub(super) fn objects(&self, input: &mut Input) -> Vec<Located> {
        if !self.is_json() {
            return self.yaml(input);
        }
        let mut found = Vec::new();
        for raw in self.json(input) {
            self.unfold(raw, &mut found, input);
        }
        found
    }

    /// Returns the rows of the tables with these names: `{"users": […], "groups": […]}`. Other fields are ignored.
    pub(super) fn tables(&self, names: &[&str], input: &mut Input) -> Vec<(String, Vec<Located>)> {
        let mut all = Vec::new();
        for raw in self.json(input) {
            match serde_json::from_str::<BTreeMap<String, &RawValue>>(raw.get()) {
                Ok(tables) => {
                    for (name, table) in tables.into_iter().filter(|(name, _)| names.contains(&name.as_str())) {
                        if !table.get().starts_with('[') {
                            input.reject(self.place_of(table.get()), format!("{name}: must be an array of rows"));
                            continue;
                        }
                        let mut rows = Vec::new();
                        self.unfold(table, &mut rows, input);
                        all.push((name, rows));
                    }
                }
                Err(_) => input
                    .reject(self.place_of(raw.get()), "is not an object that contains tables, such as {\"user\": […]}"),
            }
        }
        all
    }

    /// Returns the objects that contain one of the given lists, including those in an array. Other fields are ignored,
    /// except the field `name`, which names the object, and `enabled`.
    pub(super) fn containers(&self, name: &str, lists: &[&str], input: &mut Input) -> Vec<Container> {
        let (mut containers, mut objects) = (Vec::new(), Vec::new());
        for raw in self.json(input) {
            match serde_json::from_str::<Vec<&RawValue>>(raw.get()) {
                Ok(items) => objects.extend(items),
                Err(_) => objects.push(raw),
            }
        }
        for raw in objects {
            let place = self.place_of(raw.get());
            let fields = serde_json::from_str::<BTreeMap<String, &RawValue>>(raw.get()).unwrap_or_default();
            if !lists.iter().any(|list| fields.contains_key(*list)) {
                input.reject(place, format!("must be an object with {}", lists.join(" or ")));
                continue;
            }
            let name = fields.get(name).and_then(|name| serde_json::from_str(name.get()).ok()).unwrap_or_default();
            let is_disabled = fields.get("enabled").is_some_and(|enabled| enabled.get() == "false");
            let mut container = Container { place, name, is_disabled, lists: BTreeMap::new() };
            for list in lists {
                let Some(raw) = fields.get(*list) else { continue };
                let mut found = Vec::new();
                self.unfold(raw, &mut found, input);
                container.lists.insert((*list).to_owned(), found);
            }
            containers.push(container);
        }
        containers
    }

    /// Returns concatenated JSON values. Skips a line that is not JSON if the next one begins a value.
    fn json(&self, input: &mut Input) -> Vec<&'a RawValue> {
        let (mut values, mut begin) = (Vec::new(), 0);
        while let Some(rest) = self.text.get(begin..) {
            let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>();
            let Some(error) = stream.by_ref().find_map(|value| value.map(|value| values.push(value)).err()) else {
                break;
            };
            let broken = begin + stream.byte_offset();
            let start = broken + self.text[broken..].len() - self.text[broken..].trim_start().len();
            input.reject(self.place(start), format!("is not JSON: {}", without_position(&error.to_string())));
            let next = self.text[start..].find('\n').map(|at| start + at + 1);
            let Some(next) = next.filter(|next| self.text[*next..].starts_with(['{', '['])) else { break };
            begin = next;
        }
        values
    }

    fn unfold(&self, raw: &'a RawValue, found: &mut Vec<Located>, input: &mut Input) {
        let place = self.place_of(raw.get());
        if raw.get().starts_with('[') {
            match serde_json::from_str::<Vec<&RawValue>>(raw.get()) {
                Ok(items) => items.into_iter().for_each(|item| self.one(item, found, input)),
                Err(error) => input.reject(place, without_position(&error.to_string())),
            }
            return;
        }
        match serde_json::from_str::<List>(raw.get()) {
            Ok(List { items: Some(items) }) => items.into_iter().for_each(|item| self.one(item, found, input)),
            _ => self.one(raw, found, input),
        }
    }

    fn one(&self, raw: &RawValue, found: &mut Vec<Located>, input: &mut Input) {
        let place = self.place_of(raw.get());
        match serde_json::from_str::<Value>(raw.get()) {
            Ok(value) if value.is_object() => found.push(Located { place, value }),
            Ok(_) => input.reject(place, "is not an object"),
            Err(error) => input.reject(place, without_position(&error.to_string())),
        }
    }

    fn yaml(&self, input: &mut Input) -> Vec<Located> {
        let mut found = Vec::new();
        let mut begin = 0;
        for (offset, line) in lines(self.text).chain([(self.text.len(), "---\n")]) {
            if !(line.starts_with("---") && line[3..].chars().next().is_none_or(char::is_whitespace)) {
                continue;
            }
            self.yaml_document(begin, offset, &mut found, input);
            // A document may begin on the line of the hyphens.
            begin = (offset + "---".len()).min(self.text.len());
        }
        found
    }

    fn yaml_document(&self, begin: usize, end: usize, found: &mut Vec<Located>, input: &mut Input) {
        let text = &self.text[begin..end];
        let blank = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with('#');
        let first = begin + text.split_inclusive('\n').take_while(blank).map(str::len).sum::<usize>();
        let mut value = match serde_yaml::from_str::<Value>(text) {
            Ok(Value::Null) => return,
            Ok(value) => value,
            Err(error) => {
                let line = error.location().map_or(1, |location| location.line());
                let place = Place::line(self.place(begin).line + line - 1);
                return input.reject(place, "is not YAML");
            }
        };
        let is_truncated = value.get("items").is_some() && value.get("kind").is_none();
        let items = match value.get_mut("items") {
            Some(Value::Array(items)) => std::mem::take(items),
            Some(Value::Null) if is_truncated => Vec::new(),
            _ => match value {
                Value::Array(items) => items,
                value => vec![value],
            },
        };
        let places = self.items_of(begin, end).filter(|places| places.len() == items.len());
        // kubectl writes the kind of a list after its items.
        let complete = if is_truncated { items.len().saturating_sub(1) } else { items.len() };
        if is_truncated {
            input.unclear.all = true;
            let place = places.as_ref().and_then(|places| places.last().copied()).unwrap_or(self.place(first));
            let reason = "the list has no kind, so its end is missing: export it again. The last item is not imported, and no \
                          existing User is removed from a Group by this import";
            input.reject(place, reason);
        }
        for (index, value) in items.into_iter().enumerate().take(complete) {
            let place = places.as_ref().map_or_else(|| self.place(first), |places| places[index]);
            if value.is_object() {
                found.push(Located { place, value });
            } else {
                input.reject(place, "is not an object");
            }
        }
    }

    /// Returns where the items of a block-style list begin: at hyphens with the indentation of the first one.
    fn items_of(&self, begin: usize, end: usize) -> Option<Vec<Place>> {
        let depth = |line: &str| line.starts_with("- ").then_some(0).or(line.starts_with("  - ").then_some(2));
        let lines = lines(&self.text[begin..end]).filter_map(|(offset, line)| Some((begin + offset, depth(line)?)));
        let lines: Vec<(usize, i32)> = lines.collect();
        let first = lines.first()?.1;
        Some(lines.iter().filter(|(_, depth)| *depth == first).map(|(offset, _)| self.place(*offset)).collect())
    }
}

/// Returns lines with their offsets.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut offset = 0;
    text.split_inclusive('\n').map(move |line| {
        offset += line.len();
        (offset - line.len(), line)
    })
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

/// Removes the position from an error of serde_json, because it is relative to the value, not to the file.
fn without_position(message: &str) -> &str {
    message.split(" at line ").next().unwrap_or(message)
}
