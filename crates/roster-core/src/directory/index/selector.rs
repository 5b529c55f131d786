//! Label selectors, with the grammar and semantics of Kubernetes (`Parse` in `k8s.io/apimachinery/pkg/labels`).
//!
//! ```text
//!  selector    = [ requirement *( "," requirement ) ]
//!  requirement = key / "!" key / key ( "=" / "==" / "!=" / ">" / "<" ) value / key ( "in" / "notin" ) "(" values ")"
//! ```
//!
//! The crate `kube` can write selectors but not parse them. One difference is deliberate: the parser of Kubernetes
//! ignores everything after a NUL, so that such a selector may match everything. Here, a NUL is invalid.

use std::collections::BTreeSet;

use roster_api::syntax;

/// A requirement on one label.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Requirement {
    /// Key of the label.
    pub key: String,
    /// What must hold for its value.
    pub operator: Operator,
}

/// What must hold for the value of a label.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Operator {
    /// The label exists, with one of these values. Also `=` and `==`.
    In(BTreeSet<String>),
    /// The label does not exist, or has another value. Also `!=`.
    NotIn(BTreeSet<String>),
    /// The label exists.
    Exists,
    /// The label does not exist.
    DoesNotExist,
    /// The label exists, and its value is an integer greater than this.
    Greater(i64),
    /// The label exists, and its value is an integer less than this.
    Less(i64),
}

impl Operator {
    /// Returns whether it holds for the value of a label; `None` if there is no such label.
    pub fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::In(values) => value.is_some_and(|value| values.contains(value)),
            Self::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
            Self::Greater(bound) => number().is_some_and(|value| value > *bound),
            Self::Less(bound) => number().is_some_and(|value| value < *bound),
        }
    }
}

/// Why a label selector is invalid. The message says what is allowed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SelectorError {
    /// The text contains a NUL.
    #[error("must not contain NUL")]
    Nul,
    /// Nothing, or something other than a key, follows a comma.
    #[error("a requirement must follow each comma")]
    DanglingComma,
    /// Something other than a comma follows a requirement.
    #[error("{0:?} is not a label value: requirements must be separated by commas")]
    MissingComma(String),
    /// A key is followed by something other than an operator.
    #[error("{key} {found:?}: a key may be followed by =, ==, !=, >, <, in or notin")]
    UnknownOperator {
        /// The key.
        key: String,
        /// What follows it.
        found: String,
    },
    /// The bound of a comparison is not an integer of 64 bits.
    #[error("{key}: > and < compare with a whole number, not {found:?}")]
    NotANumber {
        /// The key.
        key: String,
        /// The value.
        found: String,
    },
    /// `in` or `notin` without an opening parenthesis. Contains the key.
    #[error("{0}: in and notin need values in parentheses: (a,b)")]
    MissingValues(String),
    /// `in` or `notin` without a closing parenthesis. Contains the key.
    #[error("{0}: the values lack a closing parenthesis")]
    UnclosedParenthesis(String),
    /// Not a label key.
    #[error(
        "{0:?} is not a label key; allowed are key, !key, key=value, key!=value, key>1, key<1, key in (a,b) and key notin \
         (a,b), with at most 63 letters, digits, -, _ and . in a key, and a DNS name and / before it"
    )]
    InvalidKey(String),
    /// Not a label value.
    #[error("{0:?} is not a label value: at most 63 letters, digits, -, _ and ., with a letter or digit at both ends")]
    InvalidValue(String),
}

/// Parses a label selector. An empty one has no requirements.
///
/// # Errors
/// If kube-apiserver rejects it, or it contains a NUL.
pub fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { tokens: scan(text)?, next: 0 };
    let mut requirements = Vec::new();
    while parser.peek() != Token::End {
        requirements.push(parser.requirement()?);
        match parser.take() {
            Token::End => break,
            Token::Comma if matches!(parser.peek(), Token::Word(_) | Token::Not) => {}
            Token::Comma => return Err(SelectorError::DanglingComma),
            other => return Err(SelectorError::MissingComma(other.text().to_owned())),
        }
    }
    Ok(requirements)
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Token<'a> {
    /// A key, a value, or `in` and `notin`, which may be either as well.
    Word(&'a str),
    Comma,
    Open,
    Close,
    Not,
    Equal,
    NotEqual,
    Greater,
    Less,
    End,
}

