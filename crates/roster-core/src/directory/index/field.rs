//! Fields to filter and sort by, and the encoding of their values. Encoded values sort bytewise in value order.

use jiff::Timestamp;
use unicode_case_mapping::case_folded;
use unicode_normalization::UnicodeNormalization;

use crate::quota::amount::Amount;

/// Type of a field's values.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FieldKind {
    /// Text, compared in its [folded](fold) form.
    Text,
    /// Exactly one of these words, in this sort order.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// An integer.
    Number,
    /// A Kubernetes quantity (`500m`, `100Gi`), with a precision of one thousandth.
    Quantity,
    /// An instant, with a precision of one second.
    Time,
}

/// Which part of a value searches usually specify.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SearchStyle {
    /// The whole value or its beginning.
    Beginning,
    /// Any part, such as a word of a name.
    Anywhere,
}

/// Where the values of a text field have spaces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spaces {
    /// Nowhere.
    Never,
    /// Anywhere but at the beginning.
    BetweenWords,
}

/// A field of a resource that can be queried.
#[derive(Debug)]
pub struct Field {
    /// Name in `filterBy` and `sortBy`.
    pub name: &'static str,
    /// Path in the object, which is also its name in a field selector.
    pub path: &'static str,
    /// Type of the values.
    pub kind: FieldKind,
    /// Whether a record may have several values; sorting uses the first.
    pub is_many: bool,
    /// Whether records are also indexed by value, for fields with few distinct values or with several per record.
    pub has_postings: bool,
    /// Whether `sortBy` accepts the field.
    pub is_sortable: bool,
    /// Which part of its values searches usually specify.
    pub search_style: SearchStyle,
    /// Where its values have spaces.
    pub spaces: Spaces,
}

impl Field {
    /// Declares a sortable field with one value, which differs between records.
    pub const fn one(name: &'static str, path: &'static str, kind: FieldKind) -> Self {
        Self {
            name,
            path,
            kind,
            is_many: false,
            has_postings: false,
            is_sortable: true,
            search_style: SearchStyle::Beginning,
            spaces: Spaces::Never,
        }
    }

    /// Declares a sortable field with one value that many records share.
    pub const fn shared(name: &'static str, path: &'static str, kind: FieldKind) -> Self {
        Self { has_postings: true, ..Self::one(name, path, kind) }
    }

    /// Declares a text field with several values.
    pub const fn many(name: &'static str, path: &'static str, is_sortable: bool) -> Self {
        Self { is_many: true, has_postings: true, is_sortable, ..Self::one(name, path, FieldKind::Text) }
    }

    /// Declares that values may contain spaces.
    #[must_use]
    pub const fn with_spaces(self) -> Self {
        Self { spaces: Spaces::BetweenWords, ..self }
    }

    /// Makes the field searchable for text anywhere in its values.
    #[must_use]
    pub const fn searched(self) -> Self {
        Self { search_style: SearchStyle::Anywhere, ..self }
    }
}

/// Separator between the values of a field in a record. Values never contain it.
pub const SEPARATOR: u8 = 0;

/// Returns the text in the form in which it is compared: with simple case folding, in Normalization Form C, and without
/// the separator. Texts that differ only in case, or in whether letters are composed, are equal.
///
/// Claims on usernames and emails do not depend on this, because identifiers are ASCII.
pub fn fold(text: &str) -> Vec<u8> {
    // Fast path for most texts.
    if text.is_ascii() {
        return text.bytes().filter(|byte| *byte != SEPARATOR).map(|byte| byte.to_ascii_lowercase()).collect();
    }
    // Decomposed first, as the Unicode Standard defines for canonical caseless matching (D145), because folding a
    // composed letter may differ from folding its parts.
    let folded = text.nfd().filter(|letter| *letter != char::from(SEPARATOR)).map(fold_letter);
    folded.nfc().collect::<String>().into_bytes()
}

fn fold_letter(letter: char) -> char {
    case_folded(letter).and_then(|folded| char::from_u32(folded.get())).unwrap_or(letter)
}

/// Encodes a number so that byte order is numeric order. The encoding may contain the separator byte, which is safe
/// because fields of this kind have a single value.
pub fn number(value: i64) -> [u8; 8] {
    (value.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

/// Encodes a quantity so that byte order is numeric order: in thousandths, up to about 9 × 10^15.
pub fn quantity(value: Amount) -> [u8; 8] {
    number(i64::try_from(value.nanos() / 1_000_000).unwrap_or(i64::MAX))
}

/// Encodes an instant so that byte order is time order.
pub fn time(value: Timestamp) -> [u8; 8] {
    number(value.as_second())
}

/// A value that a field cannot have.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ValueError {
    /// The text contains the separator.
    #[error("must not contain NUL")]
    Nul,
    /// The word is none of the allowed ones.
    #[error("must be one of {}", .0.join(", "))]
    NotAllowed(&'static [&'static str]),
    /// Not a flag.
    #[error("must be true or false")]
    NotAFlag,
    /// Not a number, or out of range.
    #[error("must be a whole number from {} to {}", i64::MIN, i64::MAX)]
    NotANumber,
    /// Not a quantity.
    #[error("must be a quantity, such as 5, 500m or 100Gi")]
    NotAQuantity,
    /// Not a time.
    #[error("must be a time in RFC 3339, in whole seconds: 2027-01-31T08:00:00Z")]
    NotATime,
}

