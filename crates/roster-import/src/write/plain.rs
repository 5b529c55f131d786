//! Lines with colons: htpasswd and `/etc/passwd`.

use std::io::{self, Write};

use super::record::{Record, Writer};
use crate::rules::Kind;

/// Number of the first person. Roster has no numbers; these hold for one file.
const FIRST: u32 = 10_000;

pub(super) struct Htpasswd<W>(W);

impl<W: Write> Htpasswd<W> {
    pub(super) fn new(out: W) -> Self {
        Self(out)
    }
}

impl<W: Write> Writer for Htpasswd<W> {
    /// People without a hash are left out: a line without one lets nobody in, and some servers everybody.
    fn record(&mut self, record: Record<'_>) -> io::Result<()> {
        match record.hash.filter(|_| record.kind == Kind::User) {
            Some(hash) => writeln!(self.0, "{}:{hash}", record.username()),
            None => Ok(()),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

pub(super) struct Passwd<W> {
    out: W,
    next: u32,
}

impl<W: Write> Passwd<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, next: FIRST }
    }
}

impl<W: Write> Writer for Passwd<W> {
    fn record(&mut self, record: Record<'_>) -> io::Result<()> {
        if record.kind == Kind::Group {
            return Ok(());
        }
        let number = self.next;
        self.next += 1;
        // Commas and colons separate fields.
        let gecos = record.spec("displayName").replace([':', ','], " ");
        let shell = match record.spec("preferredShell") {
            "" => String::new(),
            path if path.starts_with('/') => path.to_owned(),
            name => format!("/bin/{name}"),
        };
        let lock = if matches!(record.spec("state"), "Disabled" | "Banned") { "!" } else { "" };
        let hash = record.hash.unwrap_or("*");
        let username = record.username();
        writeln!(self.out, "{username}:{lock}{hash}:{number}:{number}:{gecos}:/home/{username}:{shell}")
    }

    fn end(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