impl<'a> Token<'a> {
    /// Punctuation. Longer tokens come first, because the first match wins.
    const PUNCTUATION: [(&'static str, Self); 9] = [
        ("==", Self::Equal),
        ("!=", Self::NotEqual),
        ("=", Self::Equal),
        ("!", Self::Not),
        (">", Self::Greater),
        ("<", Self::Less),
        (",", Self::Comma),
        ("(", Self::Open),
        (")", Self::Close),
    ];

    fn text(self) -> &'a str {
        match self {
            Self::Word(word) => word,
            Self::End => "",
            other => Self::PUNCTUATION.iter().rfind(|(_, token)| *token == other).map_or("", |(text, _)| *text),
        }
    }
}

fn scan(text: &str) -> Result<Vec<Token<'_>>, SelectorError> {
    let is_space = |letter: char| matches!(letter, ' ' | '\t' | '\r' | '\n');
    let ends_word = |letter: char| is_space(letter) || "=!(),><".contains(letter);
    if text.contains('\0') {
        return Err(SelectorError::Nul);
    }
    let (mut tokens, mut rest) = (Vec::new(), text.trim_start_matches(is_space));
    while !rest.is_empty() {
        let mark = Token::PUNCTUATION.iter().find(|(mark, _)| rest.starts_with(mark));
        let (token, length) = mark.map_or_else(
            || {
                let end = rest.find(ends_word).unwrap_or(rest.len());
                (Token::Word(&rest[..end]), end)
            },
            |(mark, token)| (*token, mark.len()),
        );
        tokens.push(token);
        rest = rest[length..].trim_start_matches(is_space);
    }
    tokens.push(Token::End);
    Ok(tokens)
}

struct Parser<'a> {
    /// Ends with [`Token::End`].
    tokens: Vec<Token<'a>>,
    next: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.next).copied().unwrap_or(Token::End)
    }

    fn take(&mut self) -> Token<'a> {
        let token = self.peek();
        self.next += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let is_negated = self.peek() == Token::Not;
        if is_negated {
            self.next += 1;
        }
        let key = match self.take() {
            Token::Word(word) => label_key(word)?,
            other => return Err(SelectorError::InvalidKey(other.text().to_owned())),
        };
        if is_negated {
            return Ok(Requirement { key, operator: Operator::DoesNotExist });
        }
        let operator = match self.peek() {
            Token::End | Token::Comma => Operator::Exists,
            _ => self.operator(&key)?,
        };
        Ok(Requirement { key, operator })
    }

    fn operator(&mut self, key: &str) -> Result<Operator, SelectorError> {
        match self.take() {
            Token::Equal => Ok(Operator::In([self.value()?].into())),
            Token::NotEqual => Ok(Operator::NotIn([self.value()?].into())),
            Token::Greater => self.number(key).map(Operator::Greater),
            Token::Less => self.number(key).map(Operator::Less),
            Token::Word("in") => self.values(key).map(Operator::In),
            Token::Word("notin") => self.values(key).map(Operator::NotIn),
            other => Err(SelectorError::UnknownOperator { key: key.to_owned(), found: other.text().to_owned() }),
        }
    }

    /// Parses the value after `=`, `!=`, `>` or `<`. It may be empty.
    fn value(&mut self) -> Result<String, SelectorError> {
        match self.peek() {
            Token::End | Token::Comma => Ok(String::new()),
            Token::Word(word) => {
                self.next += 1;
                label_value(word)
            }
            other => Err(SelectorError::InvalidValue(other.text().to_owned())),
        }
    }

    fn number(&mut self, key: &str) -> Result<i64, SelectorError> {
        let value = self.value()?;
        value.parse().map_err(|_| SelectorError::NotANumber { key: key.to_owned(), found: value })
    }

    /// Parses values in parentheses. Each of them may be empty.
    fn values(&mut self, key: &str) -> Result<BTreeSet<String>, SelectorError> {
        if self.take() != Token::Open {
            return Err(SelectorError::MissingValues(key.to_owned()));
        }
        let mut values = BTreeSet::new();
        let mut last = String::new();
        let mut is_filled = false;
        loop {
            match self.take() {
                Token::Word(word) if !is_filled => {
                    last = label_value(word)?;
                    is_filled = true;
                }
                Token::Comma => {
                    values.insert(std::mem::take(&mut last));
                    is_filled = false;
                }
                Token::Close => {
                    values.insert(last);
                    return Ok(values);
                }
                Token::End => return Err(SelectorError::UnclosedParenthesis(key.to_owned())),
                other => return Err(SelectorError::InvalidValue(other.text().to_owned())),
            }
        }
    }
}

fn label_key(text: &str) -> Result<String, SelectorError> {
    if syntax::is_label_key(text) { Ok(text.to_owned()) } else { Err(SelectorError::InvalidKey(text.to_owned())) }
}

