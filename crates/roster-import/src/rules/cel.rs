//! Runs CEL rules, with the functions that Kubernetes adds to the language.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cel::extractors::This;
use cel::objects::Key;
use cel::{Context, Env, Value as Cel};
use jiff::Timestamp;
use regex::Regex;
use roster_api::schema::UNIQUE_BY;
use serde_json::Value;

use super::schema::{Rule, Schema};

/// Maximum number of cached results for text values. Imports repeat values such as time zones thousands of times.
const MAX_CACHED: usize = 16_384;

/// Compiles rules and runs them.
pub(super) struct Engine {
    env: Arc<Env>,
    context: Context<'static, 'static>,
    rules: usize,
    verdicts: RefCell<HashMap<(usize, String), bool>>,
}

impl Default for Engine {
    fn default() -> Self {
        let env = Arc::new(Env::stdlib());
        let mut context = Context::with_env(Arc::clone(&env));
        declare(&mut context).expect("none of the names belongs to the standard library");
        Self { env, context, rules: 0, verdicts: RefCell::default() }
    }
}

impl Engine {
    pub(super) fn compile(&mut self, rule: &Value, message: &Value) -> Rule {
        let rule = rule.as_str().unwrap_or_default();
        let (start, end) = UNIQUE_BY;
        let source = match rule.strip_prefix(start).and_then(|rest| rest.strip_suffix(end)) {
            // The interpreter does not support comprehensions with two variables.
            Some(key) => format!("isUnique(self.map(item, {key}))"),
            // The interpreter's own `matches` compiles its pattern on every call.
            None => rule.replace(".matches(", ".matchesPattern("),
        };
        self.rules += 1;
        Rule {
            id: self.rules,
            program: self.env.compile(&source).expect("kube-apiserver accepts the rule, so it is valid CEL"),
            message: message.as_str().unwrap_or_default().to_owned(),
        }
    }

    /// Returns the messages of the rules that `value` violates.
    pub(super) fn broken<'a>(
        &'a self,
        schema: &'a Schema,
        rules: &'a [Rule],
        value: &'a Value,
    ) -> impl Iterator<Item = String> + 'a {
        rules.iter().filter(move |rule| !self.holds(schema, rule, value)).map(|rule| rule.message.clone())
    }

    fn holds(&self, schema: &Schema, rule: &Rule, value: &Value) -> bool {
        let key = value.as_str().map(|text| (rule.id, text.to_owned()));
        if let Some(verdict) = key.as_ref().and_then(|key| self.verdicts.borrow().get(key).copied()) {
            return verdict;
        }
        let mut context = self.context.new_inner_scope();
        context.add_variable_from_value("self", to_cel(schema, value));
        // As in kube-apiserver, an error counts as a violation.
        let verdict = matches!(rule.program.execute(&context), Ok(Cel::Bool(true)));
        let mut verdicts = self.verdicts.borrow_mut();
        if let Some(key) = key.filter(|_| verdicts.len() < MAX_CACHED) {
            verdicts.insert(key, verdict);
        }
        verdict
    }
}

/// Declares the functions of Kubernetes that the CRDs use. Quantities and URLs are represented as text and timestamps as
/// integers, because the rules only compare them or read their parts.
fn declare(context: &mut Context<'static, 'static>) -> Result<(), cel::DeclarationError> {
    context.add_function("lowerAscii", |This(text): This<Arc<String>>| text.to_ascii_lowercase())?;
    let patterns = Patterns::default();
    context.add_function("matchesPattern", move |This(text): This<Arc<String>>, pattern: Arc<String>| {
        patterns.get(&pattern).is_some_and(|pattern| pattern.is_match(&text))
    })?;
    let patterns = Patterns::default();
    context.add_function("findAll", move |This(text): This<Arc<String>>, pattern: Arc<String>| {
        let found =
            patterns.get(&pattern).map(|pattern| pattern.find_iter(&text).map(|found| found.as_str().into()).collect());
        Cel::List(Arc::new(found.unwrap_or_default()))
    })?;
    context.add_function("isUnique", |keys: Arc<Vec<Cel>>| {
        let mut seen = HashSet::new();
        keys.iter().all(|key| matches!(key, Cel::String(key) if seen.insert(Arc::clone(key))))
    })?;
    context.add_function("isCIDR", |text: Arc<String>| is_cidr(&text))?;
    context.add_function("isURL", |text: Arc<String>| url(&text).is_some())?;
    context.add_function("url", |text: Arc<String>| text.to_string())?;
    context.add_function("getScheme", |This(text): This<Arc<String>>| {
        url(&text).and_then(|url| url.scheme_str().map(str::to_owned)).unwrap_or_default()
    })?;
    context.add_function("getHostname", |This(text): This<Arc<String>>| {
        url(&text).and_then(|url| url.host().map(str::to_owned)).unwrap_or_default()
    })?;
    context.add_function("timestamp", |text: Arc<String>| microseconds(&text))
}

/// Cache of compiled patterns. Invalid ones are `None`.
#[derive(Default)]
struct Patterns(std::sync::Mutex<HashMap<String, Option<Regex>>>);

impl Patterns {
    fn get(&self, pattern: &str) -> Option<Regex> {
        let mut known = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = known.get(pattern) {
            return known.clone();
        }
        // The patterns of the CRDs mean the same in Go's and Rust's syntax. Rust rejects needless escapes that Go accepts.
        known.entry(pattern.to_owned()).or_insert(Regex::new(pattern).ok()).clone()
    }
}

/// Returns whether the text is a CIDR by Go's rules: no leading zeros, no zone, no IPv4-mapped IPv6 address.
fn is_cidr(text: &str) -> bool {
    text.parse::<ipnet::IpNet>().is_ok_and(|network| match network {
        ipnet::IpNet::V4(_) => true,
        ipnet::IpNet::V6(network) => network.addr().to_ipv4_mapped().is_none(),
    })
}

fn url(text: &str) -> Option<axum::http::Uri> {
    text.parse().ok().filter(|url: &axum::http::Uri| url.scheme().is_some() && url.authority().is_some())
}

fn microseconds(text: &str) -> i64 {
    text.parse::<Timestamp>().map_or(i64::MAX, Timestamp::as_microsecond)
}

fn to_cel(schema: &Schema, value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| Cel::Float(number.as_f64().unwrap_or(f64::NAN)), Cel::Int)
        }
        Value::String(text) if schema.is_time => Cel::Int(microseconds(text)),
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => {
            let unknown = Schema::default();
            let schema = schema.items.as_deref().unwrap_or(&unknown);
            Cel::List(Arc::new(items.iter().map(|item| to_cel(schema, item)).collect()))
        }
        Value::Object(fields) => {
            let unknown = Schema::default();
            let of = |name: &str| schema.properties.get(name).or(schema.values.as_deref()).unwrap_or(&unknown);
            let entry = |(name, value): (&String, &Value)| (Key::from(name.clone()), to_cel(of(name), value));
            Cel::from(fields.iter().map(entry).collect::<HashMap<Key, Cel>>())
        }
    }
}
