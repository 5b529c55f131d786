//! Reads the CREATE TABLE, INSERT, REPLACE and COPY statements of `mysqldump`, `pg_dump` and SQLite's `.dump`.
//!
//! A full SQL parser is not needed, because these programs write a small, regular subset. A reader of bytes can also
//! count lines.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::copy;
use super::row::{Row, Tables};
use crate::draft::{Input, Place};

/// Words that begin a constraint or an index in CREATE TABLE, where a column is expected.
const CONSTRAINTS: [&str; 9] =
    ["PRIMARY", "UNIQUE", "KEY", "INDEX", "CONSTRAINT", "FOREIGN", "CHECK", "FULLTEXT", "SPATIAL"];

/// Reads every table of the dump.
pub(super) fn read(bytes: &[u8], input: &mut Input) -> Tables {
    let mut reader = Reader { rest: bytes, line: 1, escapes: true };
    let mut columns: HashMap<String, Vec<String>> = HashMap::new();
    let mut tables = Tables::new();
    while reader.skip_to_statement() {
        let place = Place::line(reader.line);
        let result = match reader.word().as_str() {
            "CREATE" => reader.create(&mut columns),
            "INSERT" | "REPLACE" => reader.insert(&columns, &mut tables),
            "COPY" => reader.copy_header(),
            // PostgreSQL and SQLite do not escape with backslashes.
            "SET" if reader.word() == "STANDARD_CONFORMING_STRINGS" => Some(reader.without_escapes()),
            "PRAGMA" => Some(reader.without_escapes()),
            _ => Some(Statement::Other),
        };
        if result.is_none() {
            input.reject(place, "is not a statement of mysqldump or pg_dump");
        }
        reader.end_of_statement();
        if let Some(Statement::Copy { table, names }) = result {
            reader.skip_line();
            reader.copy_rows(&table, &names, &mut tables, input);
        }
    }
    for table in columns.into_keys() {
        tables.entry(table).or_default();
    }
    tables
}

/// Result of reading the beginning of a statement.
enum Statement {
    /// `COPY table (names) FROM stdin;`. Lines with rows follow it.
    Copy {
        table: String,
        names: Vec<String>,
    },
    Other,
}

/// Reader of SQL tokens without lookahead beyond the next token. Its functions return `None` on unexpected input.
struct Reader<'a> {
    rest: &'a [u8],
    line: usize,
    /// Whether a backslash in quoted text escapes the next character, as in MySQL.
    escapes: bool,
}