fn label_value(text: &str) -> Result<String, SelectorError> {
    if syntax::is_label_value(text) { Ok(text.to_owned()) } else { Err(SelectorError::InvalidValue(text.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn holds(selector: &str, value: Option<&str>) -> bool {
        let requirements = parse(selector).unwrap_or_else(|error| panic!("{selector}: {error}"));
        requirements.iter().all(|requirement| requirement.key == "k" && requirement.operator.holds(value))
    }

    /// Selectors that kube-apiserver accepts, with values that they match and values that they do not match.
    #[rstest]
    #[case("", &[None, Some("a")], &[])]
    #[case(" \t\r\n", &[None, Some("a")], &[])]
    #[case("k", &[Some(""), Some("a")], &[None])]
    #[case("! k", &[None], &[Some("")])]
    #[case(" k\t= \n a ", &[Some("a")], &[None, Some("A")])]
    #[case("k==a", &[Some("a")], &[None])]
    #[case("k=", &[Some("")], &[None, Some("a")])]
    #[case("k==,k", &[Some("")], &[None, Some("a")])]
    #[case("k!=a", &[None, Some("")], &[Some("a")])]
    #[case("k!=", &[None, Some("a")], &[Some("")])]
    #[case("k>3", &[Some("4"), Some("10"), Some("0004")], &[None, Some("3"), Some("a"), Some("")])]
    #[case("k < 9,k>007", &[Some("8")], &[Some("7"), Some("9"), Some("8.0")])]
    #[case("k>9223372036854775806", &[Some("9223372036854775807")], &[Some("9223372036854775808")])]
    #[case("k in (a,b)", &[Some("a"), Some("b")], &[None, Some("")])]
    #[case("k in(a)", &[Some("a")], &[None])]
    #[case("k in ()", &[Some("")], &[None, Some("a")])]
    #[case("k in (,a)", &[Some(""), Some("a")], &[None])]
    #[case("k in (a,,b)", &[Some(""), Some("a"), Some("b")], &[None])]
    #[case("k in (a,)", &[Some(""), Some("a")], &[None])]
    #[case("k notin ()", &[None, Some("a")], &[Some("")])]
    #[case("k in (in,notin)", &[Some("in"), Some("notin")], &[None])]
    #[case("k=in", &[Some("in")], &[None])]
    fn case_c2_what_kubernetes_accepts(
        #[case] selector: &str,
        #[case] matching: &[Option<&str>],
        #[case] others: &[Option<&str>],
    ) {
        for value in matching {
            assert!(holds(selector, *value), "{selector:?} {value:?}");
        }
        for value in others {
            assert!(!holds(selector, *value), "{selector:?} {value:?}");
        }
    }

    #[rstest]
    #[case("k,")]
    #[case(",k")]
    #[case("k,,k")]
    #[case("=a")]
    #[case("!")]
    #[case("!!k")]
    #[case("!k=a")]
    #[case("k===a")]
    #[case("k=!a")]
    #[case("k=a b")]
    #[case("k a")]
    #[case("k in")]
    #[case("k in a")]
    #[case("k in (a")]
    #[case("k in (a b)")]
    #[case("k in (a) b")]
    #[case("k in ((a))")]
    #[case("k in (a=b)")]
    #[case("k near (a)")]
    #[case("k()")]
    #[case("k>")]
    #[case("k>a")]
    #[case("k>1.5")]
    #[case("k>-1")]
    #[case("k>+1")]
    #[case("k>9223372036854775808")]
    #[case("k>=3")]
    #[case("k='a'")]
    #[case("k=\"a\"")]
    #[case("k=ä")]
    #[case("k=-a")]
    #[case("-k")]
    #[case("a/b/k")]
    #[case("A/k")]
    #[case("/k")]
    #[case("a/")]
    #[case("\0k")]
    #[case("k\0")]
    fn case_c2_what_kubernetes_rejects(#[case] selector: &str) {
        assert!(parse(selector).is_err(), "{selector:?}");
    }

    #[test]
    fn case_c2_lengths_are_limited_as_in_kubernetes() {
        let (longest, longer) = ("a".repeat(63), "a".repeat(64));
        let (prefix, long_prefix) = ("a".repeat(253), "a".repeat(254));
        for good in [format!("{longest}={longest}"), format!("{prefix}/{longest}"), format!("k in ({longest})")] {
            assert!(parse(&good).is_ok(), "{good}");
        }
        for bad in [longer.clone(), format!("k={longer}"), format!("{long_prefix}/k"), format!("k notin ({longer})")] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn operator_words_are_also_valid_keys() {
        let keys = |text: &str| parse(text).unwrap().into_iter().map(|requirement| requirement.key).collect::<Vec<_>>();
        assert_eq!(keys("in,notin in (in),!in"), ["in", "notin", "in"]);
    }
}