impl FieldKind {
    /// Encodes a value written in a query.
    ///
    /// # Errors
    /// If a field of this kind cannot have the value.
    pub fn read(self, text: &str) -> Result<Vec<u8>, ValueError> {
        match self {
            Self::Text if text.contains(char::from(SEPARATOR)) => Err(ValueError::Nul),
            Self::Text => Ok(fold(text)),
            Self::Choice(allowed) => match (1_u8..).zip(allowed).find(|(_, word)| **word == text) {
                Some((position, _)) => Ok(vec![position]),
                None => Err(ValueError::NotAllowed(allowed)),
            },
            Self::Flag if text == "true" || text == "false" => Ok(text.as_bytes().to_vec()),
            Self::Flag => Err(ValueError::NotAFlag),
            Self::Number => text.parse().map(|value| number(value).to_vec()).map_err(|_| ValueError::NotANumber),
            Self::Quantity => Amount::parse(text).map(|value| quantity(value).to_vec()).ok_or(ValueError::NotAQuantity),
            Self::Time => {
                let value = text.parse().ok().filter(|value: &Timestamp| value.subsec_nanosecond() == 0);
                value.map(|value| time(value).to_vec()).ok_or(ValueError::NotATime)
            }
        }
    }

    /// Returns whether `lt:` and the other comparisons apply to this type.
    pub const fn is_ordered(self) -> bool {
        matches!(self, Self::Text | Self::Number | Self::Quantity | Self::Time)
    }

    /// Returns the name of this type for messages.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Choice(_) => "a choice",
            Self::Flag => "a flag",
            Self::Number => "a number",
            Self::Quantity => "a quantity",
            Self::Time => "a time",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    proptest! {
        #[test]
        fn encoded_bytes_sort_like_numbers(a: i64, b: i64) {
            prop_assert_eq!(number(a).cmp(&number(b)), a.cmp(&b));
        }
    }

    /// Texts that look the same to people, and texts that do not.
    #[rstest]
    #[case::final_sigma("ΟΔΥΣΣΕΥΣ", "οδυσσευς", true)]
    #[case::lower_sigmas("οδυσσευς", "οδυσσευσ", true)]
    #[case::decomposed("Jose\u{301}", "JOSÉ", true)]
    #[case::decomposed_twice("Tha\u{323}\u{302}o", "THẬO", true)]
    #[case::order_of_marks("a\u{302}\u{323}", "ậ", true)]
    #[case::hangul("\u{1112}\u{1161}\u{11ab}", "한", true)]
    #[case::accent_of_capitals("Όσιος ΟΔΥΣΣΕΎΣ", "όσιοσ οδυσσεύς", true)]
    #[case::iota_below("ᾳ", "\u{3b1}\u{345}", true)]
    #[case::iota_of_its_own("Α\u{345}", "αι", true)]
    #[case::sharp_s("STRAẞE", "straße", true)]
    #[case::sharp_s_is_one_letter("strasse", "straße", false)]
    #[case::kelvin("\u{212a}arl", "karl", true)]
    #[case::angstrom("\u{212b}sa", "åsa", true)]
    #[case::dz("Ǆ", "ǅ", true)]
    #[case::cherokee("Ꭰ", "ꭰ", true)]
    #[case::georgian("ᲐᲜᲐ", "ანა", true)]
    #[case::marks_count("josé", "jose", false)]
    #[case::dotted("İ", "i", false)]
    fn case_c8_texts_that_look_the_same_are_equal(#[case] a: &str, #[case] b: &str, #[case] is_same: bool) {
        assert_eq!(fold(a) == fold(b), is_same);
    }

    proptest! {
        #[test]
        fn case_c8_folding_ignores_composition_and_is_stable(text in r"[\PC\n\u{300}-\u{345}\u{370}-\u{3ff}\u{1f00}-\u{1fff}]{0,12}") {
            let folded = String::from_utf8(fold(&text)).unwrap();
            prop_assert_eq!(fold(&folded), folded.as_bytes());
            prop_assert_eq!(fold(&text.nfd().collect::<String>()), folded.as_bytes());
            prop_assert_eq!(fold(&text.nfc().collect::<String>()), folded.as_bytes());
        }
    }

    #[test]
    fn errors_say_which_values_are_allowed() {
        assert!(
            FieldKind::Choice(&["Active", "Banned"]).read("active").unwrap_err().to_string().contains("Active, Banned")
        );
        assert!(FieldKind::Time.read("yesterday").unwrap_err().to_string().contains("RFC 3339"));
        assert!(FieldKind::Flag.read("yes").is_err() && FieldKind::Number.read("1.5").is_err());
        assert!(FieldKind::Quantity.read("much").unwrap_err().to_string().contains("500m"));
        assert!(FieldKind::Quantity.read("1Gi").unwrap() > FieldKind::Quantity.read("1G").unwrap());
        assert_eq!(FieldKind::Text.read("Jäne").unwrap(), "jäne".as_bytes());
        assert!(FieldKind::Text.read("\0").is_err() && FieldKind::Time.read("2027-01-31T08:00:00.5Z").is_err());
    }
}
