//! Index that answers list, filter and sort queries.
//!
//! ```text
//!  User, Group ─▶ Record ─▶ Table ─(snapshot per change)─▶ View ─▶ select(Query) ─▶ records of a page, total
//!                            │ orders: ids by value, one per sortable field
//!                            │ postings: value ─▶ ids, for fields with few values or several per record
//!                            │ grams: three bytes of text ─▶ ids, for fields that are searched for text
//!                            └ log of changes ─▶ watches; undone in reverse ─▶ table of an earlier revision
//! ```
//!
//! All data structures are persistent: a snapshot shares unchanged parts with the next one. Readers can hold a snapshot
//! for any length of time, and never wait for the writer.

pub mod dialect;
pub mod field;
mod grams;
mod posting;
pub mod query;
pub mod record;
pub mod select;
pub mod selector;
pub mod sorted;
pub mod table;
pub mod view;
mod walk;

#[cfg(test)]
mod tests;
