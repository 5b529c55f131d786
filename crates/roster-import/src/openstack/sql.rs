//! Reads the CREATE TABLE and INSERT statements of `mysqldump`.
//!
//! A full SQL parser is not needed: `mysqldump` writes a small, regular subset, and a reader of bytes keeps line numbers.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::row::{Row, Tables};
use crate::draft::{Input, Place};

/// Reads every table of the dump.
pub(super) fn read(bytes: &[u8], input: &mut Input) -> Tables {
    let mut reader = Reader { rest: bytes, line: 1 };
    let mut columns: HashMap<String, Vec<String>> = HashMap::new();
    let mut tables = Tables::new();
    while reader.skip_to_statement() {
        let place = Place::line(reader.line);
        let result = match reader.word().as_str() {
            "CREATE" => reader.create(&mut columns),
            "INSERT" => reader.insert(&columns, &mut tables),
            _ => Some(()),
        };
        if result.is_none() {
            input.reject(place, "is not a statement of mysqldump");
        }
        reader.end_of_statement();
    }
    tables
}

/// Reader of SQL tokens without lookahead beyond the next token. Its functions return `None` on unexpected input.
struct Reader<'a> {
    rest: &'a [u8],
    line: usize,
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

    /// Skips whitespace, comments and empty statements. Returns whether there is another statement.
    fn skip_to_statement(&mut self) -> bool {
        loop {
            self.skip_while(|byte| byte.is_ascii_whitespace() || byte == b';');
            if self.rest.starts_with(b"--") || self.rest.starts_with(b"#") {
                self.skip_while(|byte| byte != b'\n');
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

    /// Skips to after the semicolon that ends the statement.
    fn end_of_statement(&mut self) {
        while let Some(byte) = self.rest.first().copied() {
            match byte {
                b'\'' | b'`' | b'"' => drop(self.quoted(byte)),
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

    /// Reads a name, with or without backquotes.
    fn name(&mut self) -> Option<String> {
        self.space();
        match self.rest.first()? {
            b'`' => self.quoted(b'`'),
            _ => Some(self.word().to_ascii_lowercase()).filter(|name| !name.is_empty()),
        }
    }

    /// Reads quoted text with MySQL's escapes.
    fn quoted(&mut self, quote: u8) -> Option<String> {
        self.take(quote)?;
        let mut text = Vec::new();
        loop {
            match self.bump()? {
                b'\\' if quote != b'`' => text.push(match self.bump()? {
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
    fn create(&mut self, columns: &mut HashMap<String, Vec<String>>) -> Option<()> {
        if self.word() != "TABLE" {
            return Some(());
        }
        let table = self.name()?;
        if table == "if" {
            return Some(());
        }
        self.take(b'(')?;
        let mut names = Vec::new();
        loop {
            self.space();
            if self.rest.first() == Some(&b'`') {
                names.push(self.quoted(b'`')?);
            }
            if !self.skip_definition()? {
                columns.insert(table, names);
                return Some(());
            }
        }
    }

    /// Skips to after the comma that ends a definition. Returns false after the parenthesis that ends the table.
    fn skip_definition(&mut self) -> Option<bool> {
        let mut depth = 0_usize;
        loop {
            match self.rest.first()? {
                quote @ (b'\'' | b'`' | b'"') => drop(self.quoted(*quote)?),
                b',' if depth == 0 => return self.bump().map(|_| true),
                b')' if depth == 0 => return self.bump().map(|_| false),
                byte => {
                    depth = depth + usize::from(*byte == b'(') - usize::from(*byte == b')');
                    self.bump();
                }
            }
        }
    }

    /// Reads `INSERT INTO name [(column, …)] VALUES (…), (…)`.
    fn insert(&mut self, columns: &HashMap<String, Vec<String>>, tables: &mut Tables) -> Option<()> {
        while self.word() != "INTO" {
            self.space();
            self.rest.first().filter(|byte| byte.is_ascii_alphabetic())?;
        }
        let table = self.name()?;
        let mut names = columns.get(&table).cloned().unwrap_or_default();
        if self.take(b'(').is_some() {
            names.clear();
            loop {
                names.push(self.name()?);
                if self.take(b',').is_none() {
                    self.take(b')')?;
                    break;
                }
            }
        }
        (self.word() == "VALUES").then_some(())?;
        loop {
            self.space();
            let place = Place::line(self.line);
            let values = self.row()?;
            (values.len() == names.len()).then_some(())?;
            let fields: Map<String, Value> = names.iter().cloned().zip(values).collect();
            tables.entry(table.clone()).or_default().push(Row { place, fields });
            if self.take(b',').is_none() {
                return Some(());
            }
        }
    }

    fn row(&mut self) -> Option<Vec<Value>> {
        self.take(b'(')?;
        let mut values = Vec::new();
        loop {
            self.space();
            values.push(match self.rest.first()? {
                quote @ (b'\'' | b'"') => self.quoted(*quote)?.into(),
                _ => self.bare()?,
            });
            if self.take(b',').is_none() {
                self.take(b')')?;
                return Some(values);
            }
        }
    }

    /// Reads a number, NULL, or text with a character set introducer (`_utf8mb4 'text'`).
    fn bare(&mut self) -> Option<Value> {
        let end = self.rest.iter().position(|byte| matches!(byte, b',' | b')' | b'\'' | b' ' | b'\n'))?;
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if word.starts_with(b"_") {
            self.space();
            return self.quoted(b'\'').map(Value::from);
        }
        let word = str::from_utf8(word).ok().filter(|word| !word.is_empty())?;
        Some(if word.eq_ignore_ascii_case("null") { Value::Null } else { word.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_come_from_the_table_or_from_the_statement() {
        let dump = b"-- a comment\n/*!40101 SET x=1 */;\nCREATE TABLE `user` (\n  `id` varchar(64) NOT NULL DEFAULT 'a,b)',\n  `n` decimal(3,2),\n  PRIMARY KEY (`id`)\n) ENGINE=InnoDB;\n\
            INSERT INTO `user` VALUES ('it''s \\'x\\'\\n;',1),(_utf8mb4 'b',NULL);\nINSERT INTO `group` (`id`, `name`) VALUES\n('1', 'a');\n";
        let mut input = Input::default();
        let tables = read(dump, &mut input);
        assert_eq!(input.rejected, []);
        assert_eq!((tables["user"][0].text("id").as_str(), tables["user"][0].text("n").as_str()), ("it's 'x'\n;", "1"));
        assert_eq!((tables["user"][1].text("id").as_str(), tables["user"][1].text("n").as_str()), ("b", ""));
        assert_eq!((tables["group"][0].text("name").as_str(), tables["group"][0].place.line), ("a", 10));
    }

    #[test]
    fn rows_with_a_wrong_number_of_values_are_rejected() {
        let mut input = Input::default();
        read(b"INSERT INTO `user` VALUES (1);\nINSERT INTO user (id) VALUES (1);", &mut input);
        assert_eq!(input.rejected[0].place.line, 1);
        assert_eq!(input.rejected.len(), 1);
    }

    proptest! {
        #[test]
        fn arbitrary_statements_do_not_panic(text in "(INSERT INTO |CREATE TABLE |`a`|\\(|\\)|'|\\\\|,|;|VALUES|x| |\n|/\\*){0,40}") {
            read(text.as_bytes(), &mut Input::default());
        }
    }
}