impl Reader<'_> {
    fn bump(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        self.line += usize::from(*first == b'\n');
        Some(*first)
    }

    fn skip_while(&mut self, is: impl Fn(u8) -> bool) {
        while self.rest.first().is_some_and(|byte| is(*byte)) {
            self.bump();
        }
    }

    fn space(&mut self) {
        self.skip_while(|byte| byte.is_ascii_whitespace());
    }

    fn skip_line(&mut self) {
        self.skip_while(|byte| byte != b'\n');
        self.bump();
    }

    fn without_escapes(&mut self) -> Statement {
        self.escapes = false;
        Statement::Other
    }

    /// Skips whitespace, comments, empty statements and commands of psql, such as `\restrict`. Returns whether there is
    /// another statement.
    fn skip_to_statement(&mut self) -> bool {
        loop {
            self.skip_while(|byte| byte.is_ascii_whitespace() || byte == b';');
            if self.rest.starts_with(b"--") || matches!(self.rest.first(), Some(b'#' | b'\\')) {
                self.skip_line();
            } else if self.rest.starts_with(b"/*") {
                while !self.rest.is_empty() && !self.rest.starts_with(b"*/") {
                    self.bump();
                }
                self.bump();
                self.bump();
            } else {
                return !self.rest.is_empty();
            }
        }
    }

    /// Skips past the semicolon that ends the statement.
    fn end_of_statement(&mut self) {
        while let Some(byte) = self.rest.first().copied() {
            match byte {
                b'\'' | b'`' | b'"' => drop(self.quoted(byte, self.escapes)),
                b';' => {
                    self.bump();
                    return;
                }
                _ => {
                    self.bump();
                }
            }
        }
    }

    fn word(&mut self) -> String {
        self.space();
        let end =
            self.rest.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        String::from_utf8_lossy(word).to_ascii_uppercase()
    }

    fn take(&mut self, expected: u8) -> Option<()> {
        self.space();
        self.rest.first().filter(|byte| **byte == expected)?;
        self.bump().map(|_| ())
    }

    /// Reads a name, with or without quotes.
    fn name(&mut self) -> Option<String> {
        self.space();
        match *self.rest.first()? {
            quote @ (b'`' | b'"') => self.quoted(quote, false),
            _ => Some(self.word().to_ascii_lowercase()).filter(|name| !name.is_empty()),
        }
    }

    /// Reads the name of a table, without its database or schema, as in `public."user"`.
    fn table(&mut self) -> Option<String> {
        let mut name = self.name()?;
        while self.take(b'.').is_some() {
            name = self.name()?;
        }
        Some(name)
    }

    /// Reads quoted text, with MySQL's escapes if `escapes` is set.
    fn quoted(&mut self, quote: u8, escapes: bool) -> Option<String> {
        self.take(quote)?;
        let mut text = Vec::new();
        loop {
            match self.bump()? {
                b'\\' if escapes && quote != b'`' => text.push(match self.bump()? {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'0' => 0,
                    b'Z' => 26,
                    other => other,
                }),
                byte if byte == quote && self.rest.first() == Some(&quote) => text.push(self.bump()?),
                byte if byte == quote => return Some(String::from_utf8_lossy(&text).into_owned()),
                byte => text.push(byte),
            }
        }
    }

    /// Reads the column names of `CREATE TABLE name (column type …, column …, KEY …)`.
    fn create(&mut self, columns: &mut HashMap<String, Vec<String>>) -> Option<Statement> {
        if self.word() != "TABLE" {
            return Some(Statement::Other);
        }
        let mut table = self.table()?;
        if table == "if" {
            (self.word() == "NOT" && self.word() == "EXISTS").then_some(())?;
            table = self.table()?;
        }
        self.take(b'(')?;
        let mut names = Vec::new();
        loop {
            self.space();
            let is_quoted = matches!(self.rest.first(), Some(b'`' | b'"'));
            let name = self.name()?;
            if is_quoted || !CONSTRAINTS.contains(&name.to_ascii_uppercase().as_str()) {
                names.push(name);
            }
            if !self.skip_definition()? {
                columns.insert(table, names);
                return Some(Statement::Other);
            }
        }
    }

    /// Skips past the comma that ends a definition. Returns `false` at the parenthesis that ends the table.
    fn skip_definition(&mut self) -> Option<bool> {
        let mut depth = 0_usize;
        loop {
            match self.rest.first()? {
                quote @ (b'\'' | b'`' | b'"') => drop(self.quoted(*quote, self.escapes)?),
                b',' if depth == 0 => return self.bump().map(|_| true),
                b')' if depth == 0 => return self.bump().map(|_| false),
                byte => {
                    depth = depth + usize::from(*byte == b'(') - usize::from(*byte == b')');
                    self.bump();
                }
            }
        }
    }

    /// Reads `(name, …)`.
    fn names(&mut self) -> Option<Vec<String>> {
        self.take(b'(')?;
        let mut names = Vec::new();
        loop {
            names.push(self.name()?);
            if self.take(b',').is_none() {
                return self.take(b')').map(|()| names);
            }
        }
    }

    /// Reads `COPY name (column, …) FROM stdin`.
    fn copy_header(&mut self) -> Option<Statement> {
        let (table, names) = (self.table()?, self.names()?);
        (self.word() == "FROM" && self.word() == "STDIN").then_some(Statement::Copy { table, names })
    }

    /// Reads the lines after `COPY`, up to the one with `\.`.
    fn copy_rows(&mut self, table: &str, names: &[String], tables: &mut Tables, input: &mut Input) {
        let begin = Place::line(self.line);
        let rows = tables.entry(table.to_owned()).or_default();
        while !self.rest.is_empty() {
            let place = Place::line(self.line);
            let line = self.rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
            self.skip_line();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line == br"\." {
                return;
            }
            let values = copy::values(line);
            if values.len() == names.len() {
                let fields = names.iter().cloned().zip(values).collect();
                rows.push(Row { place, fields });
            } else {
                let reason = format!("has {} values, but COPY {table} has {} columns", values.len(), names.len());
                input.reject(place, reason);
            }
        }
        input.reject(begin, format!("the rows of COPY {table} do not end with a line \\."));
    }

    /// Reads `INSERT INTO name [(column, …)] VALUES (…), (…)`, or the same with REPLACE.
    fn insert(&mut self, columns: &HashMap<String, Vec<String>>, tables: &mut Tables) -> Option<Statement> {
        while self.word() != "INTO" {
            self.space();
            self.rest.first().filter(|byte| byte.is_ascii_alphabetic())?;
        }
        let table = self.table()?;
        self.space();
        let names = match self.rest.first() {
            Some(b'(') => self.names()?,
            _ => columns.get(&table).cloned().unwrap_or_default(),
        };
        (self.word() == "VALUES").then_some(())?;
        loop {
            self.space();
            let place = Place::line(self.line);
            let values = self.row()?;
            (values.len() == names.len()).then_some(())?;
            let fields: Map<String, Value> = names.iter().cloned().zip(values).collect();
            tables.entry(table.clone()).or_default().push(Row { place, fields });
            if self.take(b',').is_none() {
                return Some(Statement::Other);
            }
        }
    }

    fn row(&mut self) -> Option<Vec<Value>> {
        self.take(b'(')?;
        let mut values = Vec::new();
        loop {
            self.space();
            values.push(match self.rest.first()? {
                quote @ (b'\'' | b'"') => self.quoted(*quote, self.escapes)?.into(),
                _ => self.bare()?,
            });
            if self.take(b',').is_none() {
                self.take(b')')?;
                return Some(values);
            }
        }
    }

    /// Reads a number, NULL, or text with a prefix: a character set (`_utf8mb4 'text'`), or PostgreSQL's `E'text'`, in which
    /// backslashes escape.
    fn bare(&mut self) -> Option<Value> {
        let end = self.rest.iter().position(|byte| matches!(byte, b',' | b')' | b'\'' | b' ' | b'\n'))?;
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if word.starts_with(b"_") {
            self.space();
            return self.quoted(b'\'', self.escapes).map(Value::from);
        }
        if word.eq_ignore_ascii_case(b"E") && self.rest.starts_with(b"'") {
            return self.quoted(b'\'', true).map(Value::from);
        }
        let word = str::from_utf8(word).ok().filter(|word| !word.is_empty())?;
        Some(if word.eq_ignore_ascii_case("null") { Value::Null } else { word.into() })
    }
}

#[cfg(test)]
#[path = "sql_tests.rs"]
mod tests;
