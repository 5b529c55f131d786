//! Query dialect: the syntax of filters, selectors and sort keys.
//!
//! ```text
//!  filterBy      = field "," value *( "," field "," value )     AND across fields, OR across values of one field
//!  fieldSelector = term *( "," term )    term = path ( "=" / "==" / "!=" ) value    AND across terms
//!  value         = [ operator ] text     operator = "lt:" / "lte:" / "gt:" / "gte:" / "neq:" / "in:"
//!  sortBy        = [ "-" ] field *( "," [ "-" ] field )
//! ```
//!
//! A `*` at either end of a text matches anything, `in:` takes alternatives separated by `|`, and a backslash escapes
//! the next character.

use super::field::{Field, FieldKind, Spaces, ValueError};
use super::query::{Comparison, Condition, Query, SortKey, ValueTest};
use super::selector;

/// Maximum number of filters, alternatives and label requirements.
pub const MAX_TERMS: usize = 256;

/// Operators, as listed in messages.
const OPERATORS: &str = "lt:, lte:, gt:, gte:, neq:, in:";

/// Maximum number of sort keys.
const MAX_SORT_KEYS: usize = 8;

/// An invalid query parameter.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{parameter}: {message}")]
pub struct InvalidParameter {
    /// Name of the parameter.
    pub parameter: &'static str,
    /// What is wrong, and what is allowed.
    pub message: String,
}

/// Why a part of a parameter is invalid. The message says what is allowed.
#[derive(Debug, thiserror::Error)]
enum TermError {
    #[error("a backslash must be followed by the character that it escapes")]
    DanglingBackslash,
    #[error("unknown operator {0}: (allowed: {OPERATORS}); if the value begins with it, write {0}\\:")]
    UnknownOperator(String),
    #[error("{0}: works only on fields with a single number, quantity, time or text; use neq: or in:")]
    NotComparable(String),
    #[error("{0}: needs a value")]
    MissingValue(String),
    #[error("* is allowed only at the start and the end of a value; for the character itself, write \\*")]
    MisplacedWildcard,
    /// Holds the noun of the field's kind.
    #[error("{0} allows no wildcard except * alone, which matches any value")]
    WildcardNotAllowed(&'static str),
    #[error(
        "{0:?} has a space where values of this field cannot have one. In a URL, + means a space: write %2B for a plus"
    )]
    MisplacedSpace(String),
    #[error(transparent)]
    Value(#[from] ValueError),
    #[error("!= can't be combined with an operator before the value")]
    NegatedOperator,
}

/// A character, and whether it is escaped by a backslash.
type Character = (char, bool);

impl Query {
    /// Adds the conditions of a `filterBy`.
    ///
    /// # Errors
    /// If the text names an unknown field or operator, or a value that the field cannot have.
    pub fn filter_by(&mut self, fields: &[Field], text: &str) -> Result<(), InvalidParameter> {
        let invalid = |message| InvalidParameter { parameter: "filterBy", message };
        let parts = split(&unescape(text).map_err(|error| invalid(error.to_string()))?, ',');
        if !parts.len().is_multiple_of(2) {
            return Err(invalid(format!("{text:?} must be pairs: field,value or field,value,field,value")));
        }
        for pair in parts.chunks(2) {
            let name = plain(&pair[0]);
            let field = fields.iter().position(|field| field.name == name).ok_or_else(|| {
                invalid(format!("unknown field {name:?}; allowed: {}", names(fields.iter().map(|field| field.name))))
            })?;
            let condition = self.conditions.iter().position(|other| other.is_open && other.field == field);
            let condition = condition.unwrap_or_else(|| {
                self.conditions.push(Condition { field, is_open: true, ..Condition::default() });
                self.conditions.len() - 1
            });
            read_value(&mut self.conditions[condition], &fields[field], &pair[1])
                .map_err(|error| invalid(format!("{name}: {error}")))?;
        }
        self.check_size("filterBy")
    }

