//! Stand-in for Rancher's Steve: SQLite with a column and an index for each field, and the complete objects in a second
//! table.
//!
//! It is tuned: statements are prepared once per thread, the whole file is memory-mapped, nothing is synced to disk,
//! groups have a separate table with an index (Steve searches them as text), and the optimizer has statistics of the
//! data.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags, ToSql, params_from_iter};
use serde_json::Value;

use crate::found::{Found, list};
use crate::queries::{Answer, Query};

const SCHEMA: &str = "
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE objects (id INTEGER PRIMARY KEY, json BLOB NOT NULL);
CREATE TABLE users (
  id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE, email TEXT COLLATE NOCASE, displayName TEXT COLLATE NOCASE,
  domain TEXT COLLATE NOCASE, zone TEXT COLLATE NOCASE, state TEXT COLLATE NOCASE, lastLoginTime TEXT
);
CREATE TABLE memberships (grp TEXT NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (grp, id)) WITHOUT ROWID;
";

const INDEXES: &str = "
CREATE UNIQUE INDEX by_name ON users (name);
CREATE INDEX by_email ON users (email);
CREATE INDEX by_display_name ON users (displayName);
CREATE INDEX by_domain ON users (domain);
CREATE INDEX by_zone ON users (zone);
CREATE INDEX by_state ON users (state);
CREATE INDEX by_login ON users (lastLoginTime);
ANALYZE;
";

/// Settings of each connection.
const TUNING: &str = "
PRAGMA mmap_size = 4294967296;
PRAGMA cache_size = -65536;
PRAGMA temp_store = MEMORY;
PRAGMA query_only = ON;
";

thread_local! {
    static OPEN: RefCell<Option<Connection>> = const { RefCell::new(None) };
}

/// A database file of users.
pub(crate) struct Sqlite {
    path: PathBuf,
}

impl Sqlite {
    /// Writes these users to a new file.
    ///
    /// # Errors
    /// If it can't be written.
    pub(crate) fn create(path: &Path, users: &[Value]) -> Result<Self> {
        if path.exists() {
            std::fs::remove_file(path)?;
        }
        let mut connection = Connection::open(path)?;
        connection.execute_batch(SCHEMA)?;
        let transaction = connection.transaction()?;
        for (id, user) in (1_i64..).zip(users) {
            let text = |pointer: &str| user.pointer(pointer).and_then(Value::as_str);
            transaction
                .prepare_cached("INSERT INTO objects VALUES (?, ?)")?
                .execute((id, serde_json::to_vec(user)?))?;
            let values: [&dyn ToSql; 8] = [
                &id,
                &text("/metadata/name"),
                &text("/spec/email"),
                &text("/spec/displayName"),
                &text("/spec/domain"),
                &text("/spec/zone"),
                &text("/status/state"),
                &text("/status/lastLoginTime"),
            ];
            transaction.prepare_cached("INSERT INTO users VALUES (?, ?, ?, ?, ?, ?, ?, ?)")?.execute(values)?;
            for group in user["status"]["groups"].as_array().into_iter().flatten() {
                transaction
                    .prepare_cached("INSERT OR IGNORE INTO memberships VALUES (?, ?)")?
                    .execute((group.as_str(), id))?;
            }
        }
        transaction.commit()?;
        connection.execute_batch(INDEXES)?;
        Ok(Self { path: path.to_owned() })
    }

    /// Returns the response to a query, using the connection of this thread.
    ///
    /// # Errors
    /// If SQLite reports an error.
    pub(crate) fn answer(&self, query: &Query) -> Result<Vec<u8>> {
        OPEN.with_borrow_mut(|open| {
            if open.is_none() {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                let connection = Connection::open_with_flags(&self.path, flags)?;
                connection.execute_batch(TUNING)?;
                *open = Some(connection);
            }
            answer(open.as_ref().context("the connection is not open")?, query)
        })
    }
}

fn answer(connection: &Connection, query: &Query) -> Result<Vec<u8>> {
    let (from, values) = conditions(query);
    let items = |order: &str, limit: i64, offset: u64| -> Result<Vec<Vec<u8>>> {
        // The page is selected first, and then only its objects are read. Without a limit, or with another kind of
        // join, SQLite would discard the order of the subquery.
        let sql = format!(
            "SELECT json FROM (SELECT u.id {from} {order} LIMIT {limit} OFFSET {offset}) AS page \
             CROSS JOIN objects ON objects.id = page.id"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params_from_iter(&values), |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    };
    let total = || -> Result<usize> {
        let mut statement = connection.prepare_cached(&format!("SELECT COUNT(*) {from}"))?;
        Ok(statement.query_one(params_from_iter(&values), |row| row.get(0))?)
    };
    let found = match query.answer {
        Answer::Single => return items("", 1, 0)?.into_iter().next().context("no such user"),
        Answer::Count => Found { total: total()?, items: vec![] },
        Answer::All => {
            let items = items("ORDER BY u.name", -1, 0)?;
            Found { total: items.len(), items }
        }
        Answer::Page { offset, limit, by_login } => {
            let order = if by_login { "ORDER BY u.lastLoginTime DESC, u.name" } else { "ORDER BY u.name" };
            Found { total: total()?, items: items(order, limit.try_into()?, offset)? }
        }
        Answer::Permissions => anyhow::bail!("the SQLite stand-in does not support permissions"),
    };
    Ok(list(&found))
}

/// Returns the FROM and WHERE clauses, and their parameters.
fn conditions(query: &Query) -> (String, Vec<String>) {
    let (mut from, mut tests, mut values) = ("FROM users u".to_owned(), Vec::new(), Vec::new());
    if let Some(group) = &query.condition.group {
        from.push_str(" JOIN memberships m ON m.id = u.id");
        tests.push("m.grp = ?".to_owned());
        values.push(group.clone());
    }
    for (field, value) in &query.condition.equal {
        tests.push(format!("u.{field} = ?"));
        values.push(value.clone());
    }
    if let Some(text) = &query.condition.within {
        tests.push("u.displayName LIKE ?".to_owned());
        values.push(format!("%{text}%"));
    }
    if !tests.is_empty() {
        from.push_str(" WHERE ");
        from.push_str(&tests.join(" AND "));
    }
    (from, values)
}
