//! Stand-in for KubeSphere: all objects are in memory, each query scans all of them, and fields are read by JSON path.

use std::cmp::Ordering;

use anyhow::{Context, Result};
use serde_json::Value;
use serde_json_path::JsonPath;

use crate::found::{Found, list};
use crate::queries::{Answer, Condition, Query};

/// Scans all users for each query.
pub(crate) struct Scan {
    users: Vec<Value>,
    name: JsonPath,
    login: JsonPath,
}

/// A condition with parsed paths. They are parsed once per query; KubeSphere parses them for each object.
struct Parsed {
    equal: Vec<(JsonPath, String)>,
    within: Option<(JsonPath, String)>,
    group: Option<(JsonPath, String)>,
}

impl Scan {
    /// Creates a scan over these users.
    ///
    /// # Errors
    /// If a path is invalid.
    pub(crate) fn new(users: Vec<Value>) -> Result<Self> {
        Ok(Self { users, name: path("name")?, login: path("lastLoginTime")? })
    }

    /// Returns the response to a query.
    ///
    /// # Errors
    /// If a field has no path, or no user is found for [`Answer::Single`].
    pub(crate) fn answer(&self, query: &Query) -> Result<Vec<u8>> {
        let parsed = parse(&query.condition)?;
        let mut found: Vec<&Value> = self.users.iter().filter(|user| parsed.holds(user)).collect();
        let total = found.len();
        match query.answer {
            Answer::Single => return Ok(serde_json::to_vec(found.first().context("no such user")?)?),
            Answer::Count => return Ok(list(&Found { total, items: vec![] })),
            Answer::All => self.sort(&mut found, false),
            Answer::Page { offset, limit, by_login } => {
                self.sort(&mut found, by_login);
                let (offset, limit) = (usize::try_from(offset)?, usize::try_from(limit)?);
                found = found.into_iter().skip(offset).take(limit).collect();
            }
            Answer::Permissions => anyhow::bail!("the scan does not support permissions"),
        }
        let items = found.into_iter().map(serde_json::to_vec).collect::<Result<_, _>>()?;
        Ok(list(&Found { total, items }))
    }

    fn sort(&self, found: &mut [&Value], by_login: bool) {
        let compare = |path: &JsonPath, a: &Value, b: &Value| first(path, a).cmp(&first(path, b));
        found.sort_by(|a, b| {
            let by_login = if by_login { compare(&self.login, b, a) } else { Ordering::Equal };
            by_login.then_with(|| compare(&self.name, a, b))
        });
    }
}

impl Parsed {
    fn holds(&self, user: &Value) -> bool {
        self.equal.iter().all(|(path, value)| first(path, user).is_some_and(|found| found.eq_ignore_ascii_case(value)))
            && self.within.as_ref().is_none_or(|(path, text)| {
                first(path, user).is_some_and(|found| found.to_lowercase().contains(text.as_str()))
            })
            && self.group.as_ref().is_none_or(|(path, group)| path.query(user).iter().any(|found| *found == group))
    }
}

fn parse(condition: &Condition) -> Result<Parsed> {
    let equal = condition.equal.iter().map(|(field, value)| anyhow::Ok((path(field)?, value.clone())));
    let within = condition.within.as_ref().map(|text| anyhow::Ok((path("displayName")?, text.to_lowercase())));
    let group = condition.group.as_ref().map(|group| anyhow::Ok((path("groups")?, group.clone())));
    Ok(Parsed { equal: equal.collect::<Result<_>>()?, within: within.transpose()?, group: group.transpose()? })
}

fn first<'a>(path: &JsonPath, user: &'a Value) -> Option<&'a str> {
    path.query(user).first().and_then(Value::as_str)
}

fn path(field: &str) -> Result<JsonPath> {
    let path = match field {
        "name" => "$.metadata.name",
        "email" => "$.spec.email",
        "domain" => "$.spec.domain",
        "zone" => "$.spec.zone",
        "displayName" => "$.spec.displayName",
        "state" => "$.status.state",
        "groups" => "$.status.groups[*]",
        "lastLoginTime" => "$.status.lastLoginTime",
        other => anyhow::bail!("{other} has no path"),
    };
    Ok(JsonPath::parse(path)?)
}