    /// Adds the conditions of a field selector.
    ///
    /// # Errors
    /// Same as [`Query::filter_by`].
    pub fn field_selector(&mut self, fields: &[Field], text: &str) -> Result<(), InvalidParameter> {
        let invalid = |message| InvalidParameter { parameter: "fieldSelector", message };
        for term in split(&unescape(text).map_err(|error| invalid(error.to_string()))?, ',')
            .iter()
            .filter(|term| !term.is_empty())
        {
            let Some(at) = term.iter().position(|character| *character == ('=', false)) else {
                return Err(invalid(format!("{:?} must be path=value, path==value or path!=value", plain(term))));
            };
            let (path, mut value) = (&term[..at], &term[at + 1..]);
            let (path, is_negated) = match path.split_last() {
                Some((('!', false), path)) => (path, true),
                _ => (path, false),
            };
            if !is_negated && value.first() == Some(&('=', false)) {
                value = &value[1..];
            }
            let path = plain(path);
            let field = fields.iter().position(|field| field.path == path).ok_or_else(|| {
                invalid(format!("unknown field {path:?}; allowed: {}", names(fields.iter().map(|field| field.path))))
            })?;
            let mut condition = Condition { field, ..Condition::default() };
            read_value(&mut condition, &fields[field], value)
                .and_then(|()| if is_negated { negate(&mut condition) } else { Ok(()) })
                .map_err(|error| invalid(format!("{path}: {error}")))?;
            self.conditions.push(condition);
        }
        self.check_size("fieldSelector")
    }

    /// Adds the conditions of a label selector.
    ///
    /// # Errors
    /// If it is not a valid label selector.
    pub fn label_selector(&mut self, text: &str) -> Result<(), InvalidParameter> {
        let invalid = |error: selector::SelectorError| InvalidParameter {
            parameter: "labelSelector",
            message: error.to_string(),
        };
        self.labels.extend(selector::parse(text).map_err(invalid)?);
        self.check_size("labelSelector")
    }

    /// Sets the sort keys of a `sortBy`.
    ///
    /// # Errors
    /// If the text names a field that does not exist, cannot be sorted by, or is repeated.
    pub fn sort_by(&mut self, fields: &[Field], text: &str) -> Result<(), InvalidParameter> {
        let invalid = |message| Err(InvalidParameter { parameter: "sortBy", message });
        let sortable = || names(fields.iter().filter(|field| field.is_sortable).map(|field| field.name));
        for key in text.split(',') {
            let (name, is_descending) = key.strip_prefix('-').map_or((key, false), |name| (name, true));
            let Some(field) = fields.iter().position(|field| field.is_sortable && field.name == name) else {
                return invalid(format!(
                    "can't sort by {name:?}; allowed, with the prefix - for descending order: {}",
                    sortable()
                ));
            };
            if self.sort.iter().any(|key| key.field == field) {
                return invalid(format!("{name} is given twice"));
            }
            self.sort.push(SortKey { field, is_descending });
        }
        if self.sort.len() > MAX_SORT_KEYS {
            return invalid(format!("at most {MAX_SORT_KEYS} keys are allowed"));
        }
        Ok(())
    }

    fn check_size(&self, parameter: &'static str) -> Result<(), InvalidParameter> {
        let tests = self
            .conditions
            .iter()
            .map(|condition| condition.any.len() + condition.none.len() + condition.compare.len());
        // The values of a label requirement do not count, because they are looked up in a set, as in kube-apiserver.
        if tests.sum::<usize>() + self.labels.len() > MAX_TERMS {
            return Err(InvalidParameter {
                parameter,
                message: format!("at most {MAX_TERMS} terms are allowed in a query"),
            });
        }
        Ok(())
    }
}

fn names<'a>(all: impl Iterator<Item = &'a str>) -> String {
    all.collect::<Vec<_>>().join(", ")
}

fn unescape(text: &str) -> Result<Vec<Character>, TermError> {
    let mut characters = Vec::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        characters.push(match character {
            '\\' => (rest.next().ok_or(TermError::DanglingBackslash)?, true),
            character => (character, false),
        });
    }
    Ok(characters)
}

fn split(characters: &[Character], separator: char) -> Vec<Vec<Character>> {
    characters.split(|character| *character == (separator, false)).map(<[Character]>::to_vec).collect()
}

fn plain(characters: &[Character]) -> String {
    characters.iter().map(|(character, _)| character).collect()
}

/// Returns the word before the first colon and the rest, if the word looks like an operator.
fn operator(value: &[Character]) -> Option<(String, &[Character])> {
    let colon = value.iter().position(|character| *character == (':', false))?;
    let word = &value[..colon];
    let is_word = !word.is_empty() && word.iter().all(|(character, _)| character.is_ascii_lowercase());
    is_word.then(|| (plain(word), &value[colon + 1..]))
}

fn read_value(condition: &mut Condition, field: &Field, value: &[Character]) -> Result<(), TermError> {
    let Some((word, operand)) = operator(value) else {
        condition.any.push(read_test(field, value)?);
        return Ok(());
    };
    let comparison = match word.as_str() {
        "lt" => Comparison::Less,
        "lte" => Comparison::AtMost,
        "gt" => Comparison::Greater,
        "gte" => Comparison::AtLeast,
        "neq" => {
            condition.none.push(read_test(field, operand)?);
            return Ok(());
        }
        "in" => {
            for alternative in split(operand, '|') {
                condition.any.push(read_test(field, &alternative)?);
            }
            return Ok(());
        }
        _ => {
            return Err(TermError::UnknownOperator(word));
        }
    };
    if field.is_many || !field.kind.is_ordered() {
        return Err(TermError::NotComparable(word));
    }
    if operand.is_empty() {
        return Err(TermError::MissingValue(word));
    }
    check_spaces(field, operand)?;
    condition.compare.push((comparison, field.kind.read(&plain(operand))?));
    Ok(())
}

/// Rejects a space where values of the field cannot have one: it probably comes from a plus that was not encoded in the
/// URL.
fn check_spaces(field: &Field, value: &[Character]) -> Result<(), TermError> {
    let is_wrong = |(character, is_escaped): &Character| character.is_whitespace() && !is_escaped;
    let first = value.iter().find(|character| **character != ('*', false));
    let is_misplaced = match field.spaces {
        Spaces::Never => value.iter().any(is_wrong),
        Spaces::BetweenWords => first.is_some_and(is_wrong),
    };
    if is_misplaced { Err(TermError::MisplacedSpace(plain(value))) } else { Ok(()) }
}

fn read_test(field: &Field, value: &[Character]) -> Result<ValueTest, TermError> {
    check_spaces(field, value)?;
    let kind = field.kind;
    let (open_start, open_end) = (value.first() == Some(&('*', false)), value.last() == Some(&('*', false)));
    let mut inner = value;
    if open_start {
        inner = &inner[1..];
    }
    if open_end {
        inner = &inner[..inner.len().saturating_sub(1)];
    }
    if inner.contains(&('*', false)) {
        return Err(TermError::MisplacedWildcard);
    }
    let text = plain(inner);
    if open_start || open_end {
        if !text.is_empty() && kind != FieldKind::Text {
            return Err(TermError::WildcardNotAllowed(kind.noun()));
        }
        return Ok(ValueTest::Contains {
            text: FieldKind::Text.read(&text)?,
            open_start: open_start || text.is_empty(),
            open_end: open_end || text.is_empty(),
        });
    }
    // An empty text matches objects without a value.
    Ok(ValueTest::Equal(if text.is_empty() { Vec::new() } else { kind.read(&text)? }))
}

fn negate(condition: &mut Condition) -> Result<(), TermError> {
    if !condition.none.is_empty() || !condition.compare.is_empty() {
        return Err(TermError::NegatedOperator);
    }
    condition.none = std::mem::take(&mut condition.any);
    Ok(())
}
